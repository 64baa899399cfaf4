/** A back end in memory: for browser tests, and for work on pages without a machine. Not in the product. */
import { Demultiplexer } from "../../api/log_stream";
import { TarReader, writeTar } from "../../api/tar";
import {
  BackendError,
  type Backend,
  type Preferences,
  type Wish,
} from "../backend";
import { FakeComputer } from "./computer";
import { FakeDocker } from "./docker";
import { Router } from "./http";
import { FakeMachine } from "./machine";
import { diagnosticsFiles, hostFigures, machineLog, measured } from "./measures";
import { archiveRoutes } from "./routes/archive";
import { containerRoutes } from "./routes/containers";
import { createRoutes } from "./routes/create";
import { execRoutes } from "./routes/exec";
import { helloRoutes } from "./routes/hello";
import { imageFileRoutes } from "./routes/image_files";
import { imageRoutes } from "./routes/images";
import { networkRoutes } from "./routes/networks";
import { pruneRoutes } from "./routes/prune";
import { systemRoutes, volumeRoutes } from "./routes/others";
import { volumeFileRoutes } from "./routes/volume_files";
import { scenarios, type World } from "./scenarios";
import { FakeSettings } from "./settings";
import { fakeUpdates, type FakeUpdates, type UpdateOutcome } from "./updates";

/** What tests reach for as `window.fake`. */
export interface FakeControl extends World {
  wish(wish: Wish): void;
  /** Cuts all streams, as an engine that restarts does. */
  restartEngine(): void;
  /** What the app asked of the desktop. */
  desktop: { opened: string[]; copied: string[]; notified: string[]; saved: Record<string, Uint8Array>; quit: string | null };
  /** What the next file dialog answers; by default the suggestion. */
  nextFile: string | null | undefined;
  /** Bytes of files that can be uploaded, by path. */
  files: Record<string, Uint8Array>;
  settings: FakeSettings;
  updates: FakeUpdates;
  computer: FakeComputer;
}

/** The file that is alone in an archive. */
function fileIn(archive: Uint8Array): Uint8Array {
  let found = new Uint8Array(0);
  const reader = new TarReader(
    (_, bytes) => (found = new Uint8Array(bytes ?? found)),
    () => true,
  );
  reader.push(archive);
  return found;
}

/** What Docker's frames carry. */
function carried(frames: Uint8Array): Uint8Array {
  const out: number[] = [];
  new Demultiplexer((_, bytes) => bytes.forEach((byte) => out.push(byte))).push(frames);
  return Uint8Array.from(out);
}

