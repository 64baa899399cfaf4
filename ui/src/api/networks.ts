import { at, call, callJson } from "./engine";
import type { Network } from "./types";

/** Body of `POST /networks/create`, as far as the app sends it. */
export interface CreateNetwork {
  Name: string;
  Driver: string;
  Internal: boolean;
  Attachable: boolean;
  EnableIPv4?: boolean;
  EnableIPv6: boolean;
  IPAM?: { Driver: string; Config: { Subnet?: string; Gateway?: string; IPRange?: string }[] };
  Options?: Record<string, string>;
  Labels?: Record<string, string>;
}

/** What a container is to be given there; Docker chooses what is not said. */
export interface EndpointConfig {
  IPAMConfig?: { IPv4Address?: string; IPv6Address?: string };
  Aliases?: string[];
}

export const list = () => callJson<Network[]>("GET", "/networks");
export const inspect = (id: string) => callJson<Network>("GET", at`/networks/${id}`);
export const create = (options: CreateNetwork) => callJson<{ Id: string; Warning: string }>("POST", "/networks/create", { json: options });
export const remove = (id: string) => call("DELETE", at`/networks/${id}`);
/** Removes every network of the user's that no running container is on. Resolves with their names. */
export const prune = () => callJson<{ NetworksDeleted: string[] | null }>("POST", "/networks/prune").then((report) => report.NetworksDeleted ?? []);
export const connect = (id: string, container: string, endpoint?: EndpointConfig) =>
  call("POST", at`/networks/${id}/connect`, { json: { Container: container, ...(endpoint && { EndpointConfig: endpoint }) } });
export const disconnect = (id: string, container: string) => call("POST", at`/networks/${id}/disconnect`, { json: { Container: container } });
