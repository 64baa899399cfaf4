/** What containers take, measured while somebody looks. */
import { createSubscriber } from "svelte/reactivity";
import * as api from "../api/containers";
import { sample, type Sample } from "../api/stats";
import type { EngineStream } from "../backend/backend";

const KEPT = 120;
const BEAT_MS = 1000;

/** Each container has its own second. They are shown together, so that a page of them is drawn once in one. */
const waiting = new Set<() => void>();
let beat: ReturnType<typeof setTimeout> | undefined;

function atNextBeat(changed: () => void): void {
  waiting.add(changed);
  beat ??= setTimeout(() => {
    beat = undefined;
    const all = [...waiting];
    waiting.clear();
    for (const tell of all) tell();
  }, BEAT_MS);
}

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
              // The first is waited for.
              if (this.#samples.length === 1) changed();
              else atNextBeat(changed);
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
        waiting.delete(changed);
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
