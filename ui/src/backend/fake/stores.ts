/** What piles up on a disk: images and volumes that nobody uses any more. */
import type { TarMember } from "../../api/tar";
import { newId, type FakeDocker } from "./docker";

const MIB = 1024 ** 2;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;

export function stores(docker: FakeDocker): void {
  const now = Date.now();
  const base = { command: "/bin/sh -c #(nop) ADD file:5d20be7a1f33 in / ", size: 74 * MIB, createdAt: now - 30 * DAY };
  const build = (tag: string | null, layers: [command: string, mib: number][], age: number, more: Partial<{ digests: string[]; volumes: string[] }> = {}) => {
    const id = `sha256:${newId()}`;
    const all = [base, ...layers.map(([command, mib]) => ({ command, size: mib * MIB, createdAt: now - age }))];
    docker.images.set(id, {
      id,
      tags: tag ? [tag] : [],
      digests: more.digests ?? [],
      createdAt: now - age,
      size: all.reduce((sum, { size }) => sum + size, 0),
      shared: 0,
      architecture: "amd64",
      labels: {},
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NODE_ENV=production"],
      command: ["node", "src/main.ts"],
      entrypoint: [],
      ports: ["3000/tcp"],
      layers: all,
    });
  };
  // Three builds of one thing: the older ones share with each other what the newest no longer has.
  const node: [string, number] = ["RUN /bin/sh -c apt-get update && apt-get install -y nodejs npm # buildkit", 118];
  const modules: [string, number] = ["RUN /bin/sh -c npm ci --omit=dev # buildkit", 96];
  build(null, [node, modules, ["COPY src /app/src # buildkit", 3]], 2 * DAY);
  build(null, [node, modules, ["COPY src /app/src # buildkit", 4]], 3 * DAY);
  build("node:24-bookworm-slim", [["RUN /bin/sh -c groupadd node && curl -fsSLO node.tar.xz # buildkit", 131]], 21 * DAY);
  build("ghcr.io/harbour/tide-tables:2026.11", [["COPY tables /srv/tables # buildkit", 642]], 5 * DAY);
  build(null, [["COPY registry /bin/registry # buildkit", 19]], 40 * DAY, { digests: [`registry@sha256:${newId()}`] });

  const folder = (name: string): TarMember => ({ name, folder: true, modified: now - 6 * DAY });
  const file = (name: string, kib: number, mode = 0o644): TarMember => ({ name, bytes: new Uint8Array(kib * 1024), mode, modified: now - 5 * HOUR });
  const media = docker.volumes.get("harbour-shop_media");
  if (media) {
    media.files = [
      folder("/uploads"),
      folder("/uploads/2026"),
      folder("/thumbnails"),
      file("/uploads/2026/quay-at-dawn.jpg", 840),
      file("/uploads/2026/rope-coil.jpg", 512),
      file("/thumbnails/quay-at-dawn.webp", 14),
      file("/index.json", 6),
      file("/resize.sh", 2, 0o755),
      { name: "/latest", target: "uploads/2026", modified: now - 5 * HOUR },
    ];
  }
  for (const [mib, age, project] of [[186, 9, null], [0, 2, null], [64, 31, "old-ferry"]] as const) {
    const Name = project ? `${project}_data` : newId();
    docker.volumes.set(Name, {
      Name,
      Driver: "local",
      Mountpoint: `/var/lib/docker/volumes/${Name}/_data`,
      CreatedAt: new Date(now - age * DAY).toISOString(),
      Labels: project ? { "com.docker.compose.project": project, "com.docker.compose.volume": "data" } : { "com.docker.volume.anonymous": "" },
      Options: null,
      Scope: "local",
      size: mib * MIB,
      files: mib === 0 ? [] : [file("/data.db", 640)],
    });
  }
  docker.volumes.set("team-share", {
    Name: "team-share",
    Driver: "local",
    Mountpoint: "/var/lib/docker/volumes/team-share/_data",
    CreatedAt: new Date(now - 12 * DAY).toISOString(),
    Labels: null,
    Options: { type: "nfs", o: "addr=192.0.2.10,ro", device: ":/srv/share" },
    Scope: "local",
    size: 0,
    files: [file("/README.txt", 1)],
  });
}
