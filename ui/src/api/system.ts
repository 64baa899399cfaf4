import type { BackendError, EngineStream } from "../backend/backend";
import { callJson, streamJson } from "./engine";
import type { DiskUsage, DockerEvent, EngineVersion } from "./types";

export const version = () => callJson<EngineVersion>("GET", "/version");
export const diskUsage = () => callJson<DiskUsage>("GET", "/system/df");
/** Of images alone. */
export const imageUsage = () => callJson<DiskUsage>("GET", "/system/df", { query: { type: "image" } });
/** Of volumes alone: the engine walks through their files, which can take a while. */
export const volumeUsage = () => callJson<DiskUsage>("GET", "/system/df", { query: { type: "volume" } }).then((usage) => usage.Volumes ?? []);
export const events = (listener: { value(event: DockerEvent): void; end(error?: BackendError): void }): Promise<EngineStream> =>
  streamJson<DockerEvent>("GET", "/events", {}, listener);
