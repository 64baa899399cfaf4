import type { BackendError, Update } from "../backend/backend";
import { backend } from "../backend/current";
import { text } from "../text";
import { preferences } from "./preferences.svelte";

export type UpdateState =
  /** Nobody looked yet. */
  | { state: "unknown" }
  | { state: "checking" }
  | { state: "newest"; at: number }
  | { state: "newer"; update: Update }
  /** Being fetched; what is whole is then verified and installed. */
  | { state: "installing"; update: Update; done: number; total: number | null }
  | { state: "installed"; version: string }
  | { state: "failed"; update: Update; error: BackendError }
  /** Looking failed. */
  | { state: "unreachable"; error: BackendError }
  /** The app was built without a place to look. */
  | { state: "unconfigured"; error: BackendError };

const FIRST_LOOK_MS = 30_000;
const DAY_MS = 24 * 3_600_000;

export class Updates {
  current: UpdateState = $state.raw({ state: "unknown" });
  /** Versions that the user was told of since the app was started. */
  #told = new Set<string>();
  /** Counts looks: what one of another channel says is dropped. */
  #look = 0;

  /** Looks for a newer version now. */
  async check(): Promise<void> {
    if (this.#busy) return;
    const look = ++this.#look;
    this.current = { state: "checking" };
    const found = await this.#ask();
    if (look === this.#look) this.current = found;
  }

  /** Forgets what was found, and looks on the channel that was just chosen. */
  async channelChanged(): Promise<void> {
    if (this.current.state === "installing" || this.current.state === "installed") return;
    this.#look++;
    this.current = { state: "unknown" };
    await this.check();
  }

  async install(): Promise<void> {
    if (this.current.state !== "newer" && this.current.state !== "failed") return;
    const { update } = this.current;
    this.current = { state: "installing", update, done: 0, total: null };
    try {
      await backend.update.install(update.version, (done, total) => {
        if (this.current.state === "installing") this.current = { state: "installing", update, done, total };
      });
      this.current = { state: "installed", version: update.version };
    } catch (error) {
      this.current = { state: "failed", update, error: error as BackendError };
    }
  }

  /** Looks now and then, and tells the user of a new version, as long as they want to be told. Returns a way to end it. */
  keepLooking(): () => void {
    let timer = setTimeout(look, FIRST_LOOK_MS);
    const updates = this;
    async function look(): Promise<void> {
      timer = setTimeout(look, DAY_MS);
      await updates.lookQuietly();
    }
    return () => clearTimeout(timer);
  }

  /** A look that disturbs nobody: what fails is not told, and a version is told once. */
  async lookQuietly(): Promise<void> {
    if (!preferences.current?.notify.update_ready || this.#busy || this.current.state === "installed") return;
    const look = ++this.#look;
    const found = await this.#ask();
    if (look !== this.#look || found.state !== "newer") return;
    this.current = found;
    const { version } = found.update;
    if (version === preferences.current.skipped_version || this.#told.has(version)) return;
    this.#told.add(version);
    // A desktop that shows no messages keeps nobody from updating.
    await backend.notify(text.settings.updates.notify(version), text.settings.updates.notifyNext).catch(() => undefined);
  }

  get #busy(): boolean {
    return this.current.state === "checking" || this.current.state === "installing";
  }

  async #ask(): Promise<UpdateState> {
    try {
      const update = await backend.update.check();
      return update ? { state: "newer", update } : { state: "newest", at: Date.now() };
    } catch (reason) {
      const error = reason as BackendError;
      return { state: error.kind === "no_updates" ? "unconfigured" : "unreachable", error };
    }
  }
}

export const updates = new Updates();
