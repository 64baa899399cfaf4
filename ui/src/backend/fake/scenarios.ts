/** What the fake holds at the start, chosen by `?fake=NAME`. */
import type { TarMember } from "../../api/tar";
import type { MountPoint, Network, Port } from "../../api/types";
import { BackendError } from "../backend";
import { newId, type FakeContainer, type FakeDocker, type FakeImage, type FakeLog, type FakeLogLine } from "./docker";
import type { FakeMachine } from "./machine";
import { stores } from "./stores";

export interface World {
  docker: FakeDocker;
  machine: FakeMachine;
  /** Every call of the engine fails so. */
  unreachable: BackendError | null;
}

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const MIB = 1024 ** 2;

export const scenarios: Record<string, (world: World) => void> = {
  default: ({ docker }) => harbour(docker),
  empty: ({ docker }) => networks(docker),
  /** Never started: neither a disk nor an image. */
  new({ docker, machine }) {
    networks(docker);
    machine.set({ state: "stopped", cpus: 0, memory_mib: 0, disk_bytes: 0, disk_used_bytes: 0, accelerator: "", accelerator_reason: "", pid: 0, started_at_ms: 0, ready_after_ms: null, last_exit: null });
  },
  stopped({ docker, machine }) {
    harbour(docker);
    machine.set({ state: "stopped", pid: 0, last_exit: { at_ms: Date.now() - DAY, clean: true, reason: "stopped by the user" } });
  },
  starting({ docker, machine }) {
    harbour(docker);
    machine.set({
      state: "starting",
      guest: { stage: { stage: "starting_engine" }, agent_version: "0.1.0", kernel: "6.12.41", uptime_ms: 600, engine_restarts: 0, figures: null },
    });
  },
  crashed({ docker, machine }) {
    harbour(docker);
    machine.set({
      state: "stopped",
      pid: 0,
      last_exit: { at_ms: Date.now() - 5 * MINUTE, clean: false, reason: "the machine process was killed by signal 9 (out of memory?)" },
    });
    machine.refuses = "The disk /home/ada/.coracle/default/disk.raw cannot grow: no space left on the file system. Free at least 2 GiB and start again.";
  },
  older({ docker, machine }) {
    harbour(docker);
    docker.version = "28.1.0";
    if (machine.status.guest) machine.set({ guest: { ...machine.status.guest, agent_version: "0.0.9" } });
  },
  denied(world) {
    harbour(world.docker);
    world.unreachable = new BackendError("engine_unreachable", "connect to /home/ada/.coracle/default/docker.sock: Permission denied (os error 13)");
  },
  many: ({ docker }) => {
    networks(docker);
    for (let number = 0; number < 1000; number++) {
      const project = number % 3 === 0 ? `team-${String(Math.floor(number / 30)).padStart(2, "0")}` : null;
      add(docker, {
        name: `service-${String(number).padStart(4, "0")}`,
        image: ["nginx:1.29", "postgres:17", "redis:8", "python:3.14-slim"][number % 4] ?? "nginx:1.29",
        state: number % 5 === 4 ? "exited" : "running",
        age: (number + 1) * 13 * MINUTE,
        ended: number % 5 === 4 ? (number + 1) * 7 * MINUTE : undefined,
        ports: number % 4 === 0 ? [port(80, 20_000 + number)] : [],
        project: project ? [project, "service"] : null,
        load: { cpu: (number % 17) / 100, memory: (20 + (number % 90)) * MIB },
      });
    }
  },
  hostile: ({ docker }) => hostile(docker),
};

export function networks(docker: FakeDocker): void {
  for (const [index, [name, driver]] of ([["bridge", "bridge"], ["host", "host"], ["none", "null"], ["harbour-shop_default", "bridge"], ["field-notes_default", "bridge"]] as const).entries()) {
    const id = newId();
    const project = name.endsWith("_default") ? name.replace("_default", "") : null;
    docker.networks.set(id, {
      Id: id,
      Name: name,
      Created: new Date(Date.now() - 40 * DAY).toISOString(),
      Driver: driver,
      Scope: "local",
      Internal: false,
      Attachable: false,
      EnableIPv6: false,
      IPAM: { Driver: "default", Config: driver === "bridge" ? [{ Subnet: `172.${17 + index}.0.0/16`, Gateway: `172.${17 + index}.0.1` }] : [] },
      Labels: project ? { "com.docker.compose.project": project, "com.docker.compose.network": "default" } : {},
      Options: {},
    });
  }
}

