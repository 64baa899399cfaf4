import type { ContainerDetails, ContainerSummary } from "../../../api/types";
import type { StatsMessage } from "../../../api/stats";
import type { FakeContainer, FakeDocker, FakeLogLine } from "../docker";
import { Refused, type Router } from "../http";
import { placesOf } from "./networks";

const iso = (at: number) => (at === 0 ? "0001-01-01T00:00:00Z" : new Date(at).toISOString());

/** Docker's own words for how long. */
function words(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 1) return "Less than a second";
  if (seconds < 60) return `${seconds} second${seconds === 1 ? "" : "s"}`;
  const minutes = Math.floor(seconds / 60);
  if (minutes === 1) return "About a minute";
  if (minutes < 46) return `${minutes} minutes`;
  const hours = Math.round(minutes / 60);
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  return `${Math.floor(hours / 24)} days`;
}

function status(container: FakeContainer): string {
  const now = Date.now();
  switch (container.state) {
    case "running":
    case "paused": {
      const up = `Up ${words(now - container.startedAt)}`;
      if (container.state === "paused") return `${up} (Paused)`;
      if (container.health === null) return up;
      return container.health === "starting" ? `${up} (health: starting)` : `${up} (${container.health})`;
    }
    case "restarting":
      return `Restarting (${container.exitCode}) ${words(now - container.finishedAt)} ago`;
    case "exited":
      return `Exited (${container.exitCode}) ${words(now - container.finishedAt)} ago`;
    case "created":
      return "Created";
    default:
      return container.state;
  }
}

export function summary(docker: FakeDocker, container: FakeContainer): ContainerSummary {
  const image = [...docker.images.values()].find((candidate) => candidate.tags.includes(container.image));
  return {
    Id: container.id,
    Names: [`/${container.name}`],
    Image: container.image,
    ImageID: image?.id ?? container.image,
    Command: container.command.join(" "),
    Created: Math.floor(container.createdAt / 1000),
    // Docker lists where a container listens while it runs.
    Ports: container.state === "running" || container.state === "paused" ? container.ports : [],
    Labels: container.labels,
    State: container.state,
    Status: status(container),
    NetworkSettings: { Networks: placesOf(docker, container) },
    Mounts: container.mounts,
  };
}

function details(docker: FakeDocker, container: FakeContainer): ContainerDetails {
  const ports: ContainerDetails["NetworkSettings"]["Ports"] = {};
  for (const port of container.ports) {
    const key = `${port.PrivatePort}/${port.Type}`;
    ports[key] ??= null;
    if (port.PublicPort !== undefined) ports[key] = [...(ports[key] ?? []), { HostIp: port.IP ?? "0.0.0.0", HostPort: String(port.PublicPort) }];
  }
  return {
    Id: container.id,
    Name: `/${container.name}`,
    Created: iso(container.createdAt),
    Path: container.command[0] ?? "",
    Args: container.command.slice(1),
    Image: summary(docker, container).ImageID,
    Platform: "linux",
    RestartCount: container.state === "restarting" ? 7 : 0,
    LogPath: "",
    State: {
      Status: container.state,
      Running: container.state === "running" || container.state === "paused",
      Paused: container.state === "paused",
      OOMKilled: container.outOfMemory,
      Pid: container.state === "running" ? 4211 : 0,
      ExitCode: container.exitCode,
      Error: "",
      StartedAt: iso(container.startedAt),
      FinishedAt: iso(container.finishedAt),
      ...(container.health && { Health: { Status: container.health, FailingStreak: container.health === "unhealthy" ? 3 : 0, Log: container.healthLog } }),
    },
    Config: {
      Hostname: container.id.slice(0, 12),
      User: "",
      Tty: container.terminal,
      OpenStdin: container.terminal,
      Env: container.env,
      Cmd: container.command,
      Entrypoint: null,
      Image: container.image,
      WorkingDir: "/app",
      Labels: container.labels,
    },
    HostConfig: {
      RestartPolicy: { Name: "unless-stopped", MaximumRetryCount: 0 },
      Memory: container.memoryLimit,
      NanoCpus: 0,
      NetworkMode: container.network,
      Privileged: false,
      AutoRemove: false,
      ReadonlyRootfs: false,
    },
    NetworkSettings: {
      Ports: ports,
      Networks: placesOf(docker, container),
    },
    Mounts: container.mounts,
  };
}

/** `[stream, 0, 0, 0, length]` before what was written, unless there is a terminal. */
export function frame(stream: "stdout" | "stderr", text: string, terminal: boolean): Uint8Array {
  const payload = new TextEncoder().encode(text);
  if (terminal) return payload;
  const framed = new Uint8Array(8 + payload.length);
  framed[0] = stream === "stderr" ? 2 : 1;
  new DataView(framed.buffer).setUint32(4, payload.length);
  framed.set(payload, 8);
  return framed;
}

