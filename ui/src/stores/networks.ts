import * as api from "../api/networks";
import { Resource } from "./resource";

export const networks = new Resource({
  load: api.list,
  refreshOn: (event) => event.Type === "network",
});
