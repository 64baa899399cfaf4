/** Networks, and who is on them. */
import type { Network } from "../../../api/types";
import { newId, type FakeContainer, type FakeDocker } from "../docker";
import { Refused, type Router } from "../http";

const ACTIVE = new Set(["running", "paused", "restarting"]);

/** What Docker tells of a place in a network, where the container has it now. */
function place(docker: FakeDocker, container: FakeContainer, name: string, address: string) {
  const network = [...docker.networks.values()].find((candidate) => candidate.Name === name);
  const up = ACTIVE.has(container.state) && address !== "";
  const octets = address.split(".").map(Number);
  const six = network?.IPAM.Config?.find(({ Subnet }) => Subnet?.includes(":"))?.Subnet?.replace(/\/\d+$/, "");
  return {
    NetworkID: network?.Id ?? "",
    IPAddress: up ? address : "",
    Gateway: up ? (network?.IPAM.Config?.[0]?.Gateway ?? "") : "",
    GlobalIPv6Address: up && six ? `${six}${(octets[3] ?? 0).toString(16)}` : "",
    MacAddress: up ? `02:42:${octets.map((octet) => octet.toString(16).padStart(2, "0")).join(":")}` : "",
    Aliases: null,
    DNSNames: [container.name, container.id.slice(0, 12)],
  };
}

/** `NetworkSettings.Networks` of a container. */
export const placesOf = (docker: FakeDocker, container: FakeContainer) =>
  Object.fromEntries(docker.places(container).map(([name, address]) => [name, place(docker, container, name, address)]));

export function networkRoutes(router: Router, docker: FakeDocker): void {
  const find = (name: string): Network => {
    const network = docker.networks.get(name) ?? [...docker.networks.values()].find((candidate) => candidate.Name === name || (name.length >= 6 && candidate.Id.startsWith(name)));
    if (!network) throw new Refused(404, `network ${name} not found`);
    return network;
  };
  const isPredefined = (network: Network) => /^(bridge|host|none)$/.test(network.Name);
  /** Those that have a place there now. */
  const members = (network: Network): NonNullable<Network["Containers"]> =>
    Object.fromEntries(
      [...docker.containers.values()].flatMap((container) => {
        const found = placesOf(docker, container)[network.Name];
        if (!found || !ACTIVE.has(container.state)) return [];
        const { IPAddress, GlobalIPv6Address, MacAddress } = found;
        return [[container.id, { Name: container.name, IPv4Address: IPAddress && `${IPAddress}/16`, IPv6Address: GlobalIPv6Address && `${GlobalIPv6Address}/64`, MacAddress }]];
      }),
    );
  const remove = (network: Network) => {
    docker.networks.delete(network.Id);
    docker.emit("network", "destroy", network.Id, { name: network.Name, type: network.Driver });
  };

  router.on("GET", "/networks", () => ({ json: [...docker.networks.values()] }));
  router.on("POST", "/networks/create", ({ json }) => {
    const options = json<Partial<Network> & { Name: string }>();
    if ([...docker.networks.values()].some((network) => network.Name === options.Name)) throw new Refused(409, `network with name ${options.Name} already exists`);
    const asked = options.IPAM?.Config ?? [];
    const clash = [...docker.networks.values()].some((network) => asked.some(({ Subnet }) => Subnet && network.IPAM.Config?.some((pool) => pool.Subnet === Subnet)));
    if (clash) throw new Refused(403, "invalid pool request: Pool overlaps with other one on this address space");
    const free = `172.${20 + docker.networks.size}.0`;
    const four = asked.filter(({ Subnet }) => !Subnet?.includes(":"));
    const six = asked.filter(({ Subnet }) => Subnet?.includes(":"));
    const network: Network = {
      Id: newId(),
      Name: options.Name,
      Created: new Date().toISOString(),
      Driver: options.Driver ?? "bridge",
      Scope: "local",
      Internal: options.Internal ?? false,
      Attachable: options.Attachable ?? false,
      EnableIPv4: true,
      EnableIPv6: options.EnableIPv6 ?? false,
      IPAM: {
        Driver: "default",
        Config: [
          ...(four.length > 0 ? four : [{ Subnet: `${free}.0/16`, Gateway: `${free}.1` }]),
          ...(!options.EnableIPv6 || six.length > 0 ? six : [{ Subnet: "fd7c:0:0:1::/64", Gateway: "fd7c:0:0:1::1" }]),
        ],
      },
      Labels: options.Labels ?? {},
      Options: options.Options ?? {},
    };
    docker.networks.set(network.Id, network);
    docker.emit("network", "create", network.Id, { name: network.Name, type: network.Driver });
    return { status: 201, json: { Id: network.Id, Warning: "" } };
  });
  router.on("POST", "/networks/prune", () => {
    const unused = [...docker.networks.values()].filter((network) => !isPredefined(network) && Object.keys(members(network)).length === 0);
    unused.forEach(remove);
    docker.emit("network", "prune", "", { reclaimed: "0" });
    return { json: { NetworksDeleted: unused.length > 0 ? unused.map(({ Name }) => Name) : null } };
  });
  router.on("GET", "/networks/:id", ({ params }) => {
    const network = find(params["id"] ?? "");
    return { json: { ...network, Containers: members(network) } };
  });
  router.on("DELETE", "/networks/:id", ({ params }) => {
    const network = find(params["id"] ?? "");
    if (isPredefined(network)) throw new Refused(403, `${network.Name} is a pre-defined network and cannot be removed`);
    const active = Object.entries(members(network)).map(([id, { Name }]) => `name:"${Name}" id:"${id.slice(0, 12)}"`);
    if (active.length > 0) throw new Refused(403, `error while removing network: network ${network.Name} has active endpoints (${active.join(", ")})`);
    remove(network);
    return { status: 204 };
  });

  router.on("POST", "/networks/:id/connect", ({ params, json }) => {
    const network = find(params["id"] ?? "");
    const body = json<{ Container: string; EndpointConfig?: { IPAMConfig?: { IPv4Address?: string } } }>();
    const container = docker.container(body.Container);
    if (docker.places(container).some(([name]) => name === network.Name)) throw new Refused(403, `endpoint with name ${container.name} already exists in network ${network.Name}`);
    const asked = body.EndpointConfig?.IPAMConfig?.IPv4Address;
    const everyone = [...docker.containers.values()].flatMap((other) => docker.places(other).map(([, address]) => address));
    if (asked && everyone.includes(asked)) throw new Refused(403, "Address already in use");
    docker.join(container, network, asked);
    docker.emit("network", "connect", network.Id, { name: network.Name, container: container.id, type: network.Driver });
    return { status: 200 };
  });
  router.on("POST", "/networks/:id/disconnect", ({ params, json }) => {
    const network = find(params["id"] ?? "");
    const container = docker.container(json<{ Container: string }>().Container);
    if (!docker.leave(container, network.Name)) throw new Refused(403, `container ${container.id} is not connected to network ${network.Name}`);
    docker.emit("network", "disconnect", network.Id, { name: network.Name, container: container.id, type: network.Driver });
    return { status: 200 };
  });
}
