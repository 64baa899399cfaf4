/**
 * What the user interface asks of the program around it: its only door to the outside.
 *
 * Two programs stand behind it: the desktop shell (`tauri.ts`, the only file that imports
 * `@tauri-apps`) and one in memory for tests and for work on pages (`fake/`).
 *
 * Docker's API is reached by one call and one stream, whatever the endpoint: pages know Docker's paths,
 * the shell does not.
 */
export interface Backend {
  /** One request to the engine, answered whole. Bodies over 16 MiB are an error: use a stream or a file. */
  engine(request: EngineRequest, signal?: AbortSignal): Promise<EngineAnswer>;
  /**
   * A request whose answer comes in pieces, or that becomes a connection (attach, exec): bytes both ways.
   * Resolves with the answer's head; an answer of 400 or more rejects with an {@link EngineError}.
   */
  engineStream(request: EngineRequest, listener: StreamListener): Promise<EngineStream>;
  /** Writes an answer's body to a file of the host. Resolves with its size in bytes. */
  engineToFile(request: EngineRequest, path: string, progress?: (bytes: number) => void, signal?: AbortSignal): Promise<number>;
  /** Sends a file of the host as a request's body. */
  engineFromFile(request: EngineRequest, path: string, progress?: (bytes: number) => void, signal?: AbortSignal): Promise<EngineAnswer>;

  /** How the machine is, running or not. */
  machine(): Promise<MachineStatus>;
  /** Starts, stops or restarts the machine; resolves when that is done. `step` says what is being done now. */
  runMachine(verb: MachineVerb, step: (event: MachineEvent) => void): Promise<void>;
  /** Called whenever the machine's state may have changed, whoever changed it. Returns a way to end it. */
  onMachineChange(listener: () => void): () => void;
  /** A log from its beginning, and on. */
  machineLog(log: MachineLog, line: (text: string) => void): Promise<{ close(): void }>;

  /** What the user has chosen for the machine, and what holds where nothing is chosen. */
  settings(): Promise<MachineSettings>;
  /** Keeps changes. Rejects with a {@link SettingError} that names the key when a value is refused; then nothing is changed. */
  changeSettings(changes: Partial<Record<SettingKey, string | null>>): Promise<MachineSettings>;
  /** What this app remembers about itself. */
  preferences(): Promise<Preferences>;
  changePreferences(changes: Partial<Preferences>): Promise<Preferences>;

  /** What the host has, and how busy it is. */
  host(): Promise<HostFigures>;
  /** What `coracle doctor` says. */
  doctor(): Promise<DoctorCheck[]>;
  /** What a diagnostics bundle would hold, with secrets already removed; nothing is written. */
  diagnostics(): Promise<DiagnosticsFile[]>;
  /** Writes the bundle (a tar.gz) that {@link diagnostics} showed. */
  saveDiagnostics(path: string): Promise<void>;

  /** Whether `docker` uses this machine now, and makes it so. */
  dockerContext(): Promise<DockerContext>;
  selectDockerContext(): Promise<DockerContext>;

  update: UpdateBackend;

  /** Versions and the platform. */
  about(): Promise<About>;
  /** Asks the user for a file to read or write; null if they changed their mind. */
  chooseFile(kind: "open" | "save" | "folder", suggestion?: string): Promise<string | null>;
  /** Opens a web page in the user's browser. Only http and https. */
  openUrl(url: string): Promise<void>;
  copyText(text: string): Promise<void>;
  /** Shows a message of the desktop's own. */
  notify(title: string, body: string): Promise<void>;
  /** Wishes from outside the window: the tray, a `coracle://` link. Returns a way to end it. */
  onWish(listener: (wish: Wish) => void): () => void;
  /** Ends the app; the machine stays or is stopped first. */
  quit(machine: "leave" | "stop"): Promise<void>;
}

export interface EngineRequest {
  method: "GET" | "HEAD" | "POST" | "PUT" | "DELETE";
  /** Docker's path with its query, without a version: `/containers/json?all=1`. */
  path: string;
  headers?: Record<string, string>;
  /** Text is sent as UTF-8. With a body and no content type, `application/json` is sent. */
  body?: string | Uint8Array;
  /** Ask for a connection (`Upgrade: tcp`), as attach and exec do. */
  upgrade?: boolean;
  /**
   * Only with a file: what the body is made of. `tar`: a file alone in an archive, as `/containers/{id}/archive`
   * gives and takes it; the host's file is that file, without the archive. `frames`: Docker's frames of output
   * (`/logs` of a container without a terminal); the file gets what they carry. Otherwise the body is the file.
   */
  file?: "tar" | "frames";
}

export interface EngineAnswer {
  status: number;
  headers: Record<string, string>;
  body: Uint8Array;
}

export interface StreamListener {
  /** No more than some megabytes come before what was handed on is taken: at once, or when the promise is kept. */
  data(bytes: Uint8Array): void | Promise<void>;
  /** The answer is over; `error` if it broke off. Nothing comes after it. */
  end(error?: BackendError): void;
}