export function fake(query: URLSearchParams): Backend {
  const world: World = { docker: new FakeDocker(), machine: new FakeMachine(), unreachable: null };
  const name = query.get("fake") ?? "default";
  const scenario = scenarios[name];
  if (!scenario) throw new Error(`?fake=${name}: there are ${Object.keys(scenarios).join(", ")}`);
  scenario(world);

  const { docker, machine } = world;
  const router = new Router();
  const delay = () => new Promise<void>((resolve) => setTimeout(resolve, 60));
  containerRoutes(router, docker, delay);
  createRoutes(router, docker);
  execRoutes(router, docker);
  helloRoutes(router, docker);
  archiveRoutes(router, docker);
  imageFileRoutes(router, docker);
  imageRoutes(router, docker);
  volumeFileRoutes(router, docker);
  volumeRoutes(router, docker);
  networkRoutes(router, docker);
  pruneRoutes(router, docker);
  systemRoutes(router, docker);

  const streams = new Set<(error: BackendError) => void>();
  const wishes = new Set<(wish: Wish) => void>();
  const cut = () => {
    for (const stop of [...streams]) stop(new BackendError("engine_unreachable", "The engine closed the connection"));
  };
  machine.onChange(() => {
    if (machine.status.state === "stopped") cut();
  });
  const reach = () => {
    if (world.unreachable) throw world.unreachable;
    if (machine.status.state !== "running") throw new BackendError("engine_unreachable", `connect to ${machine.status.docker_socket}: No such file or directory (os error 2)`);
  };

  const settings = new FakeSettings(machine);
  if (query.get("settings") === "broken") settings.error = `/home/ada/.coracle/default/config.toml:3: "lots" is not a size: write a whole number and a unit, as in 512M, 4G or 1T`;
  const updates = fakeUpdates((query.get("update") as UpdateOutcome | null) ?? "newest");
  const computer = new FakeComputer(query);

  const control: FakeControl = Object.assign(world, {
    settings,
    updates,
    computer,
    wish: (wish: Wish) => wishes.forEach((listener) => listener(wish)),
    restartEngine: cut,
    desktop: { opened: [], copied: [], notified: [], saved: {}, quit: null },
    nextFile: undefined,
    files: { "/home/ada/notes.txt": new TextEncoder().encode("Remember the oars.\n") },
  });
  Object.defineProperty(window, "fake", { value: control });

  let preferences: Preferences = {
    theme: (query.get("theme") as Preferences["theme"] | null) ?? "system",
    start_at_login: false,
    start_machine_with_app: true,
    close_to_tray: true,
    notify: { container_died: true, health_changed: false, update_ready: true },
    update_channel: "stable",
    skipped_version: null,
    first_run_done: query.get("first") !== "1",
  };

  return {
    async engine(request, signal) {
      signal?.throwIfAborted();
      reach();
      return router.answer(request);
    },
    async engineStream(request, listener) {
      reach();
      return router.open(request, listener, (stop) => {
        streams.add(stop);
        return () => streams.delete(stop);
      });
    },
    async engineToFile(request, path, progress) {
      reach();
      const answer = await router.answer(request);
      if (answer.status >= 400) throw new BackendError("engine", new TextDecoder().decode(answer.body));
      const saved = request.file === "tar" ? fileIn(answer.body) : request.file === "frames" ? carried(answer.body) : answer.body;
      control.desktop.saved[path] = saved;
      progress?.(saved.length);
      return saved.length;
    },
    async engineFromFile(request, path, progress) {
      reach();
      const body = control.files[path];
      if (!body) throw new BackendError("host", `${path}: No such file or directory (os error 2)`);
      const name = path.split("/").at(-1) ?? path;
      const sent = request.file === "tar" ? writeTar([{ name, bytes: body, modified: Date.now() }]) : body;
      const answer = await router.answer({ ...request, body: sent });
      progress?.(body.length);
      return answer;
    },

    machine: async () => measured(machine.status),
    runMachine: (verb, step) => machine.run(verb, step),
    onMachineChange: (listener) => machine.onChange(listener),
    machineLog: async (log, line) => machineLog(log, () => machine.status.state === "running", line),

    settings: async () => settings.report(),
    changeSettings: async (changes) => settings.change(changes),
    preferences: async () => structuredClone(preferences),
    async changePreferences(changes) {
      preferences = { ...preferences, ...changes };
      return structuredClone(preferences);
    },

    host: async () => hostFigures(machine.status),
    doctor: async () => structuredClone(computer.checks),
    diagnostics: async () => diagnosticsFiles(),
    async saveDiagnostics(path) {
      control.desktop.saved[path] = new Uint8Array(1);
    },
    dockerContext: async () => ({ ...computer.context }),
    selectDockerContext: async () => computer.select(),
    update: updates,
    about: async () => ({ version: "0.1.0", platform: "Linux x86_64", tray: computer.tray }),
    async chooseFile(kind, suggestion) {
      const chosen = control.nextFile === undefined ? (kind === "open" ? "/home/ada/notes.txt" : `/home/ada/Downloads/${suggestion ?? "file"}`) : control.nextFile;
      control.nextFile = undefined;
      return chosen;
    },
    async openUrl(url) {
      control.desktop.opened.push(url);
    },
    async copyText(text) {
      control.desktop.copied.push(text);
    },
    async notify(title, body) {
      control.desktop.notified.push(`${title}: ${body}`);
    },
    onWish(listener) {
      wishes.add(listener);
      return () => wishes.delete(listener);
    },
    async quit(choice) {
      control.desktop.quit = choice;
    },
  };
}
