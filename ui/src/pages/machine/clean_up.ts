/** What a clean-up and a reset remove, before they do: pure. */
import type { ContainerSummary, DiskUsage, ImageSummary, Network } from "../../api/types";
import { harmless } from "../../api/ansi";
import { nameOf } from "../containers/model";
import { isUnused, isPredefined, membersOf } from "../networks/model";

export const KINDS = ["containers", "images", "volumes", "networks"] as const;
export type Kind = (typeof KINDS)[number];

export interface Thing {
  id: string;
  name: string;
  /** Bytes; null where it is not known, or takes none. */
  size: number | null;
}

/** What the engine holds, and how large it is. */
export interface Holdings {
  disk: DiskUsage;
  networks: Network[];
}

type Sized = ContainerSummary & { SizeRw?: number };

const RUNS: ReadonlySet<ContainerSummary["State"]> = new Set(["running", "paused", "restarting", "removing"]);

export const imageName = (image: ImageSummary): string => harmless(image.RepoTags?.[0] ?? image.Id.replace(/^sha256:/, "").slice(0, 12));

const known = (size: number | undefined): number | null => (size === undefined || size < 0 ? null : size);

/**
 * What goes if the chosen kinds are cleaned up, as Docker's prunes take it, in this order: once stopped
 * containers are gone, nothing holds their images and volumes any more.
 */
export function unused({ disk, networks }: Holdings, chosen: ReadonlySet<Kind>): Record<Kind, Thing[]> & { imageList: ImageSummary[] } {
  const containers: Sized[] = disk.Containers ?? [];
  const stopped = containers.filter(({ State }) => !RUNS.has(State));
  const staying = chosen.has("containers") ? containers.filter(({ State }) => RUNS.has(State)) : containers;
  const usedImages = new Set(staying.map(({ ImageID }) => ImageID));
  const usedVolumes = new Set(staying.flatMap(({ Mounts }) => (Mounts ?? []).flatMap(({ Name }) => Name ?? [])));
  const imageList = (disk.Images ?? []).filter(({ Id }) => !usedImages.has(Id));
  return {
    containers: stopped.map((container) => ({ id: container.Id, name: nameOf(container), size: known(container.SizeRw) })),
    images: imageList.map((image) => ({ id: image.Id, name: imageName(image), size: image.Size })),
    imageList,
    volumes: (disk.Volumes ?? [])
      // One that is mounted from elsewhere (NFS, a device) is not Docker's to prune.
      .filter(({ Name, Options }) => !usedVolumes.has(Name) && Object.keys(Options ?? {}).length === 0)
      .map(({ Name, UsageData }) => ({ id: Name, name: harmless(Name), size: known(UsageData?.Size) })),
    networks: networks
      .filter((network) => isUnused({ network, members: membersOf(network, containers) }))
      .map(({ Id, Name }) => ({ id: Id, name: harmless(Name), size: null })),
  };
}

export interface Sum {
  bytes: number;
  /** It is this; otherwise at least this. */
  exact: boolean;
}

/** Of things whose sizes do not overlap: containers' own layers, volumes. */
export const sumOf = (things: readonly Thing[]): Sum => ({
  bytes: things.reduce((sum, { size }) => sum + (size ?? 0), 0),
  exact: things.every(({ size }) => size !== null),
});

export const together = (sums: readonly Sum[]): Sum => ({ bytes: sums.reduce((sum, { bytes }) => sum + bytes, 0), exact: sums.every(({ exact }) => exact) });

export interface Everything {
  containers: { all: number; running: number; bytes: number };
  images: { all: number; bytes: number };
  volumes: { all: number; bytes: number };
  networks: number;
  bytes: number;
}

/** All that a reset deletes. Layers are counted once, however many images stand on them. */
export function everything({ disk, networks }: Holdings): Everything {
  const containers: Sized[] = disk.Containers ?? [];
  const written = containers.reduce((sum, { SizeRw }) => sum + Math.max(0, SizeRw ?? 0), 0);
  const volumes = (disk.Volumes ?? []).reduce((sum, { UsageData }) => sum + Math.max(0, UsageData?.Size ?? 0), 0);
  return {
    containers: { all: containers.length, running: containers.filter(({ State }) => RUNS.has(State)).length, bytes: written },
    images: { all: disk.Images?.length ?? 0, bytes: disk.LayersSize },
    volumes: { all: disk.Volumes?.length ?? 0, bytes: volumes },
    networks: networks.filter((network) => !isPredefined(network)).length,
    bytes: written + disk.LayersSize + volumes,
  };
}

export const isEmpty = (all: Everything): boolean => all.containers.all + all.images.all + all.volumes.all + all.networks === 0;