function harbour(docker: FakeDocker): void {
  networks(docker);
  for (const [name, size, files] of [["harbour-shop_db", 412 * MIB, 38], ["harbour-shop_media", 1340 * MIB, 12], ["field-notes_data", 21 * MIB, 6], ["pip-cache", 880 * MIB, 4]] as const) {
    const [project, volume] = name.split("_");
    docker.volumes.set(name, {
      Name: name,
      Driver: "local",
      Mountpoint: `/var/lib/docker/volumes/${name}/_data`,
      CreatedAt: new Date(Date.now() - 30 * DAY).toISOString(),
      Labels: volume ? { "com.docker.compose.project": project ?? "", "com.docker.compose.volume": volume } : null,
      Options: null,
      Scope: "local",
      size,
      files: Array.from({ length: files }, (_, index) => ({ name: `/segment-${index}.dat`, bytes: new Uint8Array(2048 * (index + 1)), modified: Date.now() - index * HOUR })),
    });
  }
  image(docker, "nginx:1.29", 192, 74);
  image(docker, "harbour/api:dev", 318, 74);
  image(docker, "postgres:17", 438, 74);
  image(docker, "redis:8", 128, 74);
  image(docker, "python:3.14-slim", 121, 74);
  image(docker, "grafana/grafana:12.3", 512, 0);
  image(docker, null, 306, 74);
  stores(docker);

  const shop = "harbour-shop";
  add(docker, { name: `${shop}-web-1`, image: "nginx:1.29", project: [shop, "web"], age: 3 * HOUR, ports: [port(80, 8080), port(443, 8443)], load: { cpu: 0.021, memory: 14 * MIB }, health: "healthy", log: webLog(4200, 900), mounts: [bind("/home/ada/shop/nginx.conf", "/etc/nginx/nginx.conf", false), volume("harbour-shop_media", "/srv/media")] });
  add(docker, { name: `${shop}-api-1`, image: "harbour/api:dev", project: [shop, "api"], age: 3 * HOUR, ports: [port(3000, 3000)], load: { cpu: 0.34, memory: 212 * MIB }, health: "healthy", log: apiLog(1800, 700), mounts: [bind("/home/ada/shop/api", "/app", true)], env: ["DATABASE_URL=postgres://shop:anchor@db/shop", "API_TOKEN=tok_4f9a0d21", "LOG_LEVEL=debug"] });
  add(docker, { name: `${shop}-db-1`, image: "postgres:17", project: [shop, "db"], age: 3 * HOUR, ports: [{ PrivatePort: 5432, Type: "tcp" }], load: { cpu: 0.058, memory: 168 * MIB }, health: "healthy", log: apiLog(600, 0), mounts: [volume("harbour-shop_db", "/var/lib/postgresql/data")], env: ["POSTGRES_USER=shop", "POSTGRES_PASSWORD=anchor"] });
  add(docker, { name: `${shop}-cache-1`, image: "redis:8", project: [shop, "cache"], age: 3 * HOUR, load: { cpu: 0.004, memory: 9 * MIB }, log: apiLog(80, 0) });
  add(docker, { name: `${shop}-worker-1`, image: "harbour/api:dev", project: [shop, "worker"], age: 3 * HOUR, state: "exited", exitCode: 1, ended: 12 * MINUTE, log: apiLog(340, 0), env: ["QUEUE=mail"] });
  const notes = "field-notes";
  add(docker, { name: `${notes}-app-1`, image: "python:3.14-slim", project: [notes, "app"], age: 2 * DAY, ports: [port(8000, 8000)], load: { cpu: 0.012, memory: 61 * MIB }, health: "unhealthy", log: apiLog(900, 2500), mounts: [volume("field-notes_data", "/data")] });
  add(docker, { name: `${notes}-jobs-1`, image: "python:3.14-slim", project: [notes, "jobs"], age: 2 * DAY, state: "paused", load: { cpu: 0, memory: 33 * MIB } });
  add(docker, { name: "grafana", image: "grafana/grafana:12.3", age: 6 * DAY, ports: [port(3000, 3001)], load: { cpu: 0.017, memory: 96 * MIB }, log: apiLog(700, 3000), labels: { "fake.noshell": "" } });
  add(docker, { name: "busy-logger", image: "python:3.14-slim", age: 40 * MINUTE, load: { cpu: 1.42, memory: 48 * MIB }, log: apiLog(100_000, 250) });
  add(docker, { name: "registry-mirror", image: "registry:3", age: 9 * DAY, state: "restarting", exitCode: 2, ended: 20_000, log: apiLog(40, 0) });
  add(docker, { name: "import-2025", image: "python:3.14-slim", age: 11 * DAY, state: "exited", exitCode: 137, ended: 10 * DAY, outOfMemory: true, log: apiLog(210, 0) });
  add(docker, { name: "nightly-backup", image: "postgres:17", age: 14 * HOUR, state: "exited", ended: 13 * HOUR, log: apiLog(25, 0) });
  add(docker, { name: "port-thief", image: "nginx:1.29", age: 20 * DAY, state: "created", ports: [], labels: { "fake.refuses": "driver failed programming external connectivity on endpoint port-thief: Bind for 0.0.0.0:8080 failed: port is already allocated" } });
  moreNetworks(docker);
}