export interface EngineStream {
  status: number;
  headers: Record<string, string>;
  /** To the other side of a connection. */
  write(bytes: Uint8Array): Promise<void>;
  /** Tells the other side that nothing more is written. */
  finish(): Promise<void>;
  /** Hangs up. No call of the listener follows. */
  close(): void;
}

/** Why a call failed. `kind` is what a page reacts to, `message` what it shows. */
export class BackendError extends Error {
  constructor(
    readonly kind: "engine_unreachable" | "engine" | "cancelled" | "machine" | "setting" | "no_updates" | "host",
    message: string,
  ) {
    super(message);
  }
}

/** The engine refused: Docker's own status and words. */
export class EngineError extends BackendError {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super("engine", message);
  }
}

/** A setting's value was refused. */
export class SettingError extends BackendError {
  constructor(
    readonly key: SettingKey,
    message: string,
  ) {
    super("setting", message);
  }
}

export type MachineState = "stopped" | "starting" | "running" | "stopping";
export type MachineVerb = "start" | "stop" | "restart";
export type MachineLog = "machine" | "console";

/** A line of progress. A notice is worth keeping in sight, a step is not. */
export interface MachineEvent {
  kind: "step" | "notice";
  message: string;
}

/** `coracle status --json`: the fields of `wire::app::Status`. */
export interface MachineStatus {
  name: string;
  state: MachineState;
  docker_socket: string;
  cpus: number;
  memory_mib: number;
  /** Size of the data disk as the guest sees it, and what it takes on the host. */
  disk_bytes: number;
  disk_used_bytes: number;
  accelerator: string;
  accelerator_reason: string;
  pid: number;
  emulator_pid: number | null;
  /** Milliseconds since the epoch. */
  started_at_ms: number;
  ready_after_ms: number | null;
  guest: GuestState | null;
  last_exit: { at_ms: number | null; clean: boolean; reason: string } | null;
}

/** The fields of `wire::guest::State`: the guest's own account. */
export interface GuestState {
  stage: { stage: "preparing_disk" | "starting_engine" | "ready" | "stopping_containers" | "unmounting" } | { stage: "failed"; message: string };
  agent_version: string;
  kernel: string;
  uptime_ms: number;
  engine_restarts: number;
  /** How busy it is; null before it is known. */
  figures: GuestFigures | null;
}

export interface GuestFigures {
  /** Milliseconds that the processors were busy since the guest started, all together. */
  cpu_busy_ms: number;
  memory_total_bytes: number;
  memory_available_bytes: number;
  /** Of the data disk. */
  disk_total_bytes: number;
  disk_free_bytes: number;
}

/** The keys of `coracle config`. */
export type SettingKey =
  | "cpus"
  | "memory"
  | "disk"
  | "accel"
  | "shares"
  | "http-proxy"
  | "https-proxy"
  | "no-proxy"
  | "container-proxy";

export interface Setting {
  /** As `coracle config set` takes it; null where nothing is chosen. */
  chosen: string | null;
  /** What holds at the next start. */
  effective: string;
}

export interface MachineSettings {
  values: Record<SettingKey, Setting>;
  /** Whether the running machine was started with other values. */
  restart_needed: boolean;
  /** Where they are kept. */
  file: string;
  /** The file has errors and cannot be read; `values` are then the defaults. */
  error: string | null;
}

/** Kept by the app itself, in `$CORACLE_HOME/app.json`. */
export interface Preferences {
  theme: "system" | "light" | "dark";
  start_at_login: boolean;
  start_machine_with_app: boolean;
  close_to_tray: boolean;
  notify: { container_died: boolean; health_changed: boolean; update_ready: boolean };
  update_channel: "stable" | "beta";
  skipped_version: string | null;
  first_run_done: boolean;
}

export interface HostFigures {
  cpus: number;
  /** Share of all processors that was busy since the last call, 0 to 1. */
  cpu_busy: number;
  /** What the machine's processes took of that. */
  machine_cpu_busy: number;
  memory_total_bytes: number;
  memory_available_bytes: number;
  /** What the machine's processes hold. */
  machine_memory_bytes: number;
  /** Of the file system that holds the machine's disk. */
  disk_total_bytes: number;
  disk_free_bytes: number;
}

/** One line of `coracle doctor --json`. */
export interface DoctorCheck {
  name: string;
  verdict: "ok" | "warn" | "fail";
  /** What was found. */
  found: string;
  /** What to do about it. */
  advice?: string;
}

export interface DiagnosticsFile {
  name: string;
  text: string;
}

export interface DockerContext {
  /** The context's own name: `coracle`. */
  name: string;
  /** What `docker` uses now. */
  current: string;
  selected: boolean;
}

export interface UpdateBackend {
  /** Null if this is the newest version. */
  check(): Promise<Update | null>;
  /** Fetches, verifies and installs; the new version runs after the app is started again. */
  install(version: string, progress: (done: number, total: number | null) => void): Promise<void>;
}

export interface Update {
  version: string;
  date: string | null;
  notes: string;
}

export interface About {
  version: string;
  platform: string;
  /** Whether the desktop shows a tray; where it does not, closing the window ends the app. */
  tray: boolean;
}

export type Wish =
  | { to: "page"; path: string }
  | { to: "start" | "stop" | "restart" };
