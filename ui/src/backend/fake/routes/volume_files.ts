/** What Coracle's engine can do with volumes that Docker's cannot: look into them without a container. And prune. */
import { TarReader, writeTar, type TarMember } from "../../../api/tar";
import type { FakeDocker } from "../docker";
import { Refused, type Router } from "../http";
import { childrenOf } from "./archive";

const clean = (path: string) => `/${path.split("/").filter((part) => part !== "" && part !== ".").join("/")}`;
const last = (path: string) => clean(path).split("/").at(-1) ?? "";

export function volumeFileRoutes(router: Router, docker: FakeDocker): void {
  const volume = (name = "") => {
    const found = docker.volumes.get(name);
    if (!found) throw new Refused(404, `get ${name}: no such volume`);
    return found;
  };
  const used = (name: string) => [...docker.containers.values()].some((container) => container.mounts.some((mount) => mount.Name === name));
  const find = (name: string, path: string): TarMember => {
    const wanted = clean(path);
    if (wanted === "/") return { name: "/", folder: true };
    const found = volume(name).files.find((member) => clean(member.name) === wanted);
    if (!found) throw new Refused(404, `Could not find the file ${path} in volume ${name}`);
    return found;
  };
  const stat = (member: TarMember) => ({
    "x-docker-container-path-stat": btoa(JSON.stringify({ name: last(member.name) || "/", size: member.bytes?.length ?? 4096, mode: member.mode ?? 0o644, mtime: new Date(member.modified ?? 0).toISOString(), linkTarget: member.target ?? "" })),
  });
  const measure = (files: TarMember[]) => files.reduce((sum, member) => sum + (member.bytes?.length ?? 0), 0);

  router.on("GET", "/volumes/:name/files", ({ params, query }) => {
    const { Name, files } = volume(params["name"]);
    const path = query.get("path") || "/";
    const members = childrenOf(files, path);
    if (!members) throw new Refused(404, `Could not find the file ${path} in volume ${Name}`);
    return {
      json: members.map((member) => ({
        Name: last(member.name),
        Kind: member.target !== undefined ? "link" : member.folder ? "directory" : "file",
        Size: member.bytes?.length ?? 4096,
        Mode: member.mode ?? (member.folder ? 0o755 : 0o644),
        Uid: 999,
        Gid: 999,
        Modified: new Date(member.modified ?? 0).toISOString(),
        LinkTarget: member.target ?? "",
      })),
    };
  });
  router.on("HEAD", "/volumes/:name/archive", ({ params, query }) => ({ headers: stat(find(params["name"] ?? "", query.get("path") ?? "/")) }));
  router.on("GET", "/volumes/:name/archive", ({ params, query }) => {
    const root = find(params["name"] ?? "", query.get("path") ?? "/");
    const base = clean(root.name);
    const above = base.slice(0, base.lastIndexOf("/") + 1);
    const { files } = volume(params["name"]);
    const inside = base === "/" ? files : files.filter((member) => clean(member.name).startsWith(`${base}/`));
    return { headers: stat(root), bytes: writeTar([root, ...inside].map((member) => ({ ...member, name: clean(member.name).slice(above.length) || "/" }))) };
  });
  router.on("PUT", "/volumes/:name/archive", ({ params, query, body }) => {
    const target = volume(params["name"]);
    const folder = clean(query.get("path") ?? "/");
    if (!childrenOf(target.files, folder)) throw new Refused(404, `Could not find the file ${folder} in volume ${target.Name}`);
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : body;
    if (bytes.length < 512) throw new Refused(500, "Error processing tar file: unexpected EOF");
    const before = measure(target.files);
    new TarReader(
      (entry, content) => {
        const name = clean(`${folder}/${entry.name}`);
        if (name === "/") return;
        target.files = target.files.filter((member) => clean(member.name) !== name);
        target.files.push({ name, folder: entry.kind === "folder", mode: entry.mode, modified: entry.modified, bytes: content ?? new Uint8Array(0) });
      },
      () => true,
    ).push(bytes);
    target.size += measure(target.files) - before;
    return { status: 200 };
  });
  router.on("POST", "/volumes/prune", ({ query }) => {
    const filters = JSON.parse(query.get("filters") ?? "{}") as { all?: string[] };
    const all = filters.all?.[0] === "true";
    const gone = [...docker.volumes.values()].filter(({ Name, Labels, Options }) => !used(Name) && !Options && (all || Labels?.["com.docker.volume.anonymous"] !== undefined));
    for (const { Name } of gone) {
      docker.volumes.delete(Name);
      docker.emit("volume", "destroy", Name, { driver: "local" });
    }
    const SpaceReclaimed = gone.reduce((sum, { size }) => sum + size, 0);
    docker.emit("volume", "prune", "", { reclaimed: String(SpaceReclaimed) });
    return { json: { VolumesDeleted: gone.map(({ Name }) => Name), SpaceReclaimed } };
  });
}
