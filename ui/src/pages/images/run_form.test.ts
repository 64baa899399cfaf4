import { describe, expect, test } from "vitest";
import type { ContainerSummary, ImageDetails } from "../../api/types";
import { createRequest, emptyForm, problems, words, type RunForm } from "./run_form";

const image = { Config: { ExposedPorts: { "80/tcp": {}, "53/udp": {} } } } as unknown as ImageDetails;
const form = (changes: Partial<RunForm> = {}): RunForm => ({ ...emptyForm({ Config: {} } as ImageDetails), ...changes });
const other = { Names: ["/web"], Ports: [{ IP: "0.0.0.0", PrivatePort: 80, PublicPort: 8080, Type: "tcp" }] } as unknown as ContainerSummary;
const found = (changes: Partial<RunForm>) => Object.fromEntries([...problems(form(changes), [other])].map(([field, { problem }]) => [field, problem]));

describe("the form", () => {
  test("suggests the ports that the image says it listens on", () => {
    expect(emptyForm(image).ports).toEqual([
      { host: "", container: "80", protocol: "tcp" },
      { host: "", container: "53", protocol: "udp" },
    ]);
  });

  test("has nothing wrong when empty", () => {
    expect(found({})).toEqual({});
  });

  test.each(["a", "-web", "my web", "<b>web</b>", "naïve"])("refuses %s as a name", (name) => {
    expect(found({ name })).toEqual({ name: "name" });
  });

  test("refuses a name and a port that are taken, and says by whom", () => {
    expect(found({ name: "web" })).toEqual({ name: "nameTaken" });
    const taken = problems(form({ ports: [{ host: "8080", container: "80", protocol: "tcp" }] }), [other]);
    expect(taken.get("ports.0.host")).toEqual({ problem: "portInUse", by: "web" });
    expect(found({ ports: [{ host: "8080", container: "80", protocol: "udp" }] })).toEqual({});
  });

  test.each([
    ["0", "port"],
    ["65536", "port"],
    ["80a", "port"],
    ["1e3", "port"],
    ["", undefined],
  ])("port %s of the computer: %s", (host, problem) => {
    expect(found({ ports: [{ host, container: "80", protocol: "tcp" }] })["ports.0.host"]).toBe(problem);
  });

  test("refuses a port that is missing or there twice", () => {
    const port = (host: string, container: string) => ({ host, container, protocol: "tcp" as const });
    expect(found({ ports: [port("81", "80"), port("81", "90"), port("", "")] })).toEqual({ "ports.1.host": "portTwice", "ports.2.container": "portMissing" });
  });

  test("refuses paths that are none, or there twice", () => {
    const mount = (target: string, source = "data", kind: "volume" | "bind" = "volume") => ({ kind, source, target, readOnly: false });
    expect(found({ mounts: [mount("/"), mount("data"), mount("/a/"), mount("//a"), mount("/b", "../x"), mount("/c", "relative", "bind"), mount("/d", "")] })).toEqual({
      "mounts.0.target": "target",
      "mounts.1.target": "target",
      "mounts.3.target": "targetTwice",
      "mounts.4.source": "volume",
      "mounts.5.source": "source",
    });
    expect(found({ mounts: [mount("/a", "C:\\Users\\ada", "bind"), mount("/b", "/home/ada", "bind")] })).toEqual({});
  });

  test("refuses variables without a name, and one of two of the same", () => {
    const variable = (name: string) => ({ name, value: "x" });
    expect(found({ environment: [variable(""), variable("A=B"), variable("A"), variable("A")] })).toEqual({ "environment.0.name": "variable", "environment.1.name": "variable", "environment.3.name": "variableTwice" });
  });

  test("refuses what contradicts itself", () => {
    expect(found({ autoRemove: true, restart: "always" })).toEqual({ autoRemove: "autoRemove" });
    expect(found({ command: 'echo "half' })).toEqual({ command: "command" });
  });
});

test.each<[string, string[] | null]>([
  ["", []],
  ["  npm   start ", ["npm", "start"]],
  [`sh -c 'echo "a b" $HOME'`, ["sh", "-c", 'echo "a b" $HOME']],
  [String.raw`a\ b "c \"d\" \n" ''`, ["a b", String.raw`c "d" \n`, ""]],
  [`pre'fix'ed"word"`, ["prefixedword"]],
  [`'open`, null],
  ["trailing\\", null],
])("the words of %s", (command, expected) => {
  expect(words(command)).toEqual(expected);
});

describe("the request", () => {
  test("of an empty form asks for no more than the image", () => {
    expect(createRequest("nginx:1.29", form())).toEqual({ Image: "nginx:1.29", HostConfig: { NetworkMode: "bridge", RestartPolicy: { Name: "no" } } });
  });

  test("has all that the form has, in Docker's words", () => {
    const request = createRequest("postgres:17", {
      name: "db",
      ports: [
        { host: " 5433 ", container: "5432", protocol: "tcp" },
        { host: "", container: "5432", protocol: "tcp" },
      ],
      mounts: [
        { kind: "volume", source: "data", target: "/var/lib/postgresql/data", readOnly: false },
        { kind: "bind", source: "/home/ada/init", target: "/docker-entrypoint-initdb.d", readOnly: true },
        { kind: "volume", source: "", target: "/tmp/cache", readOnly: false },
      ],
      environment: [{ name: "POSTGRES_PASSWORD", value: "a=b c" }],
      command: "postgres -c 'max_connections=20'",
      network: "shop",
      restart: "unless-stopped",
      autoRemove: false,
      terminal: true,
    });
    expect(request).toEqual({
      Image: "postgres:17",
      Cmd: ["postgres", "-c", "max_connections=20"],
      Env: ["POSTGRES_PASSWORD=a=b c"],
      Tty: true,
      OpenStdin: true,
      ExposedPorts: { "5432/tcp": {} },
      HostConfig: {
        PortBindings: { "5432/tcp": [{ HostPort: "5433" }, { HostPort: "" }] },
        Mounts: [
          { Type: "volume", Source: "data", Target: "/var/lib/postgresql/data" },
          { Type: "bind", Source: "/home/ada/init", Target: "/docker-entrypoint-initdb.d", ReadOnly: true },
          { Type: "volume", Target: "/tmp/cache" },
        ],
        NetworkMode: "shop",
        RestartPolicy: { Name: "unless-stopped" },
      },
    });
  });

  test("removes the container when done only if asked to", () => {
    expect(createRequest("x", form({ autoRemove: true })).HostConfig?.AutoRemove).toBe(true);
  });
});
