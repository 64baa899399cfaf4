/** The form with which an image is run: what is in it, whether that makes sense, and the request it becomes. */
import type { ContainerSummary, CreateRequest, ImageDetails } from "../../api/types";

export interface RunForm {
  name: string;
  ports: { host: string; container: string; protocol: "tcp" | "udp" }[];
  mounts: { kind: "volume" | "bind"; source: string; target: string; readOnly: boolean }[];
  environment: { name: string; value: string }[];
  command: string;
  network: string;
  restart: "no" | "on-failure" | "unless-stopped" | "always";
  autoRemove: boolean;
  terminal: boolean;
}

/** What an image suggests: a row for each port it says it listens on. */
export function emptyForm(image: ImageDetails): RunForm {
  const ports = Object.keys(image.Config.ExposedPorts ?? {}).map((key) => {
    const [container = "", protocol] = key.split("/");
    return { host: "", container, protocol: protocol === "udp" ? ("udp" as const) : ("tcp" as const) };
  });
  return { name: "", ports, mounts: [], environment: [], command: "", network: "bridge", restart: "no", autoRemove: false, terminal: false };
}

/** A field, and which of the words in `text.images.running.problems` is wrong with it. */
export type Problem =
  | "name" | "nameTaken"
  | "port" | "portMissing" | "portTwice" | "portInUse"
  | "target" | "targetTwice" | "source" | "volume"
  | "variable" | "variableTwice"
  | "command" | "autoRemove";

/** Problems by field: `name`, `ports.0.host`, `mounts.1.target`, `environment.0.name`, `command`, `autoRemove`. */
export type Problems = Map<string, { problem: Problem; by?: string }>;

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;

const portNumber = (typed: string): number | null => {
  const number = Number(typed.trim());
  return /^\d+$/.test(typed.trim()) && number >= 1 && number <= 65535 ? number : null;
};

const normal = (path: string) => `/${path.split("/").filter((part) => part !== "").join("/")}`;

export function problems(form: RunForm, containers: readonly ContainerSummary[]): Problems {
  const found: Problems = new Map();
  const name = form.name.trim();
  if (name !== "" && !NAME.test(name)) found.set("name", { problem: "name" });
  else if (containers.some((container) => container.Names.includes(`/${name}`))) found.set("name", { problem: "nameTaken" });

  const hosts = new Set<string>();
  form.ports.forEach((port, index) => {
    if (port.container.trim() === "") found.set(`ports.${index}.container`, { problem: "portMissing" });
    else if (portNumber(port.container) === null) found.set(`ports.${index}.container`, { problem: "port" });
    if (port.host.trim() === "") return;
    const host = portNumber(port.host);
    const key = `${host}/${port.protocol}`;
    const owner = containers.find((container) => container.Ports.some((open) => open.PublicPort === host && open.Type === port.protocol));
    if (host === null) found.set(`ports.${index}.host`, { problem: "port" });
    else if (hosts.has(key)) found.set(`ports.${index}.host`, { problem: "portTwice" });
    else if (owner) found.set(`ports.${index}.host`, { problem: "portInUse", by: owner.Names[0]?.replace(/^\//, "") ?? "" });
    hosts.add(key);
  });

  const targets = new Set<string>();
  form.mounts.forEach((mount, index) => {
    const target = mount.target.trim();
    if (!target.startsWith("/") || normal(target) === "/") found.set(`mounts.${index}.target`, { problem: "target" });
    else if (targets.has(normal(target))) found.set(`mounts.${index}.target`, { problem: "targetTwice" });
    targets.add(normal(target));
    const source = mount.source.trim();
    // An empty volume is an anonymous one.
    if (mount.kind === "volume" && source !== "" && !NAME.test(source)) found.set(`mounts.${index}.source`, { problem: "volume" });
    if (mount.kind === "bind" && !source.startsWith("/") && !/^[a-zA-Z]:[\\/]/.test(source)) found.set(`mounts.${index}.source`, { problem: "source" });
  });

  const variables = new Set<string>();
  form.environment.forEach((variable, index) => {
    const key = variable.name.trim();
    if (key === "" || /[=\s\0]/.test(key)) found.set(`environment.${index}.name`, { problem: "variable" });
    else if (variables.has(key)) found.set(`environment.${index}.name`, { problem: "variableTwice" });
    variables.add(key);
  });

  if (words(form.command) === null) found.set("command", { problem: "command" });
  if (form.autoRemove && form.restart !== "no") found.set("autoRemove", { problem: "autoRemove" });
  return found;
}

/** Words of a command as a shell splits them; null where a quote is not closed. */
export function words(command: string): string[] | null {
  const found: string[] = [];
  let word: string | null = null;
  let quote: "'" | '"' | null = null;
  for (let at = 0; at < command.length; at++) {
    const character = command[at] ?? "";
    if (quote === "'") {
      if (character === "'") quote = null;
      else word += character;
    } else if (character === "\\") {
      const next = command[++at];
      if (next === undefined) return null;
      // In double quotes a backslash stands for itself before most characters.
      word = (word ?? "") + (quote === '"' && !/["\\$`\n]/.test(next) ? `\\${next}` : next);
    } else if (quote === '"') {
      if (character === '"') quote = null;
      else word += character;
    } else if (character === "'" || character === '"') {
      quote = character;
      word ??= "";
    } else if (/\s/.test(character)) {
      if (word !== null) found.push(word);
      word = null;
    } else word = (word ?? "") + character;
  }
  if (quote !== null) return null;
  if (word !== null) found.push(word);
  return found;
}

/** What `POST /containers/create` gets. The form has no {@link problems}. */
export function createRequest(image: string, form: RunForm): CreateRequest {
  const command = words(form.command) ?? [];
  const bindings: Record<string, { HostPort: string }[]> = {};
  for (const { host, container, protocol } of form.ports) {
    const key = `${Number(container)}/${protocol}`;
    bindings[key] = [...(bindings[key] ?? []), { HostPort: host.trim() }];
  }
  return {
    Image: image,
    ...(command.length > 0 && { Cmd: command }),
    ...(form.environment.length > 0 && { Env: form.environment.map(({ name, value }) => `${name.trim()}=${value}`) }),
    ...(form.terminal && { Tty: true, OpenStdin: true }),
    ...(form.ports.length > 0 && { ExposedPorts: Object.fromEntries(Object.keys(bindings).map((key) => [key, {}])) }),
    HostConfig: {
      ...(form.ports.length > 0 && { PortBindings: bindings }),
      ...(form.mounts.length > 0 && {
        Mounts: form.mounts.map(({ kind, source, target, readOnly }) => ({
          Type: kind,
          ...(source.trim() !== "" && { Source: source.trim() }),
          Target: target.trim(),
          ...(readOnly && { ReadOnly: true }),
        })),
      }),
      NetworkMode: form.network,
      RestartPolicy: { Name: form.restart },
      ...(form.autoRemove && { AutoRemove: true }),
    },
  };
}
