/** What is typed to create a network or to connect a container: what is wrong with it, and what is sent to Docker. */
import type { CreateNetwork, EndpointConfig } from "../../api/networks";
import type { Network } from "../../api/types";
import { text } from "../../text";
import { aligned, contains, formatSubnet, isAligned, overlaps, parseAddress, parseSubnet, type Subnet } from "./address";

export const DRIVERS = ["bridge", "macvlan", "ipvlan"] as const;
export type Driver = (typeof DRIVERS)[number];

export interface NetworkForm {
  name: string;
  driver: Driver;
  /** Of `macvlan` and `ipvlan`. */
  parent: string;
  subnet: string;
  gateway: string;
  ipv6: boolean;
  subnet6: string;
  gateway6: string;
  internal: boolean;
  attachable: boolean;
  /** `name=value`, one a line. */
  labels: string;
}

export type Field = keyof NetworkForm;
export type Faults<F extends string> = Partial<Record<F, string>>;

export const emptyForm = (): NetworkForm => ({
  name: "",
  driver: "bridge",
  parent: "",
  subnet: "",
  gateway: "",
  ipv6: false,
  subnet6: "",
  gateway6: "",
  internal: false,
  attachable: false,
  labels: "",
});

const words = text.networks.form.faults;
const EXAMPLE = { 4: "10.7.0.0/24", 6: "fd00:7::/64" } as const;
/** Prefixes above leave no address for a container beside the gateway. */
const LONGEST = { 4: 30, 6: 126 } as const;

const ownGateway = (form: NetworkForm): boolean => !(form.internal && form.driver === "bridge");

function subnetFault(typed: string, family: 4 | 6, form: NetworkForm, networks: readonly Network[]): string | null {
  const subnet = parseSubnet(typed);
  if (!subnet) return words.subnet(typed, EXAMPLE[family]);
  if (subnet.family !== family) return words.family(typed, family);
  if (!isAligned(subnet)) return words.aligned(typed, formatSubnet(aligned(subnet)));
  if (subnet.prefix > LONGEST[family]) return words.small(typed);
  if (form.driver !== "bridge") return null;
  for (const network of networks) {
    if (network.Driver !== "bridge") continue;
    for (const { Subnet } of network.IPAM.Config ?? []) {
      const other = Subnet ? parseSubnet(Subnet) : null;
      if (other && overlaps(subnet, other)) return words.overlaps(typed, network.Name, Subnet ?? "");
    }
  }
  return null;
}

function gatewayFault(typed: string, subnetTyped: string): string | null {
  const address = parseAddress(typed);
  if (!address) return words.gateway(typed);
  if (subnetTyped === "") return words.gatewayAlone;
  const subnet: Subnet | null = parseSubnet(subnetTyped);
  if (!subnet) return null;
  if (!contains(subnet, address)) return words.gatewayOutside(typed, subnetTyped);
  return address.value === subnet.value ? words.gatewayFirst(typed) : null;
}

const lines = (typed: string): string[] => typed.split("\n").map((line) => line.trim()).filter((line) => line !== "");

function labelsFault(typed: string): string | null {
  const seen = new Set<string>();
  for (const line of lines(typed)) {
    const name = line.split("=", 1)[0]?.trim() ?? "";
    if (name === "") return words.label(line);
    if (seen.has(name)) return words.labelTwice(name);
    seen.add(name);
  }
  return null;
}

function nameFault(name: string, networks: readonly Network[]): string | null {
  if (name === "") return words.nameEmpty;
  if (/^(bridge|host|none|default)$/.test(name)) return words.namePredefined(name);
  if (!/^[a-z0-9][\w.-]*$/i.test(name)) return words.nameShape;
  return networks.some((network) => network.Name === name) ? words.nameTaken(name) : null;
}

