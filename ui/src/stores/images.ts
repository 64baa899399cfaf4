import * as api from "../api/images";
import { Resource } from "./resource";

/** All images that have a name or that nothing else is built on. */
export const images = new Resource({
  load: api.list,
  refreshOn: (event) => event.Type === "image" || (event.Type === "container" && /^(create|destroy)$/.test(event.Action)),
});
