import { describe, expect, test } from "vitest";
import type { ContainerSummary, ImageSummary, Network, Volume } from "../../api/types";
import { everything, isEmpty, sumOf, together, unused, type Holdings, type Kind } from "./clean_up";

const MIB = 1024 ** 2;

const container = (name: string, State: ContainerSummary["State"], image: string, volume: string | null, SizeRw?: number): ContainerSummary & { SizeRw?: number } => ({
  Id: `c-${name}`,
  Names: [`/${name}`],
  Image: image,
  ImageID: `sha256:${image}`,
  Command: "",
  Created: 0,
  Ports: [],
  Labels: {},
  State,
  Status: "",
  NetworkSettings: { Networks: { [`${name}-net`]: { IPAddress: "", NetworkID: `n-${name}` } } },
  Mounts: volume === null ? [] : [{ Type: "volume", Name: volume, Source: "", Destination: "/data", Mode: "", RW: true, Propagation: "" }],
  ...(SizeRw !== undefined && { SizeRw }),
});

const image = (id: string, size: number): ImageSummary => ({ Id: `sha256:${id}`, ParentId: "", RepoTags: [`${id}:latest`], RepoDigests: null, Created: 0, Size: size, SharedSize: 0, Labels: null, Containers: 0 });
const volume = (Name: string, Size: number, Options: Record<string, string> | null = null): Volume => ({ Name, Driver: "local", Mountpoint: "", Labels: null, Options, Scope: "local", UsageData: { Size, RefCount: 0 } });
const network = (Id: string, Name: string): Network => ({ Id, Name, Created: "", Driver: "bridge", Scope: "local", Internal: false, Attachable: false, EnableIPv6: false, IPAM: { Driver: "default", Config: null }, Labels: null, Options: null });

const holdings = (): Holdings => ({
  disk: {
    LayersSize: 700 * MIB,
    Containers: [
      container("web", "running", "nginx", "web-data", 5 * MIB),
      container("pausing", "paused", "redis", null, 2 * MIB),
      container("done", "exited", "python", "old-data", 30 * MIB),
      container("new", "created", "nginx", null, 0),
    ],
    Images: [image("nginx", 200 * MIB), image("redis", 100 * MIB), image("python", 300 * MIB), image("alone", 100 * MIB)],
    Volumes: [volume("web-data", 10 * MIB), volume("old-data", 40 * MIB), volume("orphan", 60 * MIB), volume("share", 9 * MIB, { type: "nfs" })],
    BuildCache: null,
  },
  networks: [network("b", "bridge"), network("n-web", "web-net"), network("n-done", "done-net"), network("n-none", "lonely")],
});

const names = (chosen: Kind[]) => {
  const { containers, images, volumes, networks } = unused(holdings(), new Set(chosen));
  return Object.fromEntries(Object.entries({ containers, images, volumes, networks }).map(([kind, things]) => [kind, things.map(({ name }) => name)]));
};

describe("what a clean-up removes", () => {
  test("with stopped containers, what only they had", () => {
    expect(names(["containers", "images", "volumes", "networks"])).toEqual({
      containers: ["done", "new"],
      images: ["python:latest", "alone:latest"],
      volumes: ["old-data", "orphan"],
      networks: ["done-net", "lonely"],
    });
  });

  test("without them, not what they have", () => {
    expect(names(["images", "volumes"])).toMatchObject({ images: ["alone:latest"], volumes: ["orphan"] });
  });

  test("never Docker's networks, volumes from elsewhere, or what runs", () => {
    const { containers, volumes, networks } = names(["containers", "images", "volumes", "networks"]);
    expect(containers).not.toContain("pausing");
    expect(volumes).not.toContain("share");
    expect(networks).not.toContain("bridge");
  });

  test("an engine that holds nothing has nothing", () => {
    const none: Holdings = { disk: { LayersSize: 0, Images: null, Containers: null, Volumes: null, BuildCache: null }, networks: [network("b", "bridge")] };
    expect(unused(none, new Set(["containers"]))).toEqual({ containers: [], images: [], imageList: [], volumes: [], networks: [] });
    expect(isEmpty(everything(none))).toBe(true);
  });
});

describe("sums", () => {
  test("are exact, or say that they are not", () => {
    const { containers, volumes } = unused(holdings(), new Set<Kind>(["containers"]));
    expect(sumOf(containers)).toEqual({ bytes: 30 * MIB, exact: true });
    expect(together([sumOf(containers), sumOf(volumes)])).toEqual({ bytes: 130 * MIB, exact: true });
    const unmeasured = holdings();
    unmeasured.disk.Volumes = [volume("orphan", -1), volume("other", 5)];
    expect(sumOf(unused(unmeasured, new Set()).volumes)).toEqual({ bytes: 5, exact: false });
    expect(sumOf([])).toEqual({ bytes: 0, exact: true });
  });

  test("of a reset count each layer once, and every container and volume", () => {
    expect(everything(holdings())).toEqual({
      containers: { all: 4, running: 2, bytes: 37 * MIB },
      images: { all: 4, bytes: 700 * MIB },
      volumes: { all: 4, bytes: 119 * MIB },
      networks: 3,
      bytes: (37 + 700 + 119) * MIB,
    });
  });
});
