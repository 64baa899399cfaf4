/** The desktop shell: every call of {@link Backend} as a command of ours in Rust. */
import { Channel, invoke } from "@tauri-apps/api/core";
import { listen } from "@tauri-apps/api/event";
import {
  BackendError,
  EngineError,
  SettingError,
  type Backend,
  type EngineAnswer,
  type EngineRequest,
  type MachineEvent,
  type SettingKey,
  type StreamListener,
  type Wish,
} from "./backend";

/** What a command rejects with. */
interface Refusal {
  kind: BackendError["kind"];
  message: string;
  status?: number;
  key?: SettingKey;
}

function asError(refusal: unknown): BackendError {
  if (typeof refusal !== "object" || refusal === null || !("kind" in refusal)) return new BackendError("host", String(refusal));
  const { kind, message, status, key } = refusal as Refusal;
  if (kind === "engine" && status !== undefined) return new EngineError(status, message);
  if (kind === "setting" && key !== undefined) return new SettingError(key, message);
  return new BackendError(kind, message);
}

async function command<T>(name: string, args?: Record<string, unknown>): Promise<T> {
  try {
    return await invoke<T>(name, args);
  } catch (refusal) {
    throw asError(refusal);
  }
}

/** As it crosses to Rust: a body is text, or bytes in base64 (JSON has none). */
function wireRequest(request: EngineRequest): Record<string, unknown> {
  if (!(request.body instanceof Uint8Array)) return { ...request };
  return { ...request, body: undefined, body_base64: base64(request.body) };
}

function base64(bytes: Uint8Array): string {
  let text = "";
  // In pieces: the arguments of a call are limited.
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/**
 * An answer comes as one buffer, so that its body is never JSON: `[length of head: u32 big-endian]`, the head
 * (`{status, headers}`) as JSON, and the body.
 */
function answerOf(buffer: ArrayBuffer): EngineAnswer {
  const length = new DataView(buffer).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length))) as Omit<EngineAnswer, "body">;
  return { ...head, body: new Uint8Array(buffer, 4 + length) };
}

let nextCall = 1;

/** A call that can be cancelled: it goes out with an id, and `engine_cancel` names it. */
async function cancellable<T>(signal: AbortSignal | undefined, run: (id: number) => Promise<T>): Promise<T> {
  const id = nextCall++;
  if (signal?.aborted) throw new BackendError("cancelled", "Cancelled");
  const cancel = () => void invoke("engine_cancel", { id });
  signal?.addEventListener("abort", cancel);
  try {
    return await run(id);
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

const channel = <T>(message: (value: T) => void): Channel<T> => {
  const made = new Channel<T>();
  made.onmessage = message;
  return made;
};

/** The shell hands on no more than 4 MiB that it has not heard of as taken. */
const TELL_TAKEN = 512 * 1024;

type StreamMessage = ArrayBuffer | { end: true; error?: Refusal };

/** Ends a listener whose registration may still be under way. */
function ending(registered: Promise<() => void>): () => void {
  return () => void registered.then((end) => end());
}

export const tauri: Backend = {
  engine: (request, signal) =>
    cancellable(signal, async (call) => answerOf(await command<ArrayBuffer>("engine_request", { request: wireRequest(request), call }))),

  async engineStream(request, listener: StreamListener) {
    let closed = false;
    let id: number | null = null;
    let taken = 0;
    const tell = () => {
      if (id === null || taken < TELL_TAKEN) return;
      void invoke("engine_stream_taken", { id, bytes: taken });
      taken = 0;
    };
    // What a listener fails at is taken, too: the rest of the stream waits for it.
    const take = async (piece: ArrayBuffer) => {
      try {
        await listener.data(new Uint8Array(piece));
      } finally {
        taken += piece.byteLength;
        tell();
      }
    };
    const messages = channel<StreamMessage>((message) => {
      if (closed) return;
      if (message instanceof ArrayBuffer) void take(message);
      else {
        closed = true;
        listener.end(message.error ? asError(message.error) : undefined);
      }
    });
    const opened = await command<{ id: number; status: number; headers: Record<string, string> }>("engine_stream_open", {
      request: wireRequest(request),
      channel: messages,
    });
    id = opened.id;
    tell();
    const { status, headers } = opened;
    return {
      status,
      headers,
      write: (bytes) => command<void>("engine_stream_write", { id, bytes: Array.from(bytes) }),
      finish: () => command<void>("engine_stream_finish", { id }),
      close() {
        closed = true;
        void invoke("engine_stream_close", { id });
      },
    };
  },

  engineToFile: (request, path, progress, signal) =>
    cancellable(signal, (call) =>
      command<number>("engine_to_file", { request: wireRequest(request), path, call, channel: channel<number>((bytes) => progress?.(bytes)) }),
    ),
  engineFromFile: (request, path, progress, signal) =>
    cancellable(signal, async (call) =>
      answerOf(
        await command<ArrayBuffer>("engine_from_file", {
          request: wireRequest(request),
          path,
          call,
          channel: channel<number>((bytes) => progress?.(bytes)),
        }),
      ),
    ),

  machine: () => command("machine_status"),
  runMachine: (verb, step) => command("machine_run", { verb, channel: channel<MachineEvent>(step) }),
  onMachineChange: (listener) => ending(listen("machine-change", () => listener())),
  async machineLog(log, line) {
    const id = await command<number>("machine_log_open", { log, channel: channel<string>(line) });
    return { close: () => void invoke("machine_log_close", { id }) };
  },

  settings: () => command("settings"),
  changeSettings: (changes) => command("settings_change", { changes }),
  preferences: () => command("preferences"),
  changePreferences: (changes) => command("preferences_change", { changes }),

  host: () => command("host_figures"),
  doctor: () => command("doctor"),
  diagnostics: () => command("diagnostics"),
  saveDiagnostics: (path) => command("diagnostics_save", { path }),
  dockerContext: () => command("docker_context"),
  selectDockerContext: () => command("docker_context_select"),

  update: {
    check: () => command("update_check"),
    install: (version, progress) =>
      command("update_install", { version, channel: channel<{ done: number; total: number | null }>(({ done, total }) => progress(done, total)) }),
  },

  about: () => command("about"),
  chooseFile: (kind, suggestion) => command("choose_file", { kind, suggestion }),
  openUrl: (url) => command("open_url", { url }),
  copyText: (text) => navigator.clipboard.writeText(text),
  notify: (title, body) => command("notify", { title, body }),
  onWish: (listener) => ending(listen<Wish>("wish", (event) => listener(event.payload))),
  quit: (machine) => command("quit", { machine }),
};
