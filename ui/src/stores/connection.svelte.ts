/**
 * The line to the engine: the stream of its events, kept open while the machine runs.
 *
 * Everything that is shown of the engine hangs on it: stores load when it opens and refresh on what comes
 * through it. When it breaks it is opened anew, sooner at first, then less and less often; when the
 * machine's state changes, at once.
 */
import * as system from "../api/system";
import type { DockerEvent } from "../api/types";
import { BackendError, type EngineStream } from "../backend/backend";
import { backend } from "../backend/current";
import { machine } from "./machine.svelte";

export type ConnectionState =
  /** The machine does not run. */
  | { state: "off" }
  /** Being opened; `error` says why it was not the last time. */
  | { state: "connecting"; error: BackendError | null }
  | { state: "open" };

export interface ConnectionListener {
  /** Opened: whatever was known may be out of date. */
  opened?(): void;
  event?(event: DockerEvent): void;
  /** The machine stopped, or the engine cannot be reached. */
  lost?(): void;
}

const FIRST_DELAY_MS = 200;
const LONGEST_DELAY_MS = 10_000;

class Connection {
  current: ConnectionState = $state.raw({ state: "off" });
  #listeners = new Set<ConnectionListener>();
  #stream: EngineStream | null = null;
  #opening = false;
  #delay = FIRST_DELAY_MS;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Counts attempts: what an attempt that was given up says is not listened to. */
  #attempt = 0;

  /** Keeps the line open from now on. Returns a way to end that. */
  keep(): () => void {
    const end = backend.onMachineChange(() => void this.#machineChanged());
    void this.#machineChanged();
    return () => {
      end();
      this.#close({ state: "off" });
    };
  }

  listen(listener: ConnectionListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Tries again now: the user asked. */
  retry(): void {
    void this.#machineChanged();
  }

  async #machineChanged(): Promise<void> {
    await machine.refresh();
    const state = machine.state;
    if (state === "running") {
      if (this.#stream === null) {
        this.#delay = FIRST_DELAY_MS;
        void this.#open();
      }
    } else if (state !== "stopping") {
      this.#close({ state: "off" });
    }
  }

  async #open(): Promise<void> {
    if (this.#opening) return;
    clearTimeout(this.#timer);
    this.#opening = true;
    const attempt = ++this.#attempt;
    if (this.current.state !== "connecting") this.current = { state: "connecting", error: null };
    try {
      const stream = await system.events({
        value: (event) => {
          if (attempt === this.#attempt) for (const listener of this.#listeners) listener.event?.(event);
        },
        end: (error) => {
          if (attempt === this.#attempt) this.#broke(error ?? new BackendError("engine_unreachable", "The engine closed the connection"));
        },
      });
      if (attempt !== this.#attempt) return stream.close();
      this.#stream = stream;
      this.#delay = FIRST_DELAY_MS;
      this.current = { state: "open" };
      for (const listener of this.#listeners) listener.opened?.();
    } catch (error) {
      if (attempt === this.#attempt) this.#broke(error as BackendError);
    } finally {
      if (attempt === this.#attempt) this.#opening = false;
    }
  }

  #broke(error: BackendError): void {
    const wasOpen = this.#stream !== null;
    this.#stream = null;
    this.#attempt++;
    this.#opening = false;
    // An engine that restarts is back at once: what is shown stays in place meanwhile.
    this.current = { state: "connecting", error: wasOpen ? null : error };
    if (!wasOpen) for (const listener of this.#listeners) listener.lost?.();
    this.#timer = setTimeout(() => void this.#open(), this.#delay);
    this.#delay = Math.min(this.#delay * 2, LONGEST_DELAY_MS);
  }

  #close(state: ConnectionState): void {
    clearTimeout(this.#timer);
    this.#attempt++;
    this.#opening = false;
    this.#stream?.close();
    this.#stream = null;
    this.current = state;
    for (const listener of this.#listeners) listener.lost?.();
  }
}

export const connection = new Connection();