/** Beside compose's own: one without a way out whose containers are on another, too; one with IPv6; one that nobody is on. */
function moreNetworks(docker: FakeDocker): void {
  const make = (name: string, changes: Partial<Network>) => {
    const network: Network = {
      Id: newId(),
      Name: name,
      Created: new Date(Date.now() - 6 * DAY).toISOString(),
      Driver: "bridge",
      Scope: "local",
      Internal: false,
      Attachable: false,
      EnableIPv6: false,
      IPAM: { Driver: "default", Config: [] },
      Labels: {},
      Options: {},
      ...changes,
    };
    docker.networks.set(network.Id, network);
    return network;
  };
  const backend = make("harbour-shop_backend", {
    Internal: true,
    IPAM: { Driver: "default", Config: [{ Subnet: "172.24.0.0/16" }] },
    Labels: { "com.docker.compose.project": "harbour-shop", "com.docker.compose.network": "backend" },
  });
  for (const container of docker.containers.values()) {
    if (/^harbour-shop-(api|db|cache|worker)-1$/.test(container.name)) docker.join(container, backend);
  }
  make("six", { EnableIPv6: true, IPAM: { Driver: "default", Config: [{ Subnet: "172.25.0.0/16", Gateway: "172.25.0.1" }, { Subnet: "fd00:c0:ac1e::/64", Gateway: "fd00:c0:ac1e::1" }] }, Options: { "com.docker.network.bridge.name": "br-six" } });
  make("boatyard", { Driver: "macvlan", IPAM: { Driver: "default", Config: [{ Subnet: "10.44.0.0/24", Gateway: "10.44.0.254" }] }, Labels: { team: "shipwrights" }, Options: { parent: "eth0.44" } });
}

function hostile(docker: FakeDocker): void {
  networks(docker);
  const markup = `<img src=x onerror="window.__pwned=1"><b>bold</b>`;
  const overrides = "\u202Egnp.exe\u202C \x1b[31mred\x1b[0m \x07bell";
  image(docker, `evil/<script>window.__pwned=1</script>:latest`, 12, 0);
  add(docker, { name: markup, image: `evil/<script>window.__pwned=1</script>:latest`, age: HOUR, ports: [port(80, 8081)], labels: { [markup]: markup, [overrides]: overrides }, env: [`X=${markup}`, `Y=${overrides}`], log: hostileLog(), files: hostileFiles() });
  add(docker, { name: overrides, image: "a".repeat(400), age: 2 * HOUR, project: [`${markup} project`, "web"], log: apiLog(10, 0) });
  add(docker, { name: "n".repeat(250), image: "nginx:1.29", age: 3 * HOUR, ports: Array.from({ length: 60 }, (_, index) => port(9000 + index, 9000 + index)), project: [`${markup} project`, "long"] });
}

