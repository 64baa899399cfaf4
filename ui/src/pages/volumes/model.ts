/** What the list of volumes shows, and in which order: pure, so that it can be tested without a page. */
import { harmless } from "../../api/ansi";
import type { ContainerSummary, Volume } from "../../api/types";

export type Filter = "all" | "used" | "unused" | "anonymous";
export type SortColumn = "name" | "driver" | "used" | "created" | "size";

export interface VolumeRow {
  volume: Volume;
  /** What it is called in the list; of an anonymous one, the beginning. */
  name: string;
  anonymous: boolean;
  /** It has options of `mount`: Docker neither measures it nor takes it in a clean-up. */
  mounted: boolean;
  /** Its files are elsewhere (a server, a folder): with it only the way to them is removed. */
  remote: boolean;
  project: string | null;
  /** Bytes; null while it is not known. */
  size: number | null;
  users: ContainerSummary[];
}

const ANONYMOUS = "com.docker.volume.anonymous";
const PROJECT = "com.docker.compose.project";

/** Docker marks them since 23; before, their name tells. */
export const isAnonymous = ({ Name, Labels }: Volume): boolean => Labels?.[ANONYMOUS] !== undefined || (/^[0-9a-f]{64}$/.test(Name) && Object.keys(Labels ?? {}).length === 0);

/** Which containers have which volume. */
export function usersByVolume(containers: readonly ContainerSummary[]): Map<string, ContainerSummary[]> {
  const users = new Map<string, ContainerSummary[]>();
  for (const container of containers) {
    // One may have a volume at several places.
    for (const name of new Set(container.Mounts.filter(({ Type }) => Type === "volume").map(({ Name }) => Name ?? ""))) {
      const present = users.get(name);
      if (present) present.push(container);
      else users.set(name, [container]);
    }
  }
  return users;
}

export const nameOf = (volume: Volume): string => (isAnonymous(volume) && /^[0-9a-f]{64}$/.test(volume.Name) ? volume.Name.slice(0, 12) : harmless(volume.Name));

export function row(volume: Volume, users: ContainerSummary[], sizes: ReadonlyMap<string, number> | undefined): VolumeRow {
  const size = sizes?.get(volume.Name) ?? -1;
  const options = volume.Options ?? {};
  return {
    volume,
    name: nameOf(volume),
    anonymous: isAnonymous(volume),
    mounted: Object.keys(options).length > 0,
    remote: options["device"] !== undefined && options["type"] !== "tmpfs",
    project: volume.Labels?.[PROJECT] ?? null,
    size: size < 0 ? null : size,
    users,
  };
}

function passes({ volume, anonymous, project, users }: VolumeRow, filter: Filter, search: string): boolean {
  if (filter === "used" && users.length === 0) return false;
  if (filter === "unused" && users.length > 0) return false;
  if (filter === "anonymous" && !anonymous) return false;
  if (search === "") return true;
  const all = [volume.Name, volume.Driver, project ?? "", ...users.map((user) => user.Names[0] ?? "")].join("\n").toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

const byName = new Intl.Collator("en", { numeric: true }).compare;

export function rows(
  volumes: readonly Volume[],
  containers: readonly ContainerSummary[],
  sizes: ReadonlyMap<string, number> | undefined,
  { filter, search, sort }: { filter: Filter; search: string; sort: { column: SortColumn; down: boolean } },
): VolumeRow[] {
  const users = usersByVolume(containers);
  const shown = volumes.map((volume) => row(volume, users.get(volume.Name) ?? [], sizes)).filter((one) => passes(one, filter, search));
  const sign = sort.down ? -1 : 1;
  const created = ({ volume }: VolumeRow) => Date.parse(volume.CreatedAt ?? "") || 0;
  const by: Record<SortColumn, (a: VolumeRow, b: VolumeRow) => number> = {
    // What nobody named stands at the end, whichever way.
    name: (a, b) => Number(a.anonymous) - Number(b.anonymous) || sign * byName(a.name, b.name),
    driver: (a, b) => sign * byName(a.volume.Driver, b.volume.Driver),
    used: (a, b) => sign * (b.users.length - a.users.length),
    created: (a, b) => sign * (created(b) - created(a)),
    size: (a, b) => sign * ((b.size ?? -1) - (a.size ?? -1)),
  };
  return shown.sort((a, b) => by[sort.column](a, b) || byName(a.name, b.name));
}

/** Those that a clean-up takes: no container has them, their files are here, and without `all` nobody named them. */
export const prunable = (rows: readonly VolumeRow[], all: boolean): VolumeRow[] => rows.filter((one) => one.users.length === 0 && !one.mounted && (all || one.anonymous));

/** Bytes of all; null while one is not known. */
export const sum = (rows: readonly VolumeRow[]): number | null => rows.reduce((sum: number | null, { size }) => (sum === null || size === null ? null : sum + size), 0);

/** What Docker takes as a volume's name. */
export const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;
