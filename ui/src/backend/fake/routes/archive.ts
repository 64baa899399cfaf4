/** Files of containers, as tar archives of a folder or a file. */
import { TarReader, writeTar, type TarMember } from "../../../api/tar";
import type { FakeDocker } from "../docker";
import { Refused, type Router } from "../http";

const clean = (path: string) => `/${path.split("/").filter((part) => part !== "" && part !== ".").join("/")}`;

/** What stands right in a folder; undefined if there is no such folder. Paths of members are absolute. */
export function childrenOf(files: TarMember[], folder: string): TarMember[] | undefined {
  const base = clean(folder);
  if (base !== "/" && !files.some((member) => member.folder && clean(member.name) === base)) return undefined;
  const start = base === "/" ? "/" : `${base}/`;
  return files.filter((member) => {
    const path = clean(member.name);
    return path !== base && path.startsWith(start) && !path.slice(start.length).includes("/");
  });
}

/** As `stat -c '%f %s %Y %u %g %n'` prints it. */
export function statLine(member: TarMember): string {
  const type = member.target !== undefined ? 0o120000 : member.folder ? 0o040000 : 0o100000;
  const mode = type | (member.mode ?? (member.folder ? 0o755 : 0o644));
  const name = clean(member.name).split("/").at(-1) ?? "";
  return `${mode.toString(16)} ${member.bytes?.length ?? 0} ${Math.floor((member.modified ?? 0) / 1000)} 0 0 ./${name}\n`;
}

export function archiveRoutes(router: Router, docker: FakeDocker): void {
  const find = (files: TarMember[], path: string): TarMember => {
    const wanted = clean(path);
    if (wanted === "/") return { name: "/", folder: true };
    const found = files.find((member) => clean(member.name) === wanted);
    if (!found) throw new Refused(404, `Could not find the file ${path} in container`);
    return found;
  };
  const statHeader = (member: TarMember) => {
    const go = member.folder ? 0x80000000 : member.target !== undefined ? 0x08000000 : 0;
    const stat = {
      name: clean(member.name).split("/").at(-1) || "/",
      size: member.bytes?.length ?? 4096,
      mode: go + (member.mode ?? (member.folder ? 0o755 : 0o644)),
      mtime: new Date(member.modified ?? 0).toISOString(),
      linkTarget: member.target ?? "",
    };
    return { "x-docker-container-path-stat": btoa(JSON.stringify(stat)) };
  };

  router.on("HEAD", "/containers/:id/archive", ({ params, query }) => {
    const container = docker.container(params["id"] ?? "");
    return { headers: statHeader(find(container.files, query.get("path") ?? "/")) };
  });
  router.on("GET", "/containers/:id/archive", ({ params, query }) => {
    const container = docker.container(params["id"] ?? "");
    const root = find(container.files, query.get("path") ?? "/");
    const base = clean(root.name);
    const above = base.slice(0, base.lastIndexOf("/") + 1);
    const inside = base === "/" ? container.files : container.files.filter((member) => clean(member.name).startsWith(`${base}/`));
    const members = [root, ...inside].map((member) => ({ ...member, name: clean(member.name).slice(above.length) || "/" }));
    return { headers: { "content-type": "application/x-tar", ...statHeader(root) }, bytes: writeTar(members) };
  });
  router.on("PUT", "/containers/:id/archive", ({ params, query, body }) => {
    const container = docker.container(params["id"] ?? "");
    const folder = clean(query.get("path") ?? "/");
    if (!childrenOf(container.files, folder)) throw new Refused(404, `Could not find the file ${folder} in container`);
    const reader = new TarReader(
      (entry, bytes) => {
        const name = clean(`${folder}/${entry.name}`);
        container.files = container.files.filter((member) => clean(member.name) !== name);
        container.files.push({ name, folder: entry.kind === "folder", mode: entry.mode, modified: entry.modified, bytes: bytes ?? new Uint8Array(0) });
      },
      () => true,
    );
    reader.push(typeof body === "string" ? new TextEncoder().encode(body) : body);
    docker.say(container, "extract-to-dir");
    return { status: 200 };
  });
}
