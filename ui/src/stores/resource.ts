/** Something the engine knows, kept as new as its events say, as long as somebody looks at it. */
import { createSubscriber } from "svelte/reactivity";
import type { DockerEvent } from "../api/types";
import type { BackendError } from "../backend/backend";
import { connection } from "./connection.svelte";
import type { Load } from "./load";

export interface ResourceOptions<T> {
  load: () => Promise<T>;
  /** Whether what happened changes the value. */
  refreshOn: (event: DockerEvent) => boolean;
}

/** Whether something happened to what is meant by a name, an id, or the beginning of an id. */
export const happenedTo = ({ Actor }: DockerEvent, named: string): boolean =>
  Actor.ID.startsWith(named) || Actor.Attributes["name"] === named || Actor.Attributes["oldName"]?.replace(/^\//, "") === named;

/** Events come in bursts (compose starts ten containers): the first is answered soon, those that follow together. */
const SOON_MS = 30;
const TOGETHER_MS = 400;

export class Resource<T> {
  #value: Load<T> = { state: "waiting" };
  #changed = () => {};
  #subscribe: () => void;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #loadedAt = 0;
  /** Counts loads: an answer that another has overtaken is dropped. */
  #load = 0;

  constructor(readonly options: ResourceOptions<T>) {
    this.#subscribe = createSubscriber((changed) => {
      this.#changed = changed;
      const end = connection.listen({
        opened: () => void this.#reload(),
        event: (event) => {
          if (this.options.refreshOn(event)) this.#soon();
        },
        lost: () => this.#lost(),
      });
      // What happened while nobody looked is not known.
      if (connection.current.state === "open") queueMicrotask(() => void this.#reload());
      else queueMicrotask(() => this.#lost());
      return () => {
        end();
        clearTimeout(this.#timer);
        this.#timer = undefined;
        this.#changed = () => {};
      };
    });
  }

  /** Read where it is shown (in a template, a `$derived` or an `$effect`): that is what keeps it up to date. */
  get current(): Load<T> {
    this.#subscribe();
    return this.#value;
  }

  /** Asks again now. Resolves when the answer is there. */
  refresh(): Promise<void> {
    return this.#reload();
  }

  #soon(): void {
    if (this.#timer !== undefined) return;
    const since = Date.now() - this.#loadedAt;
    this.#timer = setTimeout(() => void this.#reload(), since > TOGETHER_MS ? SOON_MS : TOGETHER_MS - since);
  }

  async #reload(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const load = ++this.#load;
    this.#loadedAt = Date.now();
    if (this.#value.state !== "ready") this.#set({ state: "loading" });
    try {
      const value = await this.options.load();
      if (load === this.#load) this.#set({ state: "ready", value });
    } catch (error) {
      if (load === this.#load) this.#set({ state: "failed", error: error as BackendError });
    }
  }

  #lost(): void {
    const now = connection.current;
    if (now.state === "open") return;
    this.#load++;
    this.#set(now.state === "connecting" && now.error ? { state: "failed", error: now.error } : { state: "waiting" });
  }

  #set(value: Load<T>): void {
    this.#value = value;
    this.#changed();
  }
}
