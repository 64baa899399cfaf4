import { SettingError, type BackendError, type HostFigures, type MachineSettings, type SettingKey } from "../backend/backend";
import { backend } from "../backend/current";
import { check, defaultOf, limitsOf, MAX_CPUS, MAX_DISK, type Checked, type Limits } from "../settings/rules";
import { text } from "../text";
import { ready, type Load } from "./load";
import { machine } from "./machine.svelte";
import { toasts } from "./toasts.svelte";

/** Where the host's figures are not known, nothing is refused that the machine's side might take. */
const ANYTHING: Limits = { cpus: MAX_CPUS, memory: MAX_DISK, disk: MAX_DISK, diskNow: 0 };

/**
 * The machine's settings, and what the user is changing of them. A change is a draft, text as it was typed, until
 * it is applied; all drafts are applied together or not at all.
 */
export class SettingsStore {
  current: Load<MachineSettings> = $state.raw({ state: "loading" });
  host: Load<HostFigures> = $state.raw({ state: "loading" });
  /** Null goes back to the default. */
  #drafts: Partial<Record<SettingKey, string | null>> = $state({});
  /** What the machine's side said of a draft. */
  #refused: Partial<Record<SettingKey, string>> = $state({});
  applying = $state(false);
  /** Applied while the machine ran: it has them after its next start. Empty where that was before the app was started. */
  waiting: SettingKey[] = $state.raw([]);
  /** The user knows that a restart is needed. */
  postponed = $state(false);

  async load(): Promise<void> {
    const [settings, host] = await Promise.allSettled([backend.settings(), backend.host()]);
    this.host = host.status === "fulfilled" ? { state: "ready", value: host.value } : { state: "failed", error: host.reason as BackendError };
    if (settings.status === "fulfilled") this.#take(settings.value);
    else this.current = { state: "failed", error: settings.reason as BackendError };
  }

  get limits(): Limits {
    const host = ready(this.host);
    return host ? limitsOf(host, ready(machine.current)?.disk_bytes ?? 0) : ANYTHING;
  }

  /** What a field shows: the draft, else what holds. Null where the default is to hold and what that is, only the machine's side knows. */
  value(key: SettingKey): string | null {
    const draft = this.#drafts[key];
    if (typeof draft === "string") return draft;
    const setting = ready(this.current)?.values[key];
    if (draft === null && setting && setting.chosen !== null) return this.host.state === "ready" ? defaultOf(key, this.limits) : null;
    return setting?.effective ?? null;
  }

  /** Whether the default holds, or is going to. */
  isDefault(key: SettingKey): boolean {
    const draft = this.#drafts[key];
    return draft === undefined ? ready(this.current)?.values[key].chosen === null : draft === null;
  }

  hasDraft(key: SettingKey): boolean {
    return this.#drafts[key] !== undefined;
  }

  checked(key: SettingKey): Checked {
    const draft = this.#drafts[key];
    const refused = this.#refused[key];
    if (refused !== undefined) return { ok: false, problem: refused };
    if (typeof draft === "string") return check(key, draft, this.limits);
    return { ok: true, value: this.value(key) ?? "", warning: null };
  }

  /** As the user types. */
  set(key: SettingKey, typed: string): void {
    this.#drafts[key] = typed;
    delete this.#refused[key];
  }

  useDefault(key: SettingKey): void {
    this.#drafts[key] = null;
    delete this.#refused[key];
  }

  discard(): void {
    this.#drafts = {};
    this.#refused = {};
  }

  /** What would be another value than before, in the order of the file. */
  get changed(): SettingKey[] {
    const settings = ready(this.current);
    if (!settings) return [];
    return (Object.keys(text.settings.keys) as SettingKey[]).filter((key) => {
      const draft = this.#drafts[key];
      if (draft === undefined) return false;
      const { chosen, effective } = settings.values[key];
      if (draft === null) return chosen !== null;
      const checked = this.checked(key);
      if (!checked.ok) return true;
      // A slider that is back where it was has chosen nothing.
      const back = chosen ?? (key === "cpus" || key === "memory" || key === "disk" ? effective : null);
      return checked.value !== back;
    });
  }

  get wrong(): SettingKey[] {
    return this.changed.filter((key) => !this.checked(key).ok);
  }

  /** Keeps the drafts. Resolves with whether they are kept. */
  async apply(): Promise<boolean> {
    const keys = this.changed;
    if (keys.length === 0 || this.wrong.length > 0 || this.applying) return false;
    const changes: Partial<Record<SettingKey, string | null>> = {};
    for (const key of keys) {
      const checked = this.checked(key);
      changes[key] = this.#drafts[key] === null ? null : checked.ok ? checked.value : null;
    }
    this.applying = true;
    try {
      const settings = await backend.changeSettings(changes);
      this.discard();
      this.postponed = false;
      this.waiting = [...new Set([...this.waiting, ...keys])];
      this.#take(settings);
      return true;
    } catch (error) {
      if (error instanceof SettingError && error.key in text.settings.keys) this.#refused[error.key] = error.message;
      else {
        toasts.failed(text.settings.notApplied, error);
        // The file may have been edited by hand meanwhile.
        void this.load();
      }
      return false;
    } finally {
      this.applying = false;
    }
  }

  #take(settings: MachineSettings): void {
    this.current = { state: "ready", value: settings };
    if (!settings.restart_needed) this.waiting = [];
  }
}

export const settings = new SettingsStore();