interface Options {
  name: string;
  image: string;
  age: number;
  state?: FakeContainer["state"];
  exitCode?: number;
  /** How long ago it ended. */
  ended?: number;
  outOfMemory?: boolean;
  health?: FakeContainer["health"];
  ports?: Port[];
  project?: [project: string, service: string] | null;
  labels?: Record<string, string>;
  env?: string[];
  mounts?: MountPoint[];
  load?: { cpu: number; memory: number };
  log?: FakeLog;
  files?: TarMember[];
  /** Bytes in its own layer. */
  written?: number;
}

export function add(docker: FakeDocker, options: Options): FakeContainer {
  const now = Date.now();
  const labels: Record<string, string> = { ...options.labels };
  if (options.project) {
    labels["com.docker.compose.project"] = options.project[0];
    labels["com.docker.compose.service"] = options.project[1];
    labels["com.docker.compose.container-number"] = "1";
    labels["com.docker.compose.project.working_dir"] = `/home/ada/${options.project[0]}`;
  }
  const container: FakeContainer = {
    id: newId(),
    name: options.name,
    image: options.image,
    command: ["/docker-entrypoint.sh", "serve", "--port", "80"],
    createdAt: now - options.age,
    startedAt: options.state === "created" ? 0 : now - options.age,
    finishedAt: options.ended === undefined ? 0 : now - options.ended,
    state: options.state ?? "running",
    exitCode: options.exitCode ?? 0,
    outOfMemory: options.outOfMemory ?? false,
    health: options.health ?? null,
    healthLog: [{ Start: new Date(now - 20_000).toISOString(), End: new Date(now - 19_900).toISOString(), ExitCode: options.health === "unhealthy" ? 1 : 0, Output: options.health === "unhealthy" ? "curl: (7) Failed to connect to localhost port 8000: Connection refused" : "ok" }],
    ports: options.ports ?? [],
    labels,
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ...(options.env ?? [])],
    mounts: options.mounts ?? [],
    network: "",
    address: "",
    also: {},
    written: options.written ?? 12 * MIB,
    terminal: false,
    memoryLimit: 0,
    load: options.load ?? { cpu: 0.01, memory: 20 * MIB },
    log: options.log ?? apiLog(120, 0),
    files: options.files ?? rootFiles(),
  };
  const network = (name: string) => [...docker.networks.values()].find(({ Name }) => Name === name);
  const joined = network(`${options.project?.[0] ?? ""}_default`) ?? network("bridge");
  if (joined) docker.join(container, joined);
  docker.containers.set(container.id, container);
  return container;
}

function image(docker: FakeDocker, tag: string | null, mib: number, shared: number): FakeImage {
  const id = `sha256:${newId()}`;
  const now = Date.now();
  const made: FakeImage = {
    id,
    tags: tag ? [tag] : [],
    digests: tag ? [`${tag.split(":")[0]}@sha256:${newId()}`] : [],
    createdAt: now - 12 * DAY,
    size: mib * MIB,
    shared: shared * MIB,
    architecture: "amd64",
    labels: { "org.opencontainers.image.source": "https://example.org/source" },
    env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    command: ["serve"],
    entrypoint: ["/docker-entrypoint.sh"],
    ports: ["80/tcp"],
    layers: [
      { command: "/bin/sh -c #(nop) ADD file:5d20be7a1f33 in / ", size: 74 * MIB, createdAt: now - 30 * DAY },
      { command: "ENV VERSION=1.29", size: 0, createdAt: now - 12 * DAY },
      { command: "RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends ca-certificates curl # buildkit", size: Math.max(1, mib - 76) * MIB, createdAt: now - 12 * DAY },
      { command: "COPY docker-entrypoint.sh / # buildkit", size: 2 * MIB, createdAt: now - 12 * DAY },
      { command: 'CMD ["serve"]', size: 0, createdAt: now - 12 * DAY },
    ],
  };
  docker.images.set(id, made);
  return made;
}

const port = (PrivatePort: number, PublicPort: number): Port => ({ IP: "127.0.0.1", PrivatePort, PublicPort, Type: "tcp" });
const bind = (Source: string, Destination: string, RW: boolean): MountPoint => ({ Type: "bind", Source, Destination, Mode: RW ? "rw" : "ro", RW, Propagation: "rprivate" });
const volume = (Name: string, Destination: string): MountPoint => ({ Type: "volume", Name, Source: `/var/lib/docker/volumes/${Name}/_data`, Destination, Driver: "local", Mode: "z", RW: true, Propagation: "" });

