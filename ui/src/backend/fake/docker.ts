/** The things of a small Docker, and what happens to them. Routes read and change it; scenarios fill it. */
import type { ContainerState, DockerEvent, HealthResult, MountPoint, Network, Port, Volume } from "../../api/types";
import type { TarMember } from "../../api/tar";
import { Refused } from "./http";

export interface FakeContainer {
  id: string;
  name: string;
  image: string;
  command: string[];
  createdAt: number;
  startedAt: number;
  finishedAt: number;
  state: ContainerState;
  exitCode: number;
  outOfMemory: boolean;
  health: "starting" | "healthy" | "unhealthy" | null;
  healthLog: HealthResult[];
  ports: Port[];
  labels: Record<string, string>;
  env: string[];
  mounts: MountPoint[];
  /** The first network that it is on, empty for none, and its address there. */
  network: string;
  address: string;
  /** The other networks that it is on, with its addresses. */
  also: Record<string, string>;
  /** Bytes that it wrote into its own layer. */
  written: number;
  terminal: boolean;
  memoryLimit: number;
  /** How busy it is, 1 being one core, and what it holds: what its stats swing around. */
  load: { cpu: number; memory: number };
  log: FakeLog;
  files: TarMember[];
}

export interface FakeLogLine {
  stream: "stdout" | "stderr";
  at: number;
  text: string;
}

/** Lines already written, made when they are asked for, and a line now and then. */
export interface FakeLog {
  length: number;
  line(index: number): FakeLogLine;
  /** Milliseconds between new lines; 0 for none. */
  every: number;
}

export interface FakeImage {
  id: string;
  tags: string[];
  digests: string[];
  createdAt: number;
  size: number;
  shared: number;
  architecture: string;
  labels: Record<string, string>;
  env: string[];
  command: string[];
  entrypoint: string[];
  ports: string[];
  layers: { command: string; size: number; createdAt: number }[];
}

export class FakeDocker {
  containers = new Map<string, FakeContainer>();
  images = new Map<string, FakeImage>();
  volumes = new Map<string, Volume & { size: number; files: TarMember[] }>();
  networks = new Map<string, Network>();
  version = "28.5.1";
  /** No registry can be reached. */
  offline = false;
  #listeners = new Set<(event: DockerEvent) => void>();

  onEvent(listener: (event: DockerEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  emit(type: string, action: string, id: string, attributes: Record<string, string> = {}): void {
    const now = Date.now();
    const event: DockerEvent = { Type: type, Action: action, Actor: { ID: id, Attributes: attributes }, time: Math.floor(now / 1000), timeNano: now * 1e6 };
    for (const listener of this.#listeners) listener(event);
  }

  container(nameOrId: string): FakeContainer {
    const found =
      this.containers.get(nameOrId) ??
      [...this.containers.values()].find((container) => container.name === nameOrId || (nameOrId.length >= 4 && container.id.startsWith(nameOrId)));
    if (!found) throw new Refused(404, `No such container: ${nameOrId}`);
    return found;
  }

  image(name: string): FakeImage {
    const tagged = name.includes(":") ? name : `${name}:latest`;
    const bare = name.replace(/^sha256:/, "");
    const found = [...this.images.values()].find(
      (image) => image.id === name || image.tags.includes(tagged) || image.digests.includes(name) || (bare.length >= 6 && image.id.startsWith(`sha256:${bare}`)),
    );
    if (!found) throw new Refused(404, `No such image: ${tagged}`);
    return found;
  }

  /** The networks that a container is on, and its address in each. */
  places(container: FakeContainer): [name: string, address: string][] {
    return [...(container.network === "" ? [] : [[container.network, container.address] as [string, string]]), ...Object.entries(container.also)];
  }

  /** Puts a container on a network, at a free address unless it asks for one. */
  join(container: FakeContainer, network: Network, asked?: string): void {
    const subnet = network.IPAM.Config?.[0]?.Subnet;
    const taken = [...this.containers.values()].filter((other) => this.places(other).some(([name]) => name === network.Name)).length;
    const address = asked ?? (subnet && !subnet.includes(":") ? subnet.replace(/\.\d+\/\d+$/, `.${(taken % 250) + 2}`) : "");
    if (container.network === "" || container.network === "none") Object.assign(container, { network: network.Name, address });
    else container.also[network.Name] = address;
  }

  /** Whether it was there. */
  leave(container: FakeContainer, network: string): boolean {
    if (container.network === network) {
      const [next] = Object.entries(container.also);
      container.network = next?.[0] ?? "";
      container.address = next?.[1] ?? "";
      if (next) delete container.also[next[0]];
      return true;
    }
    const was = network in container.also;
    delete container.also[network];
    return was;
  }

  say(container: FakeContainer, action: string, attributes: Record<string, string> = {}): void {
    this.emit("container", action, container.id, { name: container.name, image: container.image, ...container.labels, ...attributes });
  }

  start(container: FakeContainer): boolean {
    if (container.state === "running") return false;
    if (container.state === "paused") throw new Refused(409, "cannot start a paused container, try unpause instead");
    container.state = "running";
    container.startedAt = Date.now();
    container.exitCode = 0;
    this.say(container, "start");
    return true;
  }

  end(container: FakeContainer, code: number, ...actions: string[]): boolean {
    if (container.state !== "running" && container.state !== "paused" && container.state !== "restarting") return false;
    container.state = "exited";
    container.finishedAt = Date.now();
    container.exitCode = code;
    for (const action of actions) this.say(container, action, action === "die" ? { exitCode: String(code) } : {});
    return true;
  }

  remove(container: FakeContainer, force: boolean): void {
    if (!force && (container.state === "running" || container.state === "paused")) {
      throw new Refused(409, `cannot remove container "/${container.name}": container is ${container.state}: stop the container before removing or force remove`);
    }
    this.end(container, 137, "kill", "die");
    this.containers.delete(container.id);
    this.say(container, "destroy");
  }
}

let made = 1;

/** A new id: 64 hexadecimal digits that look like any other. */
export function newId(): string {
  let state = (made++ * 2654435761) >>> 0;
  let id = "";
  while (id.length < 64) {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    id += state.toString(16).padStart(8, "0");
  }
  return id.slice(0, 64);
}
