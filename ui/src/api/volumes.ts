import { BackendError } from "../backend/backend";
import { backend } from "../backend/current";
import { accepted, at, call, callJson, withQuery } from "./engine";
import type { FileEntry } from "./files";
import type { Volume } from "./types";

export const list = () => callJson<{ Volumes: Volume[] | null }>("GET", "/volumes").then((answer) => answer.Volumes ?? []);
export const inspect = (name: string) => callJson<Volume>("GET", at`/volumes/${name}`);
export const create = (options: { Name: string; Labels?: Record<string, string>; DriverOpts?: Record<string, string> }) =>
  callJson<Volume>("POST", "/volumes/create", { json: options });
export const remove = (name: string) => call("DELETE", at`/volumes/${name}`);
/** Removes anonymous volumes that no container has, or (`all`) every such volume. */
export const prune = (all: boolean) =>
  callJson<{ VolumesDeleted: string[] | null; SpaceReclaimed: number }>("POST", "/volumes/prune", { query: { filters: all ? { all: ["true"] } : undefined } });

/** A line of Coracle's own `GET /volumes/{name}/files`. */
interface File {
  Name: string;
  Kind: "file" | "directory" | "link" | "other";
  Size: number;
  Mode: number;
  Uid: number;
  Gid: number;
  Modified: string;
  LinkTarget: string;
}

/** What stands in a folder of a volume. */
export async function files(name: string, path: string, signal?: AbortSignal): Promise<FileEntry[]> {
  const found = await callJson<File[]>("GET", at`/volumes/${name}/files`, { query: { path }, signal });
  return found.map((file) => ({
    name: file.Name,
    kind: file.Kind === "directory" ? "folder" : file.Kind,
    size: file.Size,
    mode: file.Mode,
    uid: file.Uid,
    gid: file.Gid,
    modified: Date.parse(file.Modified),
    target: file.Kind === "link" ? file.LinkTarget : null,
  }));
}

const archive = (name: string, path: string) => withQuery(at`/volumes/${name}/archive`, { path });

/** The size of what is there, or null where nothing is. */
export async function stat(name: string, path: string): Promise<{ size: number } | null> {
  try {
    const answer = await call("HEAD", archive(name, path));
    const header = Object.entries(answer.headers).find(([key]) => key.toLowerCase() === "x-docker-container-path-stat")?.[1];
    return header === undefined ? null : (JSON.parse(atob(header)) as { size: number });
  } catch (error) {
    if (error instanceof BackendError && "status" in error && error.status === 404) return null;
    throw error;
  }
}

type Moved = (bytes: number) => void;

/** To a file of the host: a file as it is (`file`), a folder, or the whole volume, as a tar archive. */
export const download = (name: string, path: string, kind: "file" | "folder", to: string, progress?: Moved, signal?: AbortSignal): Promise<number> =>
  backend.engineToFile({ method: "GET", path: archive(name, path), file: kind === "file" ? "tar" : undefined }, to, progress, signal);

async function put(name: string, folder: string, from: string, file: "tar" | undefined, progress?: Moved, signal?: AbortSignal): Promise<void> {
  accepted(await backend.engineFromFile({ method: "PUT", path: archive(name, folder), file, headers: { "content-type": "application/x-tar" } }, from, progress, signal));
}

/** A file of the host into a folder of a volume. */
export const upload = (name: string, folder: string, from: string): Promise<void> => put(name, folder, from, "tar");
/** Unpacks a tar archive of the host, compressed or not, into a volume. Files of the same name are replaced, others stay. */
export const restore = (name: string, from: string, progress: Moved, signal: AbortSignal): Promise<void> => put(name, "/", from, undefined, progress, signal);