/** What Docker would refuse, told before it is asked. Docker has the last word. */
export function faults(form: NetworkForm, networks: readonly Network[]): Faults<Field> {
  const found: Faults<Field> = {};
  const note = (field: Field, fault: string | null) => {
    if (fault !== null) found[field] = fault;
  };
  const [subnet, gateway, subnet6, gateway6, parent] = [form.subnet, form.gateway, form.subnet6, form.gateway6, form.parent].map((typed) => typed.trim()) as [string, string, string, string, string];
  note("name", nameFault(form.name.trim(), networks));
  if (subnet !== "") note("subnet", subnetFault(subnet, 4, form, networks));
  if (gateway !== "" && ownGateway(form)) note("gateway", gatewayFault(gateway, subnet));
  if (form.ipv6 && subnet6 !== "") note("subnet6", subnetFault(subnet6, 6, form, networks));
  if (form.ipv6 && gateway6 !== "" && ownGateway(form)) note("gateway6", gatewayFault(gateway6, subnet6));
  // IFNAMSIZ less the zero; `/` and blanks are refused by the kernel.
  if (form.driver !== "bridge" && parent !== "" && !/^[^\s/]{1,15}$/.test(parent)) note("parent", words.parent(parent));
  note("labels", labelsFault(form.labels));
  return found;
}

/** The body of `POST /networks/create`. Where nothing was typed nothing is said, and Docker chooses. */
export function createRequest(form: NetworkForm): CreateNetwork {
  const config = (subnetTyped: string, gatewayTyped: string) => {
    const [Subnet, Gateway] = [subnetTyped.trim(), gatewayTyped.trim()];
    if (Subnet === "") return [];
    return [{ Subnet, ...(Gateway !== "" && ownGateway(form) && { Gateway }) }];
  };
  const pools = [...config(form.subnet, form.gateway), ...(form.ipv6 ? config(form.subnet6, form.gateway6) : [])];
  const labels = lines(form.labels).map((line): [string, string] => {
    const at = line.indexOf("=");
    return at < 0 ? [line, ""] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
  return {
    Name: form.name.trim(),
    Driver: form.driver,
    Internal: form.internal,
    Attachable: form.attachable,
    EnableIPv6: form.ipv6,
    ...(pools.length > 0 && { IPAM: { Driver: "default", Config: pools } }),
    ...(form.driver !== "bridge" && form.parent.trim() !== "" && { Options: { parent: form.parent.trim() } }),
    ...(labels.length > 0 && { Labels: Object.fromEntries(labels) }),
  };
}

/** What makes a network that was removed again, as it was. */
export function sameAgain(network: Network): CreateNetwork {
  return {
    Name: network.Name,
    Driver: network.Driver,
    Internal: network.Internal,
    Attachable: network.Attachable,
    EnableIPv6: network.EnableIPv6,
    ...(network.EnableIPv4 === false && { EnableIPv4: false }),
    IPAM: {
      Driver: network.IPAM.Driver,
      // Docker shows the gateway that it gave to an internal bridge, and refuses to be told of it.
      Config: (network.IPAM.Config ?? []).map(({ Gateway, ...pool }) => ({ ...pool, ...(Gateway && !(network.Internal && network.Driver === "bridge") && { Gateway: Gateway.replace(/\/\d+$/, "") }) })),
    },
    Options: network.Options ?? {},
    Labels: network.Labels ?? {},
  };
}

export interface ConnectForm {
  container: string;
  address: string;
  /** With commas between. */
  aliases: string;
}

const connectWords = text.networks.connectForm.faults;
const aliasesOf = (typed: string): string[] => typed.split(",").map((alias) => alias.trim()).filter((alias) => alias !== "");

export function connectFaults(form: ConnectForm, subnets: readonly string[]): Faults<keyof ConnectForm> {
  const found: Faults<keyof ConnectForm> = {};
  if (form.container === "") found.container = connectWords.container;
  const typed = form.address.trim();
  if (typed !== "") {
    const address = parseAddress(typed);
    const pools = subnets.flatMap((subnet) => parseSubnet(subnet) ?? []);
    if (!address) found.address = connectWords.address(typed);
    else if (!pools.some((pool) => contains(pool, address))) found.address = connectWords.outside(typed, subnets.join(", "));
  }
  const wrong = aliasesOf(form.aliases).find((alias) => !/^[a-z0-9_]([\w.-]*[a-z0-9_])?$/i.test(alias));
  if (wrong !== undefined) found.aliases = connectWords.alias(wrong);
  return found;
}

export function endpointConfig(form: ConnectForm): EndpointConfig | undefined {
  const address = parseAddress(form.address.trim());
  const aliases = aliasesOf(form.aliases);
  if (!address && aliases.length === 0) return undefined;
  return {
    ...(address && { IPAMConfig: address.family === 4 ? { IPv4Address: form.address.trim() } : { IPv6Address: form.address.trim() } }),
    ...(aliases.length > 0 && { Aliases: aliases }),
  };
}
