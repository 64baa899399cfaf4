import { BackendError } from "../backend/backend";
import { backend } from "../backend/current";
import { accepted, at, call, callJson, callWithProgress, type Progress } from "./engine";
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

/** What a load told: a name or an id for each image. What failed is in the lines, too: the answer's status is 200. */
export function loaded(text: string): string[] {
  const names: string[] = [];
  for (const line of text.split("\n")) {
    if (line.trim() === "") continue;
    const step = JSON.parse(line) as Progress;
    if (step.error !== undefined) throw new BackendError("engine", step.errorDetail?.message ?? step.error);
    const name = /^Loaded image(?: ID)?: (.+)$/.exec(step.stream?.trim() ?? "")?.[1];
    if (name !== undefined) names.push(name);
  }
  return names;
}