const at = (length: number, every: number, index: number) => Date.now() - Math.max(0, length - index) * Math.max(every, 400);

function webLog(length: number, every: number): FakeLog {
  const paths = ["/", "/basket", "/api/ships?page=2", "/static/app.css", "/login"];
  return {
    length,
    every,
    line(index): FakeLogLine {
      const code = index % 41 === 40 ? 502 : index % 9 === 8 ? 304 : 200;
      return { stream: "stdout", at: at(length, every, index), text: `172.20.0.1 - - "GET ${paths[index % paths.length]} HTTP/1.1" ${code} ${400 + ((index * 37) % 9000)} "-" "Mozilla/5.0"` };
    },
  };
}

function apiLog(length: number, every: number): FakeLog {
  return {
    length,
    every,
    line(index): FakeLogLine {
      const when = at(length, every, index);
      if (index % 57 === 56) return { stream: "stderr", at: when, text: `\x1b[1;31mERROR\x1b[0m request ${index} failed: \x1b[4mconnection refused\x1b[0m (db:5432), retrying in 250 ms` };
      if (index % 23 === 22) return { stream: "stderr", at: when, text: `\x1b[33mWARN\x1b[0m  slow query: ${120 + (index % 400)} ms \x1b[2mSELECT * FROM orders WHERE harbour = $1\x1b[0m` };
      return { stream: "stdout", at: when, text: `\x1b[32mINFO\x1b[0m  request \x1b[36m${index}\x1b[0m GET /orders/${(index * 7919) % 100_000} → 200 in ${3 + (index % 40)} ms` };
    },
  };
}

function hostileLog(): FakeLog {
  const lines = [
    `<script>window.__pwned=1</script><img src=x onerror="window.__pwned=1">`,
    "\x1b[2J\x1b[H\x1b]0;title\x07\x1b[31mred after clear screen",
    "still red \x1b[0m\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07 \x1b[999;999Hmoved",
    "\u202Egnp.exe\u202C and \x00 nul \x08 backspace \x07 bell",
    "progress 10 %\rprogress 50 %\rprogress 100 %",
    "\x1b[38;5;208morange\x1b[0m \x1b[38;2;10;200;150mteal\x1b[0m \x1b[48;5;22mgreen ground\x1b[0m \x1b[7minverse\x1b[0m",
    "unfinished escape \x1b[",
  ];
  return {
    length: lines.length + 2,
    every: 0,
    line(index) {
      if (index === lines.length) return { stream: "stdout", at: Date.now(), text: "x".repeat(10 * MIB) };
      return { stream: index % 2 === 0 ? "stdout" : "stderr", at: Date.now(), text: lines[index] ?? "the line after 10 MiB" };
    },
  };
}

function rootFiles(): TarMember[] {
  const text = (words: string) => new TextEncoder().encode(words);
  const when = Date.UTC(2026, 9, 12, 8, 30);
  const folder = (name: string): TarMember => ({ name, folder: true, modified: when });
  const file = (name: string, words: string, mode = 0o644): TarMember => ({ name, bytes: text(words), mode, modified: when });
  return [
    ...["/app", "/app/src", "/bin", "/etc", "/etc/nginx", "/home", "/root", "/tmp", "/usr", "/usr/bin", "/var", "/var/log"].map(folder),
    file("/app/package.json", '{\n  "name": "harbour-api"\n}\n'),
    file("/app/README.md", "# Harbour API\n"),
    file("/app/src/main.ts", "console.log('ahoy');\n"),
    file("/app/start.sh", "#!/bin/sh\nexec node src/main.ts\n", 0o755),
    { name: "/app/current", target: "src", modified: when },
    file("/bin/sh", "ELF", 0o755),
    file("/etc/hostname", "a1b2c3\n"),
    file("/etc/hosts", "127.0.0.1 localhost\n"),
    file("/etc/nginx/nginx.conf", "worker_processes auto;\n"),
    file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
  ];
}

function hostileFiles(): TarMember[] {
  return [...rootFiles(), { name: `/<img src=x onerror="window.__pwned=1">`, bytes: new Uint8Array(3) }, { name: "/\u202Egpj.sh", bytes: new Uint8Array(3) }, { name: `/${"long".repeat(50)}`, bytes: new Uint8Array(9) }];
}
