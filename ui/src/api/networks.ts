import { at, call, callJson } from "./engine";
import type { Network } from "./types";

export const list = () => callJson<Network[]>("GET", "/networks");
export const inspect = (id: string) => callJson<Network>("GET", at`/networks/${id}`);
export const create = (options: { Name: string; Driver?: string; Internal?: boolean; EnableIPv6?: boolean }) =>
  callJson<{ Id: string }>("POST", "/networks/create", { json: options });
export const remove = (id: string) => call("DELETE", at`/networks/${id}`);
export const connect = (id: string, container: string) => call("POST", at`/networks/${id}/connect`, { json: { Container: container } });
export const disconnect = (id: string, container: string) => call("POST", at`/networks/${id}/disconnect`, { json: { Container: container } });
