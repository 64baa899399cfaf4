/** What containers take, measured while somebody looks. */
import { createSubscriber } from "svelte/reactivity";
import * as api from "../api/containers";
import { sample, type Sample } from "../api/stats";
import type { EngineStream } from "../backend/backend";

const KEPT = 120;

export class Stats {
  #samples: Sample[] = [];
  #subscribe: () => void;

  constructor(readonly id: string) {
    this.#subscribe = createSubscriber((changed) => {
      let ended = false;
      let stream: EngineStream | null = null;
      // A row that only flies by while scrolling opens nothing.
      const timer = setTimeout(() => {
        api
          .stats(id, {
            value: (message) => {
              // Docker says once that nothing was measured: the container has ended.
              if (ended || message.memory_stats.usage === undefined) return;
              this.#samples = [...this.#samples.slice(1 - KEPT), sample(message)];
              changed();
            },
            end: () => {
              this.#samples = [];
              changed();
            },
          })
          .then(
            (opened) => (ended ? opened.close() : (stream = opened)),
            // It ended meanwhile; its store will say so.
            () => undefined,
          );
      }, 150);
      return () => {
        ended = true;
        clearTimeout(timer);
        stream?.close();
        this.#samples = [];
      };
    });
  }

  /** The last two minutes, oldest first. */
  get samples(): Sample[] {
    this.#subscribe();
    return this.#samples;
  }

  get latest(): Sample | undefined {
    return this.samples.at(-1);
  }
}

const known = new Map<string, Stats>();

/** One stream a container, however many look. */
export function stats(id: string): Stats {
  let found = known.get(id);
  if (!found) known.set(id, (found = new Stats(id)));
  return found;
}
