/** Programs in containers: a shell that knows a few words, and what other programs would print. */
import type { FakeContainer, FakeDocker } from "../docker";
import { newId } from "../docker";
import { Refused, type Conversation, type Router } from "../http";
import { frame } from "./containers";
import { childrenOf, statLine } from "./archive";

interface Exec {
  container: FakeContainer;
  command: string[];
  terminal: boolean;
  running: boolean;
  code: number | null;
  size: { columns: number; rows: number };
}

export function execRoutes(router: Router, docker: FakeDocker): void {
  const execs = new Map<string, Exec>();
  const find = (id: string): Exec => {
    const exec = execs.get(id);
    if (!exec) throw new Refused(404, `No such exec instance: ${id}`);
    return exec;
  };

  router.on("POST", "/containers/:id/exec", ({ params, json }) => {
    const container = docker.container(params["id"] ?? "");
    if (container.state !== "running") throw new Refused(409, `container ${container.id} is not running`);
    const options = json<{ Cmd: string[]; Tty?: boolean }>();
    const id = newId();
    execs.set(id, { container, command: options.Cmd, terminal: options.Tty ?? false, running: false, code: null, size: { columns: 80, rows: 24 } });
    docker.say(container, `exec_create: ${options.Cmd.join(" ")}`);
    return { status: 201, json: { Id: id } };
  });
  router.on("GET", "/exec/:id/json", ({ params }) => {
    const exec = find(params["id"] ?? "");
    return { json: { Running: exec.running, ExitCode: exec.code } };
  });
  router.on("POST", "/exec/:id/resize", ({ params, query }) => {
    const exec = find(params["id"] ?? "");
    exec.size = { columns: Number(query.get("w")), rows: Number(query.get("h")) };
    return { status: 200 };
  });
  router.on("POST", "/exec/:id/start", ({ params }) => {
    const exec = find(params["id"] ?? "");
    exec.running = true;
    return { status: 101, stream: exec.terminal ? shell(exec) : program(exec) };
  });
}

const missing = (command: string) => `OCI runtime exec failed: exec failed: unable to start container process: exec: "${command}": executable file not found in $PATH: unknown`;

/** Not every image has a shell. */
const has = (exec: Exec, command: string) => !(exec.container.labels["fake.noshell"] !== undefined && command !== "/server");

function program(exec: Exec): Conversation {
  return (out) => {
    const finish = (code: number) => {
      exec.running = false;
      exec.code = code;
      out.end();
    };
    const [name = ""] = exec.command;
    if (!has(exec, name)) {
      out.data(frame("stdout", `${missing(name)}\r\n`, false));
      return finish(127);
    }
    // `sh -c SCRIPT sh FOLDER`, as the file browser lists a folder.
    if (name === "sh" && exec.command[2]?.includes("stat -c")) {
      const folder = exec.command[4] ?? "/";
      const children = childrenOf(exec.container.files, folder);
      if (!children) {
        out.data(frame("stderr", `sh: can't cd to ${folder}: No such file or directory\n`, false));
        return finish(2);
      }
      out.data(frame("stdout", children.map(statLine).join(""), false));
      return finish(0);
    }
    out.data(frame("stdout", `${exec.command.join(" ")}\n`, false));
    finish(0);
  };
}

const GREEN = "\x1b[32m";
const BLUE = "\x1b[1;34m";
const END = "\x1b[0m";

function shell(exec: Exec): Conversation {
  return (out) => {
    const [name = "sh"] = exec.command;
    if (!has(exec, name)) {
      exec.running = false;
      exec.code = 127;
      out.data(`${missing(name)}\r\n`);
      out.end();
      return;
    }
    let folder = "/app";
    let line = "";
    const prompt = () => out.data(`${GREEN}root@${exec.container.id.slice(0, 8)}${END}:${BLUE}${folder}${END}# `);
    const finish = (code: number) => {
      exec.running = false;
      exec.code = code;
      out.end();
    };
    const run = (typed: string) => {
      const [word = "", ...rest] = typed.trim().split(/\s+/);
      switch (word) {
        case "":
          break;
        case "exit":
          return finish(Number(rest[0] ?? 0));
        case "echo":
          out.data(`${rest.join(" ")}\r\n`);
          break;
        case "pwd":
          out.data(`${folder}\r\n`);
          break;
        case "cd":
          folder = rest[0]?.startsWith("/") ? rest[0] : rest[0] === undefined ? "/root" : `${folder === "/" ? "" : folder}/${rest[0]}`;
          break;
        case "ls":
          out.data(`${(childrenOf(exec.container.files, rest[0] ?? folder) ?? []).map((member) => (member.folder ? `${BLUE}${nameOf(member.name)}${END}` : nameOf(member.name))).join("  ")}\r\n`);
          break;
        case "stty":
          out.data(`${exec.size.rows} ${exec.size.columns}\r\n`);
          break;
        case "env":
          out.data(`${exec.container.env.join("\r\n")}\r\n`);
          break;
        default:
          out.data(`sh: ${word}: not found\r\n`);
      }
      prompt();
    };
    prompt();
    const decoder = new TextDecoder();
    return {
      write(bytes) {
        for (const character of decoder.decode(bytes, { stream: true })) {
          if (character === "\r") {
            out.data("\r\n");
            const typed = line;
            line = "";
            run(typed);
          } else if (character === "\x7f") {
            if (line === "") continue;
            line = line.slice(0, -1);
            out.data("\b \b");
          } else if (character === "\x03") {
            line = "";
            out.data("^C\r\n");
            prompt();
          } else if (character === "\x04") {
            if (line === "") return finish(0);
          } else if (character >= " ") {
            line += character;
            out.data(character);
          }
        }
      },
      close: () => (exec.running = false),
    };
  };
}

const nameOf = (path: string) => path.replace(/\/$/, "").split("/").at(-1) ?? path;