function joined(chunks: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

export function containerRoutes(router: Router, docker: FakeDocker, delay: () => Promise<void>): void {
  router.on("GET", "/containers/json", ({ query }) => ({
    json: [...docker.containers.values()]
      .filter((container) => query.has("all") || container.state === "running" || container.state === "paused")
      .sort((a, b) => b.createdAt - a.createdAt)
      .map((container) => summary(docker, container)),
  }));
  router.on("GET", "/containers/:id/json", ({ params }) => ({ json: details(docker, docker.container(params["id"] ?? "")) }));

  const act = (verb: string, run: (container: FakeContainer) => boolean) =>
    router.on("POST", `/containers/:id/${verb}`, async ({ params }) => {
      const container = docker.container(params["id"] ?? "");
      await delay();
      return { status: run(container) ? 204 : 304 };
    });
  act("start", (container) => {
    if (container.labels["fake.refuses"]) throw new Refused(500, container.labels["fake.refuses"]);
    return docker.start(container);
  });
  act("stop", (container) => docker.end(container, 0, "kill", "die", "stop"));
  act("kill", (container) => docker.end(container, 137, "kill", "die"));
  act("restart", (container) => {
    docker.end(container, 0, "kill", "die", "stop");
    docker.start(container);
    docker.say(container, "restart");
    return true;
  });
  act("pause", (container) => {
    if (container.state !== "running") throw new Refused(409, `Container ${container.id} is not running`);
    container.state = "paused";
    docker.say(container, "pause");
    return true;
  });
  act("unpause", (container) => {
    if (container.state !== "paused") throw new Refused(409, `Container ${container.id} is not paused`);
    container.state = "running";
    docker.say(container, "unpause");
    return true;
  });
  router.on("POST", "/containers/:id/rename", ({ params, query }) => {
    const container = docker.container(params["id"] ?? "");
    const name = query.get("name") ?? "";
    if ([...docker.containers.values()].some((other) => other.name === name)) {
      throw new Refused(409, `Conflict. The container name "/${name}" is already in use.`);
    }
    container.name = name;
    docker.say(container, "rename");
    return { status: 204 };
  });
  router.on("DELETE", "/containers/:id", async ({ params, query }) => {
    const container = docker.container(params["id"] ?? "");
    await delay();
    docker.remove(container, query.has("force"));
    return { status: 204 };
  });

  router.on("GET", "/containers/:id/logs", ({ params, query }) => {
    const container = docker.container(params["id"] ?? "");
    const { log, terminal } = container;
    const stamp = query.has("timestamps");
    const write = (line: FakeLogLine) => frame(line.stream, `${stamp ? `${iso(line.at)} ` : ""}${line.text}\n`, terminal);
    const tail = query.get("tail") ?? "all";
    const first = tail === "all" ? 0 : Math.max(0, log.length - Number(tail));
    return {
      stream(out) {
        // As a socket gives it: many lines a piece.
        for (let from = first; from < log.length; from += 2000) {
          const lines: Uint8Array[] = [];
          for (let index = from; index < Math.min(from + 2000, log.length); index++) lines.push(write(log.line(index)));
          out.data(joined(lines));
        }
        if (!query.has("follow") || container.state !== "running" || log.every === 0) {
          if (!query.has("follow") || container.state !== "running") out.end();
          return {};
        }
        const timer = setInterval(() => {
          const line = { ...log.line(log.length++), at: Date.now() };
          out.data(write(line));
        }, log.every);
        const ended = docker.onEvent((event) => {
          if (event.Actor.ID === container.id && event.Action === "die") out.end();
        });
        return {
          close() {
            clearInterval(timer);
            ended();
          },
        };
      },
    };
  });

  router.on("GET", "/containers/:id/stats", ({ params }) => {
    const container = docker.container(params["id"] ?? "");
    let tick = Number.parseInt(container.id.slice(0, 4), 16) % 97;
    let before: StatsMessage["cpu_stats"] = { cpu_usage: { total_usage: 0 } };
    let cpu = 5e9;
    let system = 900e9;
    const counters = { received: 2.4e6, sent: 9.1e5, read: 3.1e7, written: 8.2e6 };
    const measure = (): StatsMessage => {
      tick++;
      const swing = 1 + 0.45 * Math.sin(tick / 3.1) + 0.25 * Math.sin(tick / 1.3);
      const share = Math.max(0.0004, container.load.cpu * swing);
      cpu += share * 1e9;
      system += 4e9;
      counters.received += share * 90_000;
      counters.sent += share * 260_000;
      counters.read += tick % 7 === 0 ? 400_000 : 0;
      counters.written += share * 70_000;
      const now: StatsMessage["cpu_stats"] = { cpu_usage: { total_usage: cpu }, system_cpu_usage: system, online_cpus: 4 };
      const message: StatsMessage = {
        read: new Date().toISOString(),
        cpu_stats: now,
        precpu_stats: before,
        memory_stats: {
          usage: container.load.memory * (1 + 0.04 * Math.sin(tick / 5)) + 6e6,
          limit: container.memoryLimit || 4 * 1024 ** 3,
          stats: { inactive_file: 6e6 },
        },
        networks: { eth0: { rx_bytes: counters.received, tx_bytes: counters.sent } },
        blkio_stats: {
          io_service_bytes_recursive: [
            { op: "read", value: counters.read },
            { op: "write", value: counters.written },
          ],
        },
        pids_stats: { current: 3 + (tick % 3) },
      };
      before = now;
      return message;
    };
    return {
      stream(out) {
        const send = () => {
          if (container.state === "running") out.data(`${JSON.stringify(measure())}\n`);
          else out.end();
        };
        measure();
        send();
        const timer = setInterval(send, 1000);
        return { close: () => clearInterval(timer) };
      },
    };
  });
}
