/** Files in containers: folders listed, files taken out and put in. */
import { BackendError, type EngineStream } from "../backend/backend";
import { backend } from "../backend/current";
import { at, call, withQuery } from "./engine";
import * as exec from "./exec";
import { TarReader } from "./tar";

export interface FileEntry {
  name: string;
  kind: "file" | "folder" | "link" | "other";
  size: number;
  mode: number;
  uid: number;
  gid: number;
  modified: number;
  target: string | null;
}

export interface Listing {
  entries: FileEntry[];
  /** The archive was left before its end: there may be more. */
  partial: boolean;
}

/** Of an archive no more is read to list a folder. */
export const ARCHIVE_LIMIT = 256 * 1024 * 1024;

/**
 * What stands in a folder. Docker has no call for it: a container that runs and has a shell is asked itself, which
 * takes milliseconds; otherwise the folder's archive is read, with all that is below it.
 */
export async function list(container: string, running: boolean, folder: string, progress: (bytes: number) => void, signal: AbortSignal): Promise<Listing> {
  if (running) {
    const entries = await askShell(container, folder);
    if (entries) return { entries, partial: false };
  }
  return readArchive(container, folder, progress, signal);
}

const SCRIPT = `cd -- "$1" || exit 2; stat -c '%f %s %Y %u %g %n' -- ./.* ./* 2>/dev/null; exit 0`;

/** Null where there is no shell or no `stat`. */
async function askShell(container: string, folder: string): Promise<FileEntry[] | null> {
  const answer = await exec.output(container, ["sh", "-c", SCRIPT, "sh", folder]).catch(() => null);
  if (answer === null || answer.code > 2) return null;
  if (answer.code !== 0) throw new BackendError("engine", answer.stderr.trim() || `${folder}: cannot be opened`);
  // `.` is always there: without it there was no `stat`.
  return answer.stdout.trim() === "" ? null : parseStat(answer.stdout);
}

const KINDS: Record<number, FileEntry["kind"]> = { 0o04: "folder", 0o10: "file", 0o12: "link" };

/** Lines of `mode(hex) size time uid gid ./name`; a name with a line's end goes on in the next line. */
export function parseStat(text: string): FileEntry[] {
  const entries: FileEntry[] = [];
  for (const line of text.replace(/\n$/, "").split("\n")) {
    const match = /^([0-9a-f]+) (\d+) (\d+) (\d+) (\d+) \.\/([^]*)$/.exec(line);
    if (!match) {
      const last = entries.at(-1);
      if (last) last.name += `\n${line}`;
      continue;
    }
    const [mode = 0, size = 0, time = 0, uid = 0, gid = 0] = match.slice(1, 6).map((field, index) => Number.parseInt(field, index === 0 ? 16 : 10));
    entries.push({ name: match[6] ?? "", kind: KINDS[mode >> 12] ?? "other", size, mode: mode & 0o7777, uid, gid, modified: time * 1000, target: null });
  }
  return entries.filter(({ name }) => name !== "." && name !== "..");
}

function readArchive(container: string, folder: string, progress: (bytes: number) => void, signal: AbortSignal): Promise<Listing> {
  return new Promise((resolve, reject) => {
    const entries: FileEntry[] = [];
    let base: string | null = null;
    const reader = new TarReader((entry) => {
      const name = entry.name.replace(/^(?:\.?\/)+/, "").replace(/\/+$/, "");
      // The first member is the folder itself.
      if (base === null) {
        base = name === "" ? "" : `${name}/`;
        return;
      }
      if (!name.startsWith(base)) return;
      const below = name.slice(base.length);
      if (below !== "" && !below.includes("/")) entries.push({ ...entry, name: below });
    });
    let read = 0;
    let stream: EngineStream | null = null;
    let over = false;
    const finish = (partial: boolean) => {
      if (over) return;
      over = true;
      stream?.close();
      resolve({ entries, partial });
    };
    const opened = backend.engineStream(
      { method: "GET", path: withQuery(at`/containers/${container}/archive`, { path: folder }) },
      {
        data(bytes) {
          if (over) return;
          reader.push(bytes);
          read += bytes.length;
          progress(read);
          if (read > ARCHIVE_LIMIT) finish(true);
        },
        end: (error) => (error ? reject(error) : finish(false)),
      },
    );
    opened.then((open) => (over ? open.close() : (stream = open)), reject);
    signal.addEventListener("abort", () => {
      over = true;
      stream?.close();
      reject(new BackendError("cancelled", "Cancelled"));
    });
  });
}

/** What is there, or null. */
export async function stat(container: string, path: string): Promise<{ size: number } | null> {
  try {
    const answer = await call("HEAD", at`/containers/${container}/archive`, { query: { path } });
    const header = Object.entries(answer.headers).find(([name]) => name.toLowerCase() === "x-docker-container-path-stat")?.[1];
    return header === undefined ? null : (JSON.parse(atob(header)) as { size: number });
  } catch (error) {
    if (error instanceof BackendError && "status" in error && error.status === 404) return null;
    throw error;
  }
}

/** To a file of the host: a file as it is, a folder as a tar archive. */
export const download = (container: string, path: string, folder: boolean, to: string): Promise<number> =>
  backend.engineToFile({ method: "GET", path: withQuery(at`/containers/${container}/archive`, { path }), file: folder ? undefined : "tar" }, to);

export async function upload(container: string, folder: string, from: string): Promise<void> {
  const answer = await backend.engineFromFile(
    { method: "PUT", path: withQuery(at`/containers/${container}/archive`, { path: folder, noOverwriteDirNonDir: true }), file: "tar", headers: { "content-type": "application/x-tar" } },
    from,
  );
  if (answer.status >= 400) throw new BackendError("engine", new TextDecoder().decode(answer.body));
}
