/** How busy the host and the machine are: measured every two seconds while somebody looks. */
import { createSubscriber } from "svelte/reactivity";
import type { BackendError } from "../backend/backend";
import { backend } from "../backend/current";
import { sample, type Sample } from "./figure_samples";
import { machine } from "./machine.svelte";

export const EVERY_MS = 2000;
/** Four minutes. */
export const KEPT = 120;

class Figures {
  #samples: Sample[] = [];
  #failure: BackendError | null = null;
  #subscribe: () => void;

  constructor() {
    this.#subscribe = createSubscriber((changed) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      /** Counts loops: one that was given up does not go on. */
      let loop = 0;
      const run = async (mine: number): Promise<void> => {
        await this.#measure(() => mine === loop);
        if (mine !== loop) return;
        changed();
        timer = setTimeout(() => void run(mine), EVERY_MS);
      };
      const look = () => {
        clearTimeout(timer);
        loop++;
        if (document.visibilityState === "visible") void run(loop);
      };
      document.addEventListener("visibilitychange", look);
      look();
      return () => {
        document.removeEventListener("visibilitychange", look);
        clearTimeout(timer);
        loop++;
      };
    });
  }

  async #measure(wanted: () => boolean): Promise<void> {
    try {
      const [host] = await Promise.all([backend.host(), machine.refresh()]);
      if (!wanted()) return;
      const now = Date.now();
      const before = this.#samples.at(-1);
      // What was between is not known: a line over it would lie.
      const kept = before && now - before.at > 4 * EVERY_MS ? [] : this.#samples;
      const status = machine.current.state === "ready" ? machine.current.value : null;
      this.#samples = [...kept.slice(1 - KEPT), sample(now, host, status, kept.at(-1))];
      this.#failure = null;
    } catch (error) {
      if (wanted()) this.#failure = error as BackendError;
    }
  }

  /** Oldest first. */
  get samples(): readonly Sample[] {
    this.#subscribe();
    return this.#samples;
  }

  /** Why the last measurement failed. */
  get failure(): BackendError | null {
    this.#subscribe();
    return this.#failure;
  }
}

export const figures = new Figures();
