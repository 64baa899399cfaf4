import * as api from "../api/containers";
import type { ContainerDetails } from "../api/types";
import { happenedTo, Resource } from "./resource";

/** All containers, running or not. Health checks run as execs; what they do changes nothing in a list. */
export const containers = new Resource({
  load: api.list,
  refreshOn: (event) => event.Type === "container" && !/^(exec_|top|attach|resize|archive|extract|copy|export)/.test(event.Action),
});

/** One container, in full, by what names it. */
export const container = (id: string): Resource<ContainerDetails> =>
  new Resource({
    load: () => api.inspect(id),
    refreshOn: (event) => event.Type === "container" && happenedTo(event, id) && !/^(exec_|top|attach|resize)/.test(event.Action),
  });
