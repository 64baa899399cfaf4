/** The machine's settings as `coracle config` keeps and refuses them. */
import { BackendError, SettingError, type MachineSettings, type SettingKey } from "../backend";
import type { FakeMachine } from "./machine";

const DEFAULTS: Record<SettingKey, string> = {
  cpus: "4",
  memory: "4G",
  disk: "64G",
  accel: "auto",
  shares: "/home/ada,/tmp",
  "http-proxy": "none",
  "https-proxy": "none",
  "no-proxy": "none",
  "container-proxy": "false",
};
const FILE = "/home/ada/.coracle/default/config.toml";
const UNITS: Record<string, number> = { M: 1, G: 1024, T: 1024 ** 2 };

export class FakeSettings {
  /** Of this session's environment. */
  environment: Partial<Record<SettingKey, string>> = {};
  /** What is wrong with the file, as `coracle` would say. */
  error: string | null = null;
  #chosen: Partial<Record<SettingKey, string>> = {};
  #started: Record<SettingKey, string>;
  #state: string;

  constructor(readonly machine: FakeMachine) {
    this.#started = this.#effective();
    this.#state = machine.status.state;
    machine.onChange(() => {
      const { state } = machine.status;
      if (state === this.#state) return;
      this.#state = state;
      if (state === "running") this.#started = this.#effective();
      if (state !== "starting") return;
      const { cpus, memory, disk } = this.#effective();
      Object.assign(machine.status, { cpus: Number(cpus), memory_mib: mib(memory), disk_bytes: mib(disk) * 1024 ** 2 });
    });
  }

  /** As after an edit of the file by hand. */
  choose(key: SettingKey, value: string): void {
    this.#chosen[key] = value;
  }

  report(): MachineSettings {
    const effective = this.error === null ? this.#effective() : DEFAULTS;
    const keys = Object.keys(DEFAULTS) as SettingKey[];
    return {
      values: Object.fromEntries(keys.map((key) => [key, { chosen: this.error === null ? (this.#chosen[key] ?? null) : null, effective: effective[key] }])) as MachineSettings["values"],
      restart_needed: this.error === null && this.machine.status.state === "running" && keys.some((key) => effective[key] !== this.#started[key]),
      file: FILE,
      error: this.error,
    };
  }

  change(changes: Partial<Record<SettingKey, string | null>>): MachineSettings {
    if (this.error !== null) throw new BackendError("setting", this.error);
    const next = { ...this.#chosen };
    for (const [key, value] of Object.entries(changes) as [SettingKey, string | null][]) {
      if (value === null) delete next[key];
      else {
        this.#refuse(key, value);
        next[key] = value;
      }
    }
    this.#chosen = next;
    return this.report();
  }

  #effective(): Record<SettingKey, string> {
    return { ...DEFAULTS, ...this.environment, ...this.#chosen };
  }

  #refuse(key: SettingKey, value: string): void {
    const refused = (why: string) => new SettingError(key, `${key} = ${value}: ${why}`);
    if (key === "cpus" && !(/^\d+$/.test(value) && Number(value) >= 1 && Number(value) <= 64)) throw refused("a machine has 1 to 64 CPUs");
    if (key === "memory" || key === "disk") {
      if (!/^\d+[MGT]$/.test(value)) throw refused("is not a size: write a whole number and a unit, as in 512M, 4G or 1T");
      if (key === "memory" && mib(value) > 32 * 1024) throw refused("this host has 32768M in all");
      if (key === "disk" && mib(value) * 1024 ** 2 < this.machine.status.disk_bytes) throw refused("the data disk has 64G already and cannot shrink");
    }
    // What only the machine's side can tell.
    const missing = key === "shares" ? value.split(",").find((share) => share.includes("/gone")) : undefined;
    if (missing) throw refused(`cannot share ${missing}: No such file or directory (os error 2)`);
  }
}

const mib = (size: string): number => Number.parseInt(size, 10) * (UNITS[size.slice(-1)] ?? Number.NaN);
