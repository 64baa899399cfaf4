/** Volumes, and the engine itself. */
import type { DiskUsage, Volume } from "../../../api/types";
import { newId, type FakeDocker } from "../docker";
import { Refused, type Router } from "../http";
import { summary as containerSummary } from "./containers";
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
      Containers: [...docker.containers.values()].map((container) => ({ ...containerSummary(docker, container), SizeRw: container.written })),
      // What is mounted from elsewhere is not measured.
      Volumes: [...docker.volumes.values()].filter(({ Options }) => !Options).map(({ size, files: _, ...volume }) => ({
        ...volume,
        UsageData: { Size: size, RefCount: [...docker.containers.values()].filter((container) => container.mounts.some((mount) => mount.Name === volume.Name)).length },
      })),
      BuildCache: [],
    };
    return { json: usage };
  });
}
