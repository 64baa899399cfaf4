/** Volumes, networks, and the engine itself. */
import type { DiskUsage, Network, Volume } from "../../../api/types";
import { newId, type FakeDocker } from "../docker";
import { Refused, type Router } from "../http";
import { layersSize, summary } from "./images";

export function volumeRoutes(router: Router, docker: FakeDocker): void {
  const shown = ({ Name, Driver, Mountpoint, CreatedAt, Labels, Options, Scope }: Volume): Volume => ({ Name, Driver, Mountpoint, CreatedAt, Labels, Options, Scope });
  const find = (name: string) => {
    const volume = docker.volumes.get(name);
    if (!volume) throw new Refused(404, `get ${name}: no such volume`);
    return volume;
  };
  router.on("GET", "/volumes", () => ({ json: { Volumes: [...docker.volumes.values()].map(shown), Warnings: null } }));
  router.on("GET", "/volumes/:name", ({ params }) => ({ json: shown(find(params["name"] ?? "")) }));
  router.on("POST", "/volumes/create", ({ json }) => {
    const options = json<{ Name?: string; Labels?: Record<string, string> | null; DriverOpts?: Record<string, string> | null }>();
    const Name = options.Name || newId();
    if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/.test(Name)) throw new Refused(400, `create ${Name}: "${Name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed.`);
    const made = {
      Name,
      Driver: "local",
      Mountpoint: `/var/lib/docker/volumes/${Name}/_data`,
      CreatedAt: new Date().toISOString(),
      Labels: options.Labels ?? (options.Name ? null : { "com.docker.volume.anonymous": "" }),
      Options: options.DriverOpts ?? null,
      Scope: "local",
      size: 0,
      files: [],
    };
    const volume = docker.volumes.get(Name) ?? made;
    docker.volumes.set(Name, volume);
    docker.emit("volume", "create", Name, { driver: "local" });
    return { status: 201, json: shown(volume) };
  });
  router.on("DELETE", "/volumes/:name", ({ params }) => {
    const { Name } = find(params["name"] ?? "");
    const user = [...docker.containers.values()].find((container) => container.mounts.some((mount) => mount.Name === Name));
    if (user) throw new Refused(409, `remove ${Name}: volume is in use - [${user.id}]`);
    docker.volumes.delete(Name);
    docker.emit("volume", "destroy", Name, { driver: "local" });
    return { status: 204 };
  });
}

export function networkRoutes(router: Router, docker: FakeDocker): void {
  const find = (name: string): Network => {
    const network = docker.networks.get(name) ?? [...docker.networks.values()].find((candidate) => candidate.Name === name || (name.length >= 6 && candidate.Id.startsWith(name)));
    if (!network) throw new Refused(404, `network ${name} not found`);
    return network;
  };
  const members = (network: Network): NonNullable<Network["Containers"]> =>
    Object.fromEntries(
      [...docker.containers.values()]
        .filter((container) => container.network === network.Name && container.state === "running")
        .map((container) => [container.id, { Name: container.name, IPv4Address: `${container.address}/16`, IPv6Address: "", MacAddress: "02:42:ac:12:00:05" }]),
    );
  router.on("GET", "/networks", () => ({ json: [...docker.networks.values()] }));
  router.on("GET", "/networks/:id", ({ params }) => {
    const network = find(params["id"] ?? "");
    return { json: { ...network, Containers: members(network) } };
  });
  router.on("POST", "/networks/create", ({ json }) => {
    const options = json<{ Name: string; Driver?: string; Internal?: boolean; EnableIPv6?: boolean }>();
    if ([...docker.networks.values()].some((network) => network.Name === options.Name)) throw new Refused(409, `network with name ${options.Name} already exists`);
    const subnet = `172.${20 + docker.networks.size}.0`;
    const network: Network = {
      Id: newId(),
      Name: options.Name,
      Created: new Date().toISOString(),
      Driver: options.Driver ?? "bridge",
      Scope: "local",
      Internal: options.Internal ?? false,
      Attachable: false,
      EnableIPv6: options.EnableIPv6 ?? false,
      IPAM: { Driver: "default", Config: [{ Subnet: `${subnet}.0/16`, Gateway: `${subnet}.1` }] },
      Labels: {},
      Options: {},
    };
    docker.networks.set(network.Id, network);
    docker.emit("network", "create", network.Id, { name: network.Name, type: network.Driver });
    return { status: 201, json: { Id: network.Id, Warning: "" } };
  });
  router.on("DELETE", "/networks/:id", ({ params }) => {
    const network = find(params["id"] ?? "");
    if (/^(bridge|host|none)$/.test(network.Name)) throw new Refused(403, `${network.Name} is a pre-defined network and cannot be removed`);
    const [member] = Object.entries(members(network));
    if (member) throw new Refused(403, `error while removing network: network ${network.Name} has active endpoints (name:"${member[1].Name}" id:"${member[0].slice(0, 12)}")`);
    docker.networks.delete(network.Id);
    docker.emit("network", "destroy", network.Id, { name: network.Name, type: network.Driver });
    return { status: 204 };
  });
  for (const verb of ["connect", "disconnect"] as const) {
    router.on("POST", `/networks/:id/${verb}`, ({ params, json }) => {
      const network = find(params["id"] ?? "");
      const container = docker.container(json<{ Container: string }>().Container);
      container.network = verb === "connect" ? network.Name : "none";
      docker.emit("network", verb, network.Id, { name: network.Name, container: container.id });
      return { status: 200 };
    });
  }
}

export function systemRoutes(router: Router, docker: FakeDocker): void {
  router.on("GET", "/_ping", () => ({ bytes: new TextEncoder().encode("OK") }));
  router.on("GET", "/version", () => ({
    json: { Version: docker.version, ApiVersion: "1.51", MinAPIVersion: "1.40", Os: "linux", Arch: "amd64", KernelVersion: "6.12.41" },
  }));
  router.on("GET", "/events", () => ({
    stream: (out) => ({ close: docker.onEvent((event) => out.data(`${JSON.stringify(event)}\n`)) }),
  }));
  router.on("GET", "/system/df", async () => {
    const images = [...docker.images.values()];
    const usage: DiskUsage = {
      LayersSize: layersSize(docker),
      Images: images.map((image) => summary(docker, image)),
      Containers: [],
      Volumes: [...docker.volumes.values()].map(({ size, files: _, ...volume }) => ({
        ...volume,
        UsageData: { Size: size, RefCount: [...docker.containers.values()].filter((container) => container.mounts.some((mount) => mount.Name === volume.Name)).length },
      })),
      BuildCache: [],
    };
    return { json: usage };
  });
}
