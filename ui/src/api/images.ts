import { BackendError } from "../backend/backend";
import { backend } from "../backend/current";
import { accepted, at, call, callJson, callWithProgress, withQuery, type Progress } from "./engine";
import type { ImageDetails, ImageHistory, ImageSummary } from "./types";

export const list = () => callJson<ImageSummary[]>("GET", "/images/json", { query: { "shared-size": true } });
export const inspect = (name: string) => callJson<ImageDetails>("GET", at`/images/${name}/json`);
export const history = (name: string) => callJson<ImageHistory[]>("GET", at`/images/${name}/history`);
export const tag = (name: string, repo: string, tag: string) => call("POST", at`/images/${name}/tag`, { query: { repo, tag } });
export const remove = (name: string, options: { force: boolean }) =>
  callJson<{ Untagged?: string; Deleted?: string }[]>("DELETE", at`/images/${name}`, { query: options });
export const pull = (image: string, tag: string, progress: (step: Progress) => void, signal?: AbortSignal) =>
  callWithProgress("POST", "/images/create", { query: { fromImage: image, tag }, signal }, progress);
/** Removes images without a name, or (`all`) every image that no container uses. */
export const prune = (all: boolean) =>
  callJson<{ ImagesDeleted: { Untagged?: string; Deleted?: string }[] | null; SpaceReclaimed: number }>("POST", "/images/prune", { query: { filters: { dangling: [String(!all)] } } });

/** Writes images (names or ids) to a tar archive of the host, as `docker save` does. */
export const save = (names: readonly string[], path: string, progress: (bytes: number) => void, signal: AbortSignal): Promise<number> =>
  backend.engineToFile({ method: "GET", path: `/images/get?${names.map((name) => `names=${encodeURIComponent(name)}`).join("&")}` }, path, progress, signal);

/** Reads an archive of images. Resolves with what was loaded, in Docker's words. */
export async function load(path: string, progress: (bytes: number) => void, signal: AbortSignal): Promise<string[]> {
  const answer = await backend.engineFromFile({ method: "POST", path: "/images/load", headers: { "content-type": "application/x-tar" } }, path, progress, signal);
  return loaded(accepted(answer));
}

/** Makes an image of one layer from a tar archive of a root file system. Resolves with its id. */
export async function importFiles(path: string, name: { repository: string; tag: string } | null, progress: (bytes: number) => void, signal: AbortSignal): Promise<string> {
  const where = withQuery("/images/create", { fromSrc: "-", repo: name?.repository, tag: name?.tag });
  return imported(accepted(await backend.engineFromFile({ method: "POST", path: where, headers: { "content-type": "application/x-tar" } }, path, progress, signal)));
}

/** The last line that an import told: the id. */
export function imported(text: string): string {
  const steps = stepsOf(text);
  const id = steps.findLast(({ status }) => status?.startsWith("sha256:"))?.status;
  if (id === undefined) throw new BackendError("engine", `The engine did not say what it imported: ${text.trim() || "its answer is empty"}`);
  return id;
}

/** Lines of progress that were answered whole. The last may say what failed: the answer's status is 200. */
function stepsOf(text: string): Progress[] {
  const steps = text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => JSON.parse(line) as Progress);
  const failed = steps.find(({ error }) => error !== undefined);
  if (failed) throw new BackendError("engine", failed.errorDetail?.message ?? String(failed.error));
  return steps;
}

/** What a load told: a name or an id for each image. */
export const loaded = (text: string): string[] =>
  stepsOf(text).flatMap(({ stream }) => /^Loaded image(?: ID)?: (.+)$/.exec(stream?.trim() ?? "")?.[1] ?? []);
