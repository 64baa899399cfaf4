/** The machine: stopped, started and stopped with progress, as `coracle start` would tell it. */
import { BackendError, type MachineEvent, type MachineStatus, type MachineVerb } from "../backend";

export class FakeMachine {
  status: MachineStatus = {
    name: "default",
    state: "running",
    docker_socket: "/home/ada/.coracle/default/docker.sock",
    cpus: 4,
    memory_mib: 4096,
    disk_bytes: 64 * 1024 ** 3,
    disk_used_bytes: 9.4 * 1024 ** 3,
    accelerator: "kvm",
    accelerator_reason: "this processor has hardware virtualisation and a guest ran at its speed",
    pid: 21877,
    emulator_pid: null,
    started_at_ms: Date.now() - 3 * 3_600_000,
    ready_after_ms: 820,
    guest: null,
    last_exit: null,
  };
  /** Steps of a start take this long each. */
  stepMs = 350;
  /** The next start fails so. */
  refuses: string | null = null;
  #listeners = new Set<() => void>();
  #waiting: (() => void)[] = [];

  constructor() {
    this.#boot();
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** What ends when the machine does. */
  whenDown(end: () => void): () => void {
    this.#waiting.push(end);
    return () => (this.#waiting = this.#waiting.filter((other) => other !== end));
  }

  set(changes: Partial<MachineStatus>): void {
    this.status = { ...this.status, ...changes };
    if (this.status.state === "stopped") {
      this.status.guest = null;
      for (const end of this.#waiting.splice(0)) end();
    }
    for (const listener of this.#listeners) listener();
  }

  async run(verb: MachineVerb, step: (event: MachineEvent) => void): Promise<void> {
    const say = async (message: string) => {
      step({ kind: "step", message });
      await new Promise((resolve) => setTimeout(resolve, this.stepMs));
    };
    if (verb !== "start" && this.status.state === "running") {
      this.set({ state: "stopping" });
      await say("Stopping containers");
      await say("Closing the disk");
      this.set({ state: "stopped", pid: 0, last_exit: { at_ms: Date.now(), clean: true, reason: "stopped by the user" } });
    }
    if (verb === "stop") return;
    if (this.status.state !== "stopped") return;
    this.set({ state: "starting" });
    await say("Booting the machine");
    if (this.refuses !== null) {
      const reason = this.refuses;
      this.refuses = null;
      this.set({ state: "stopped", last_exit: { at_ms: Date.now(), clean: false, reason } });
      throw new BackendError("machine", reason);
    }
    await say("Checking the disk");
    await say("Starting the engine");
    this.#boot();
    this.set({ state: "running", pid: 21878, started_at_ms: Date.now(), ready_after_ms: 940, last_exit: null });
  }

  #boot(): void {
    this.status.guest = {
      stage: { stage: "ready" },
      agent_version: "0.1.0",
      kernel: "6.12.41",
      uptime_ms: Date.now() - this.status.started_at_ms,
      engine_restarts: 0,
      figures: {
        cpu_busy_ms: 412_000,
        memory_total_bytes: 4 * 1024 ** 3,
        memory_available_bytes: 2.6 * 1024 ** 3,
        disk_total_bytes: 62.4 * 1024 ** 3,
        disk_free_bytes: 53.8 * 1024 ** 3,
      },
    };
  }
}
