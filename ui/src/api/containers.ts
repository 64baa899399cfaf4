import type { EngineStream } from "../backend/backend";
import { backend } from "../backend/current";
import { at, call, callJson, streamJson, withQuery } from "./engine";
import type { StatsMessage } from "./stats";
import type { ContainerDetails, ContainerSummary, CreateRequest } from "./types";

export const list = () => callJson<ContainerSummary[]>("GET", "/containers/json", { query: { all: true } });
export const inspect = (id: string) => callJson<ContainerDetails>("GET", at`/containers/${id}/json`);
export const create = (name: string, request: CreateRequest) =>
  callJson<{ Id: string; Warnings: string[] | null }>("POST", "/containers/create", { query: { name: name || undefined }, json: request });
export const start = (id: string) => call("POST", at`/containers/${id}/start`);
export const stop = (id: string) => call("POST", at`/containers/${id}/stop`);
export const restart = (id: string) => call("POST", at`/containers/${id}/restart`);
export const pause = (id: string) => call("POST", at`/containers/${id}/pause`);
export const unpause = (id: string) => call("POST", at`/containers/${id}/unpause`);
export const kill = (id: string) => call("POST", at`/containers/${id}/kill`);
export const rename = (id: string, name: string) => call("POST", at`/containers/${id}/rename`, { query: { name } });
export const remove = (id: string, options: { force: boolean; volumes: boolean }) =>
  call("DELETE", at`/containers/${id}`, { query: { force: options.force, v: options.volumes } });

/** A measurement a second, until closed. */
export const stats = (id: string, listener: { value(message: StatsMessage): void; end(): void }): Promise<EngineStream> =>
  streamJson<StatsMessage>("GET", at`/containers/${id}/stats`, { query: { stream: true } }, listener);

/** What it wrote, in Docker's frames. `tail` lines from the end, then what is written from now on if `follow`. */
export function logs(
  id: string,
  options: { follow: boolean; tail: number | "all"; timestamps: boolean },
  listener: { data(bytes: Uint8Array): void; end(): void },
): Promise<EngineStream> {
  const path = withQuery(at`/containers/${id}/logs`, { stdout: true, stderr: true, ...options });
  return backend.engineStream({ method: "GET", path }, listener);
}
/** Removes all that do not run. */
export const prune = () => callJson<{ ContainersDeleted: string[] | null; SpaceReclaimed: number }>("POST", "/containers/prune");
