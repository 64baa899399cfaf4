/** What the desktop is told of containers, as far as the user wants to know: one that died, one whose health changed. */
import { harmless } from "../api/ansi";
import type { DockerEvent } from "../api/types";
import type { Preferences } from "../backend/backend";
import { backend } from "../backend/current";
import { text } from "../text";
import { connection } from "./connection.svelte";
import { preferences } from "./preferences.svelte";

export interface Notice {
  title: string;
  body: string;
}

/** A container that its restart policy brings back dies again and again: it is told once in this time. */
const QUIET_MS = 5 * 60_000;

/** Reads events in their order. */
export class Watcher {
  /** Signalled since it started, by the user or a program of theirs: that it ends then is no news. */
  #asked = new Set<string>();
  #outOfMemory = new Set<string>();
  #unhealthy = new Set<string>();
  #told = new Map<string, number>();

  notice(event: DockerEvent, wanted: Preferences["notify"]): Notice | null {
    if (event.Type !== "container") return null;
    const { ID: id, Attributes: attributes } = event.Actor;
    const name = harmless(attributes["name"] ?? id.slice(0, 12));
    switch (event.Action) {
      case "start":
      case "destroy":
        for (const known of [this.#asked, this.#outOfMemory, this.#unhealthy]) known.delete(id);
        return null;
      case "kill":
        this.#asked.add(id);
        return null;
      case "oom":
        this.#outOfMemory.add(id);
        return null;
      case "die": {
        const code = attributes["exitCode"] ?? "0";
        if (code === "0" || this.#asked.has(id) || !wanted.container_died || !this.#due(`die ${id}`, event)) return null;
        const words = text.notifications;
        return { title: words.died(name), body: this.#outOfMemory.has(id) ? words.outOfMemory : words.exited(harmless(code)) };
      }
      case "health_status: unhealthy":
        this.#unhealthy.add(id);
        if (!wanted.health_changed || !this.#due(`unhealthy ${id}`, event)) return null;
        return { title: text.notifications.unhealthy(name), body: text.notifications.unhealthyNext };
      case "health_status: healthy":
        // The first one after a start is as it should be.
        if (!this.#unhealthy.delete(id) || !wanted.health_changed || !this.#due(`healthy ${id}`, event)) return null;
        return { title: text.notifications.healthy(name), body: text.notifications.healthyNext };
      default:
        return null;
    }
  }

  #due(what: string, event: DockerEvent): boolean {
    const now = event.timeNano / 1e6;
    const last = this.#told.get(what);
    if (last !== undefined && now - last < QUIET_MS) return false;
    this.#told.set(what, now);
    return true;
  }
}

/** Tells the desktop from now on. Returns a way to end it. */
export function keepNotifying(): () => void {
  const watcher = new Watcher();
  return connection.listen({
    event(event) {
      const notify = preferences.current?.notify;
      const notice = notify && watcher.notice(event, notify);
      // A desktop that shows no messages is no reason to disturb.
      if (notice) void backend.notify(notice.title, notice.body).catch(() => undefined);
    },
  });
}
