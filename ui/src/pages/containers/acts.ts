/** What can be done with containers, one or many: at once, with one message at the end, and a question before something is lost. */
import * as api from "../../api/containers";
import type { ContainerState, ContainerSummary } from "../../api/types";
import { ask } from "../../stores/confirm.svelte";
import { toasts } from "../../stores/toasts.svelte";
import { text } from "../../text";
import { isUp, nameOf } from "./model";

/** What an act needs to know of a container. */
export interface Target {
  id: string;
  name: string;
  state: ContainerState;
}

export type Verb = "start" | "stop" | "restart" | "pause" | "unpause" | "kill";

const words = text.containers;

export const target = (container: ContainerSummary): Target => ({ id: container.Id, name: nameOf(container), state: container.State });

/** Docker stops and removes in parallel; more than this at once only makes each slower. */
const AT_ONCE = 8;

const can: Record<Verb, (state: ContainerState) => boolean> = {
  start: (state) => state === "exited" || state === "created" || state === "dead",
  stop: (state) => state === "running" || state === "restarting" || state === "paused",
  restart: () => true,
  pause: (state) => state === "running",
  unpause: (state) => state === "paused",
  kill: (state) => state === "running" || state === "paused" || state === "restarting",
};

export const possible = (verb: Verb, targets: readonly Target[]): Target[] => targets.filter(({ state }) => can[verb](state));

/** Runs `act` on all, a few at a time. */
async function each(targets: readonly Target[], act: (id: string) => Promise<unknown>): Promise<{ done: Target[]; failed: [Target, unknown][] }> {
  const queue = [...targets];
  const done: Target[] = [];
  const failed: [Target, unknown][] = [];
  const work = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      try {
        await act(next.id);
        done.push(next);
      } catch (error) {
        failed.push([next, error]);
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return { done, failed };
}

const what = (targets: readonly Target[]) => words.what(targets.map(({ name }) => name));

export async function run(verb: Verb, all: readonly Target[]): Promise<void> {
  const targets = possible(verb, all);
  if (targets.length === 0) return;
  const { done, failed } = await each(targets, api[verb]);
  for (const [failedTarget, error] of failed.slice(0, 3)) toasts.failed(words.failed[verb](failedTarget.name), error);
  if (done.length === 0) return;
  const back = verb === "stop" || verb === "kill" ? { label: words.startAgain, run: () => void run("start", done.map((one) => ({ ...one, state: "exited" as const }))) } : undefined;
  toasts.done(words.done[verb](what(done)), back);
}

/** Asks, naming what is lost. Resolves with whether they were removed. */
export async function remove(targets: readonly Target[]): Promise<boolean> {
  if (targets.length === 0) return false;
  const names = targets.map(({ name }) => name);
  const listed = targets.slice(0, 8);
  const lost = listed.map(({ name, state }) =>
    isUp({ State: state } as ContainerSummary) ? words.removeAsk.running(name) : words.removeAsk.files(name),
  );
  if (targets.length > listed.length) lost.push(words.removeAsk.more(targets.length - listed.length));
  const answer = await ask({
    title: words.removeAsk.title(names),
    lost,
    kept: words.removeAsk.kept,
    action: words.removeAsk.action(names),
    option: { label: words.removeAsk.volumes, chosen: false },
  });
  if (!answer) return false;
  const { done, failed } = await each(targets, (id) => api.remove(id, { force: true, volumes: answer.option }));
  for (const [failedTarget, error] of failed.slice(0, 3)) toasts.failed(words.failed.remove(failedTarget.name), error);
  if (done.length > 0) toasts.done(words.done.remove(what(done)));
  return failed.length === 0;
}
