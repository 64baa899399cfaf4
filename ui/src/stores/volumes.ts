import * as system from "../api/system";
import * as api from "../api/volumes";
import type { Volume } from "../api/types";
import { Resource } from "./resource";

export const volumes = new Resource({
  load: api.list,
  refreshOn: (event) => event.Type === "volume" && !/^(mount|unmount)$/.test(event.Action),
});

/** Their sizes by name. The engine walks through all files for it: it is asked when something that counts has ended. */
export const volumeSizes = new Resource({
  load: () => system.volumeUsage().then((all) => new Map(all.map(({ Name, UsageData }) => [Name, UsageData?.Size ?? -1]))),
  refreshOn: (event) => (event.Type === "volume" && !/^mount$/.test(event.Action)) || (event.Type === "container" && /^(die|destroy)$/.test(event.Action)),
});

/** One volume. */
export const volume = (name: string): Resource<Volume> =>
  new Resource({
    load: () => api.inspect(name),
    refreshOn: (event) => event.Type === "volume" && event.Actor.ID === name && !/^(mount|unmount)$/.test(event.Action),
  });
