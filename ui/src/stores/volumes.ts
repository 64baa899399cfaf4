import * as api from "../api/volumes";
import { Resource } from "./resource";

export const volumes = new Resource({
  load: api.list,
  refreshOn: (event) => event.Type === "volume" && !/^(mount|unmount)$/.test(event.Action),
});
