/** Programs run in a container that runs. */
import type { EngineStream } from "../backend/backend";
import { backend } from "../backend/current";
import { at, call, callJson } from "./engine";
import { Demultiplexer } from "./log_stream";

export interface Terminal {
  write(text: string): void;
  resize(columns: number, rows: number): void;
  close(): void;
}

interface ExecOptions {
  Cmd: string[];
  Tty?: boolean;
  Env?: string[];
  User?: string;
}

const create = (container: string, options: ExecOptions) =>
  callJson<{ Id: string }>("POST", at`/containers/${container}/exec`, {
    json: { AttachStdin: options.Tty ?? false, AttachStdout: true, AttachStderr: true, ...options },
  });

const inspect = (id: string) => callJson<{ Running: boolean; ExitCode: number | null }>("GET", at`/exec/${id}/json`);

function connect(id: string, tty: boolean, listener: { data(bytes: Uint8Array): void | Promise<void>; end(error?: Error): void }): Promise<EngineStream> {
  const body = JSON.stringify({ Detach: false, Tty: tty });
  return backend.engineStream({ method: "POST", path: at`/exec/${id}/start`, body, upgrade: true }, listener);
}

/** A program at a terminal of its own. `end` gets its exit code, or null if that is not known. */
export async function terminal(
  container: string,
  command: string[],
  size: { columns: number; rows: number },
  listener: { data(bytes: Uint8Array): void | Promise<void>; end(code: number | null, error?: Error): void },
): Promise<Terminal> {
  const { Id } = await create(container, { Cmd: command, Tty: true, Env: ["TERM=xterm-256color"] });
  const stream = await connect(Id, true, {
    data: (bytes) => listener.data(bytes),
    end: (error) =>
      void inspect(Id).then(
        (exec) => listener.end(exec.ExitCode, error),
        () => listener.end(null, error),
      ),
  });
  const encoder = new TextEncoder();
  // A refused size (the program has just ended) changes nothing that anybody sees.
  const resize = (columns: number, rows: number) =>
    void call("POST", at`/exec/${Id}/resize`, { query: { w: columns, h: rows } }).catch(() => undefined);
  resize(size.columns, size.rows);
  return {
    write: (text) => void stream.write(encoder.encode(text)).catch(() => undefined),
    resize,
    close: () => stream.close(),
  };
}

/** A program's whole output. */
export async function output(container: string, command: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const { Id } = await create(container, { Cmd: command });
  const text = { stdout: "", stderr: "" };
  const decoder = { stdout: new TextDecoder(), stderr: new TextDecoder() };
  const frames = new Demultiplexer((stream, bytes) => (text[stream] += decoder[stream].decode(bytes, { stream: true })));
  await new Promise<void>((resolve, reject) => {
    connect(Id, false, {
      data: (bytes) => frames.push(bytes),
      end: (error) => (error ? reject(error) : resolve()),
    }).catch(reject);
  });
  const { ExitCode } = await inspect(Id);
  return { code: ExitCode ?? -1, ...text };
}
