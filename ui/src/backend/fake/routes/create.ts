/** Containers made from a request, as `docker run` sends it. */
import type { MountPoint, Port } from "../../../api/types";
import { newId, type FakeDocker } from "../docker";
import { Refused, type Router } from "../http";
import { add } from "../scenarios";

interface CreateBody {
  Image: string;
  Cmd?: string[] | null;
  Env?: string[] | null;
  Labels?: Record<string, string> | null;
  Tty?: boolean;
  HostConfig?: {
    PortBindings?: Record<string, { HostIp?: string; HostPort?: string }[]> | null;
    Mounts?: { Type: "bind" | "volume"; Source?: string; Target: string; ReadOnly?: boolean }[] | null;
    NetworkMode?: string;
  };
}

/** As `docker run` makes one up. */
const WORDS = ["brave_otter", "calm_heron", "eager_wren", "quiet_eel", "sunny_tern"];

export function createRoutes(router: Router, docker: FakeDocker): void {
  let made = 0;
  let freePort = 49_153;
  router.on("POST", "/containers/create", ({ query, json }) => {
    const body = json<CreateBody>();
    const image = docker.image(body.Image);
    const name = query.get("name") || `${WORDS[made++ % WORDS.length]}${made > WORDS.length ? made : ""}`;
    const other = [...docker.containers.values()].find((container) => container.name === name);
    if (other) throw new Refused(409, `Conflict. The container name "/${name}" is already in use by container "${other.id}". You have to remove (or rename) that container to be able to reuse that name.`);
    const host = body.HostConfig ?? {};
    const ports: Port[] = [];
    const taken = new Set([...docker.containers.values()].filter(({ state }) => state === "running").flatMap((container) => container.ports.map((port) => port.PublicPort)));
    const labels: Record<string, string> = { ...body.Labels };
    for (const [key, bindings] of Object.entries(host.PortBindings ?? {})) {
      const [number = "0", Type = "tcp"] = key.split("/");
      for (const { HostIp, HostPort } of bindings) {
        const PublicPort = HostPort ? Number(HostPort) : freePort++;
        // Docker finds out when it starts.
        if (taken.has(PublicPort)) labels["fake.refuses"] = `driver failed programming external connectivity on endpoint ${name}: Bind for 0.0.0.0:${PublicPort} failed: port is already allocated`;
        ports.push({ IP: HostIp || "0.0.0.0", PrivatePort: Number(number), PublicPort, Type });
      }
    }
    const mounts = (host.Mounts ?? []).map((mount): MountPoint => {
      const base = { Destination: mount.Target, Mode: "", RW: !mount.ReadOnly, Propagation: "" };
      if (mount.Type === "bind") {
        if (!mount.Source?.startsWith("/home/ada")) throw new Refused(400, `invalid mount config for type "bind": bind source path does not exist: ${mount.Source}`);
        return { ...base, Type: "bind", Source: mount.Source };
      }
      const Name = mount.Source || newId();
      if (!docker.volumes.has(Name)) {
        docker.volumes.set(Name, {
          Name,
          Driver: "local",
          Mountpoint: `/var/lib/docker/volumes/${Name}/_data`,
          CreatedAt: new Date().toISOString(),
          Labels: mount.Source ? null : { "com.docker.volume.anonymous": "" },
          Options: null,
          Scope: "local",
          size: 0,
          files: [],
        });
        docker.emit("volume", "create", Name, { driver: "local" });
      }
      return { ...base, Type: "volume", Name, Source: `/var/lib/docker/volumes/${Name}/_data`, Driver: "local" };
    });
    const container = add(docker, { name, image: image.tags[0] ?? image.id, state: "created", age: 0, ports, mounts, labels, env: body.Env ?? [] });
    if (body.Cmd?.length) container.command = body.Cmd;
    if (host.NetworkMode && host.NetworkMode !== "default") container.network = host.NetworkMode;
    container.terminal = body.Tty ?? false;
    docker.say(container, "create");
    return { status: 201, json: { Id: container.id, Warnings: [] } };
  });
}
