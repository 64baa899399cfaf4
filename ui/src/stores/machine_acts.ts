/** Starting and stopping the machine as a user asks for it: with a question where containers run, and with a message at the end. */
import * as api from "../api/containers";
import type { MachineVerb } from "../backend/backend";
import { text } from "../text";
import { ask } from "./confirm.svelte";
import { machine } from "./machine.svelte";
import { toasts } from "./toasts.svelte";

export async function runMachine(verb: MachineVerb): Promise<void> {
  if (verb !== "start" && machine.state === "running" && !(await agreed(verb))) return;
  if (!(await machine.run(verb))) {
    if (machine.failure !== null) toasts.failed(text.machine.failed[verb], machine.failure);
    return;
  }
  if (verb === "stop") toasts.done(text.machine.stopped, { label: text.machine.startAgain, run: () => void runMachine("start") });
}

/** Nobody is asked where nothing runs. An engine that does not answer is no reason not to stop its machine. */
async function agreed(verb: "stop" | "restart"): Promise<boolean> {
  const running = await api.list().then(
    (all) => all.filter((container) => container.State === "running" || container.State === "paused"),
    () => [],
  );
  if (running.length === 0) return true;
  const names = running.map((container) => container.Names[0]?.replace(/^\//, "") ?? container.Id);
  const answer = await ask({
    title: verb === "stop" ? text.machine.ask.stopTitle : text.machine.ask.restartTitle,
    lost: [text.machine.ask.running(names)],
    kept: text.machine.ask.kept,
    action: verb === "stop" ? text.machine.stop : text.machine.restart,
  });
  return answer !== null;
}
