import { describe, expect, test } from "vitest";
import type { Network } from "../../api/types";
import { connectFaults, createRequest, emptyForm, endpointConfig, faults, sameAgain, type NetworkForm } from "./form";

const form = (changes: Partial<NetworkForm>): NetworkForm => ({ ...emptyForm(), name: "lab", ...changes });

const network = (changes: Partial<Network> = {}): Network => ({
  Id: "1".repeat(64),
  Name: "shop_default",
  Created: "2026-11-01T08:00:00Z",
  Driver: "bridge",
  Scope: "local",
  Internal: false,
  Attachable: false,
  EnableIPv6: false,
  IPAM: { Driver: "default", Config: [{ Subnet: "172.20.0.0/16", Gateway: "172.20.0.1" }] },
  Labels: { team: "harbour" },
  Options: { "com.docker.network.bridge.name": "br-shop" },
  ...changes,
});

describe("what is wrong with a network that is to be created", () => {
  test("nothing, with a name alone or with everything", () => {
    expect(faults(form({}), [network()])).toEqual({});
    expect(
      faults(form({ subnet: "10.7.0.0/24", gateway: "10.7.0.1", ipv6: true, subnet6: "fd00:7::/64", gateway6: "fd00:7::1", labels: "team=harbour\nempty=\n\nbare" }), [network()]),
    ).toEqual({});
  });

  test.each<[Partial<NetworkForm>, keyof NetworkForm, RegExp]>([
    [{ name: "  " }, "name", /needs a name/],
    [{ name: "host" }, "name", /host is one of Docker’s own/],
    [{ name: "<b>" }, "name", /Letters, digits/],
    [{ name: "shop_default" }, "name", /shop_default already/],
    [{ subnet: "10.7.0.0" }, "subnet", /such as 10.7.0.0\/24/],
    [{ subnet: "fd00::/64" }, "subnet", /not of IPv4/],
    [{ subnet: "10.7.0.9/24" }, "subnet", /Did you mean 10.7.0.0\/24/],
    [{ subnet: "10.7.0.0/31" }, "subnet", /no room/],
    [{ subnet: "172.20.8.0/24" }, "subnet", /overlaps shop_default, 172.20.0.0\/16/],
    [{ gateway: "10.7.0.1" }, "gateway", /needs its subnet/],
    [{ subnet: "10.7.0.0/24", gateway: "ten" }, "gateway", /ten is not an address/],
    [{ subnet: "10.7.0.0/24", gateway: "10.8.0.1" }, "gateway", /not in 10.7.0.0\/24/],
    [{ subnet: "10.7.0.0/24", gateway: "10.7.0.0" }, "gateway", /network’s own/],
    [{ ipv6: true, subnet6: "10.7.0.0/24" }, "subnet6", /not of IPv6/],
    [{ ipv6: true, subnet6: "fd00:7::/64", gateway6: "fd00:8::1" }, "gateway6", /not in fd00:7::\/64/],
    [{ driver: "macvlan", parent: "a link" }, "parent", /name of a link/],
    [{ labels: "=value" }, "labels", /no name/],
    [{ labels: "a=1\na=2" }, "labels", /a is there twice/],
  ])("%j", (changes, field, fault) => {
    const found = faults(form(changes), [network()]);
    expect(Object.keys(found)).toEqual([field]);
    expect(found[field]).toMatch(fault);
  });

  test("what is not asked for is not checked", () => {
    expect(faults(form({ ipv6: false, subnet6: "nonsense", parent: "a link" }), [])).toEqual({});
    // An internal bridge has no gateway: what was typed before is not sent.
    expect(faults(form({ internal: true, subnet: "10.7.0.0/24", gateway: "nonsense" }), [])).toEqual({});
    // A link outside the machine may well have the subnet of a bridge in it.
    expect(faults(form({ driver: "macvlan", subnet: "172.20.8.0/24" }), [network()])).toEqual({});
  });
});

describe("what is sent", () => {
  test("says nothing where nothing was typed", () => {
    expect(createRequest(form({ name: " lab " }))).toEqual({ Name: "lab", Driver: "bridge", Internal: false, Attachable: false, EnableIPv6: false });
  });

  test("has all that was typed", () => {
    expect(
      createRequest(
        form({
          driver: "macvlan",
          parent: " eth0.10 ",
          subnet: "10.7.0.0/24",
          gateway: "10.7.0.254",
          ipv6: true,
          subnet6: "fd00:7::/64",
          attachable: true,
          labels: " team = harbour \nnote=a=b\nbare",
        }),
      ),
    ).toEqual({
      Name: "lab",
      Driver: "macvlan",
      Internal: false,
      Attachable: true,
      EnableIPv6: true,
      IPAM: { Driver: "default", Config: [{ Subnet: "10.7.0.0/24", Gateway: "10.7.0.254" }, { Subnet: "fd00:7::/64" }] },
      Options: { parent: "eth0.10" },
      Labels: { team: "harbour", note: "a=b", bare: "" },
    });
  });

  test("leaves out what another choice has made void", () => {
    const request = createRequest(form({ internal: true, subnet: "10.7.0.0/24", gateway: "10.7.0.1", subnet6: "fd00:7::/64", parent: "eth0" }));
    expect(request.IPAM?.Config).toEqual([{ Subnet: "10.7.0.0/24" }]);
    expect(request.Options).toBeUndefined();
  });

  test("makes a removed network again as it was", () => {
    expect(sameAgain(network())).toEqual({
      Name: "shop_default",
      Driver: "bridge",
      Internal: false,
      Attachable: false,
      EnableIPv6: false,
      IPAM: { Driver: "default", Config: [{ Subnet: "172.20.0.0/16", Gateway: "172.20.0.1" }] },
      Options: { "com.docker.network.bridge.name": "br-shop" },
      Labels: { team: "harbour" },
    });
    expect(sameAgain(network({ Internal: true, EnableIPv4: false })).IPAM?.Config).toEqual([{ Subnet: "172.20.0.0/16" }]);
    expect(sameAgain(network({ EnableIPv4: false })).EnableIPv4).toBe(false);
  });
});

describe("connecting a container", () => {
  test("an address must be one of the network's", () => {
    const connect = (address: string, aliases = "", container = "c1") => connectFaults({ container, address, aliases }, ["172.20.0.0/16", "fd00:7::/64"]);
    expect(connect("")).toEqual({});
    expect(connect("172.20.9.9", "db, data.base")).toEqual({});
    expect(connect("fd00:7::9")).toEqual({});
    expect(connect("172.21.0.9").address).toMatch(/not in 172.20.0.0\/16, fd00:7::\/64/);
    expect(connect("x").address).toMatch(/not an address/);
    expect(connect("", "db, <b>").aliases).toMatch(/<b>/);
    expect(connect("", "", "").container).toMatch(/Choose/);
  });

  test("says only what was typed", () => {
    expect(endpointConfig({ container: "c1", address: "", aliases: " , " })).toBeUndefined();
    expect(endpointConfig({ container: "c1", address: "172.20.9.9", aliases: "db, data" })).toEqual({ IPAMConfig: { IPv4Address: "172.20.9.9" }, Aliases: ["db", "data"] });
    expect(endpointConfig({ container: "c1", address: "fd00:7::9", aliases: "" })).toEqual({ IPAMConfig: { IPv6Address: "fd00:7::9" } });
  });
});
