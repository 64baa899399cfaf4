import { describe, expect, test } from "vitest";
import type { ContainerSummary, Network } from "../../api/types";
import { isUnused, membersOf, rowsOf, shown, subnetsOf } from "./model";

const network = (Name: string, changes: Partial<Network> = {}): Network => ({
  Id: `id-${Name}`,
  Name,
  Created: "2026-11-01T08:00:00Z",
  Driver: "bridge",
  Scope: "local",
  Internal: false,
  Attachable: false,
  EnableIPv6: false,
  IPAM: { Driver: "default", Config: [{ Subnet: "172.20.0.0/16", Gateway: "172.20.0.1" }] },
  Labels: null,
  Options: null,
  ...changes,
});

const container = (name: string, state: ContainerSummary["State"], networks: Record<string, { id?: string; address?: string }>, labels: Record<string, string> = {}): ContainerSummary => ({
  Id: `c-${name}`,
  Names: [`/${name}`],
  Image: "nginx",
  ImageID: "sha256:1",
  Command: "serve",
  Created: 0,
  Ports: [{ PrivatePort: 80, PublicPort: 8080, Type: "tcp" }],
  Labels: labels,
  State: state,
  Status: "",
  NetworkSettings: { Networks: Object.fromEntries(Object.entries(networks).map(([key, { id = "", address = "" }]) => [key, { IPAddress: address, NetworkID: id }])) },
  Mounts: [],
});

describe("who is on a network", () => {
  const shop = network("shop_default", { Labels: { "com.docker.compose.project": "shop" } });
  const containers = [
    container("shop-web-10", "running", { shop_default: { id: shop.Id, address: "172.20.0.3" } }, { "com.docker.compose.project": "shop", "com.docker.compose.service": "web" }),
    container("shop-web-2", "paused", { shop_default: { id: shop.Id, address: "172.20.0.2" } }),
    container("old", "exited", { shop_default: { id: shop.Id } }),
    // Created only: the engine has not looked its network up yet.
    container("new", "created", { shop_default: {} }),
    // The network of this name was removed, and made again.
    container("stranger", "running", { shop_default: { id: "id-gone", address: "172.20.0.9" } }),
    container("elsewhere", "running", { bridge: { id: "id-bridge", address: "172.17.0.2" } }),
  ];

  test("those that run first, in the order of their names; a stopped one is set to use it", () => {
    expect(membersOf(shop, containers).map(({ name, shortName, up, ipv4 }) => [name, shortName, up, ipv4])).toEqual([
      ["shop-web-2", "shop-web-2", true, "172.20.0.2"],
      ["shop-web-10", "web-10", true, "172.20.0.3"],
      ["new", "new", false, ""],
      ["old", "old", false, ""],
    ]);
  });

  test("nothing is published by way of one that leads nowhere", () => {
    expect(membersOf(shop, containers)[0]?.ports).toHaveLength(1);
    expect(membersOf({ ...shop, Internal: true }, containers)[0]?.ports).toEqual([]);
    expect(membersOf({ ...shop, Driver: "macvlan" }, containers)[0]?.ports).toEqual([]);
  });

  test("unused is what Docker would prune: a stopped container does not hold a network", () => {
    const row = (members: ContainerSummary[], of = shop) => ({ network: of, members: membersOf(of, members) });
    expect(isUnused(row(containers))).toBe(false);
    expect(isUnused(row(containers.slice(2, 4)))).toBe(true);
    expect(isUnused(row([], network("bridge")))).toBe(false);
  });
});

describe("the list", () => {
  const all = [network("none", { Driver: "null", IPAM: { Driver: "default", Config: null } }), network("zebra"), network("bridge"), network("apple", { Driver: "macvlan" })];
  const one = container("rower", "running", { zebra: { id: "id-zebra", address: "172.20.0.7" } });
  const names = (view: Partial<Parameters<typeof shown>[1]>) =>
    shown(rowsOf(all, [one]), { filter: "all", search: "", sort: { column: "name", down: false }, ...view }).map((row) => row.network.Name);

  test("has the user's own first, however it is sorted", () => {
    expect(names({})).toEqual(["apple", "zebra", "bridge", "none"]);
    expect(names({ sort: { column: "name", down: true } })).toEqual(["zebra", "apple", "none", "bridge"]);
    expect(names({ sort: { column: "containers", down: false } })).toEqual(["zebra", "apple", "bridge", "none"]);
    expect(names({ sort: { column: "driver", down: false } })).toEqual(["zebra", "apple", "bridge", "none"]);
  });

  test("is searched by name, driver, subnet, container and address", () => {
    expect(names({ search: "MACVLAN" })).toEqual(["apple"]);
    expect(names({ search: "rower 172.20.0.7" })).toEqual(["zebra"]);
    expect(names({ search: "172.20.0.0/16 bridge" })).toEqual(["zebra", "bridge"]);
    expect(names({ search: "nowhere" })).toEqual([]);
  });

  test("is filtered", () => {
    expect(names({ filter: "own" })).toEqual(["apple", "zebra"]);
    expect(names({ filter: "unused" })).toEqual(["apple"]);
  });

  test("knows networks without subnets", () => {
    expect(subnetsOf(all[0] as Network)).toEqual([]);
  });
});
