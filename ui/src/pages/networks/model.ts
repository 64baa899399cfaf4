/** What is shown of networks, and who is on them: pure, so that it can be tested without a page. */
import { harmless } from "../../api/ansi";
import type { ContainerState, ContainerSummary, Network, Port } from "../../api/types";
import { nameOf as containerName, projectOf as projectOfContainer, shortName } from "../containers/model";

export type Filter = "all" | "own" | "unused";
export type SortColumn = "name" | "driver" | "containers";

/** A container that is on a network, or will be when it starts. */
export interface Member {
  id: string;
  name: string;
  /** Without the project that is the network's, too. */
  shortName: string;
  state: ContainerState;
  /** It has a place there now; otherwise it is only set to use the network. */
  up: boolean;
  /** Without the prefix; empty where it has none. */
  ipv4: string;
  ipv6: string;
  mac: string;
  aliases: string[];
  /** Published by way of this network. */
  ports: readonly Port[];
}

export interface NetworkRow {
  network: Network;
  members: Member[];
}

export const isPredefined = ({ Name }: Network): boolean => Name === "bridge" || Name === "host" || Name === "none";

export const nameOf = (network: Network): string => harmless(network.Name);
export const projectOf = (network: Network): string | null => network.Labels?.["com.docker.compose.project"] ?? null;

export const subnetsOf = (network: Network): string[] => (network.IPAM.Config ?? []).flatMap(({ Subnet }) => (Subnet ? [Subnet] : []));
export const gatewaysOf = (network: Network): string[] => (network.IPAM.Config ?? []).flatMap(({ Gateway }) => (Gateway ? [Gateway.replace(/\/\d+$/, "")] : []));

const ACTIVE: ReadonlySet<ContainerState> = new Set(["running", "paused", "restarting"]);
const byName = new Intl.Collator("en", { numeric: true }).compare;

/** Who is on it: those that run first, in the order of their addresses' places. */
export function membersOf(network: Network, containers: readonly ContainerSummary[]): Member[] {
  const members: Member[] = [];
  const project = projectOf(network);
  const publishes = network.Driver === "bridge" && !network.Internal;
  for (const container of containers) {
    for (const [name, place] of Object.entries(container.NetworkSettings?.Networks ?? {})) {
      // A container that never ran has the network's name only.
      if (place.NetworkID ? place.NetworkID !== network.Id : name !== network.Name) continue;
      members.push({
        id: container.Id,
        name: containerName(container),
        shortName: project !== null && projectOfContainer(container) === project ? shortName(container) : containerName(container),
        state: container.State,
        up: ACTIVE.has(container.State),
        ipv4: place.IPAddress,
        ipv6: place.GlobalIPv6Address ?? "",
        mac: place.MacAddress ?? "",
        aliases: place.Aliases ?? [],
        ports: publishes ? container.Ports : [],
      });
    }
  }
  return members.sort((a, b) => Number(b.up) - Number(a.up) || byName(a.name, b.name));
}

/** What `docker network prune` takes: nobody is on it now, and it is not one of Docker's own. */
export const isUnused = ({ network, members }: NetworkRow): boolean => !isPredefined(network) && !members.some(({ up }) => up);

function passes(row: NetworkRow, filter: Filter, search: string): boolean {
  if (filter === "own" && isPredefined(row.network)) return false;
  if (filter === "unused" && !isUnused(row)) return false;
  if (search.trim() === "") return true;
  const { network, members } = row;
  const all = [network.Name, network.Driver, network.Id.slice(0, 12), projectOf(network) ?? "", ...subnetsOf(network), ...members.flatMap(({ name, ipv4, ipv6 }) => [name, ipv4, ipv6])]
    .join("\n")
    .toLowerCase();
  return search
    .trim()
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

export function rowsOf(networks: readonly Network[], containers: readonly ContainerSummary[]): NetworkRow[] {
  return networks.map((network) => ({ network, members: membersOf(network, containers) }));
}

/** The user's own first, Docker's after them. */
export function shown(rows: readonly NetworkRow[], { filter, search, sort }: { filter: Filter; search: string; sort: { column: SortColumn; down: boolean } }): NetworkRow[] {
  const sign = sort.down ? -1 : 1;
  const key = {
    name: () => 0,
    driver: (a: NetworkRow, b: NetworkRow) => byName(a.network.Driver, b.network.Driver),
    containers: (a: NetworkRow, b: NetworkRow) => b.members.length - a.members.length,
  }[sort.column];
  return rows
    .filter((row) => passes(row, filter, search))
    .sort((a, b) => Number(isPredefined(a.network)) - Number(isPredefined(b.network)) || sign * (key(a, b) || byName(a.network.Name, b.network.Name)));
}
