import * as containersApi from "../api/containers";
import * as api from "../api/networks";
import type { DockerEvent, Network } from "../api/types";
import { happenedTo, Resource } from "./resource";

export const networks = new Resource({
  load: api.list,
  refreshOn: (event) => event.Type === "network",
});

/** A container comes, goes, gets another name or place in a network. */
const moves = (event: DockerEvent): boolean =>
  event.Type === "network" || (event.Type === "container" && /^(create|start|die|destroy|rename|pause|unpause)$/.test(event.Action));

/** All containers as their places in networks are now: being connected is an event of the network alone. */
export const places = new Resource({
  load: containersApi.list,
  refreshOn: moves,
});

/** One network, in full. */
export const network = (id: string): Resource<Network> =>
  new Resource({
    load: () => api.inspect(id),
    refreshOn: (event) => (event.Type === "network" ? happenedTo(event, id) : moves(event)),
  });
