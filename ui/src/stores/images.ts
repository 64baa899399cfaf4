import * as api from "../api/images";
import * as system from "../api/system";
import type { ImageDetails } from "../api/types";
import { Resource } from "./resource";

/** All images that have a name or that nothing else is built on. */
export const images = new Resource({
  load: api.list,
  refreshOn: (event) => event.Type === "image" || (event.Type === "container" && /^(create|destroy)$/.test(event.Action)),
});

/** Bytes of all layers, each counted once. */
export const layersSize = new Resource({
  load: () => system.imageUsage().then((usage) => usage.LayersSize),
  refreshOn: (event) => event.Type === "image" && !/^(tag|untag|save)$/.test(event.Action),
});

/** One image, in full. A name may come to lead to another. */
export const image = (id: string): Resource<ImageDetails> =>
  new Resource({
    load: () => api.inspect(id),
    refreshOn: (event) => event.Type === "image" && event.Action !== "save",
  });
