/** What can be done with networks: with a question before something is lost, and a way back where there is one. */
import * as api from "../../api/networks";
import { harmless } from "../../api/ansi";
import type { Network } from "../../api/types";
import { ask } from "../../stores/confirm.svelte";
import { toasts } from "../../stores/toasts.svelte";
import { text } from "../../text";
import { endpointConfig, sameAgain, type ConnectForm } from "./form";
import { isUnused, nameOf, subnetsOf, type Member, type NetworkRow } from "./model";

const words = text.networks;

const names = (members: readonly Member[]): string[] => members.map(({ name }) => name);

/** Creates it, and resolves with its id; null if Docker refused, which is told. */
export async function create(request: api.CreateNetwork): Promise<string | null> {
  const name = harmless(request.Name);
  try {
    const { Id, Warning } = await api.create(request);
    if (Warning) toasts.info(words.done.create(name), Warning);
    else toasts.done(words.done.create(name));
    return Id;
  } catch (error) {
    toasts.failed(words.failed.create(name), error);
    return null;
  }
}

/** Asks, naming what is lost. Resolves with whether it was removed. */
export async function remove({ network, members }: NetworkRow): Promise<boolean> {
  const name = nameOf(network);
  const up = members.filter((member) => member.up);
  const stopped = members.filter((member) => !member.up);
  const lost = [words.removeAsk.itself(name, subnetsOf(network))];
  if (up.length > 0) lost.push(words.removeAsk.running(names(up)));
  if (stopped.length > 0) lost.push(words.removeAsk.stopped(names(stopped)));
  const answer = await ask({
    title: words.removeAsk.title(name),
    lost,
    kept: words.removeAsk.kept,
    action: words.removeAsk.action,
    ...(up.length > 0 && { option: { label: words.removeAsk.disconnect(up.length), chosen: false } }),
  });
  if (!answer) return false;
  try {
    // Full, to make it again: a list has no more than its row.
    const whole = await api.inspect(network.Id);
    if (answer.option) for (const member of up) await api.disconnect(network.Id, member.id);
    await api.remove(network.Id);
    toasts.done(words.done.remove(name), { label: words.createAgain, run: () => void createAgain(whole, answer.option ? up : []) });
    return true;
  } catch (error) {
    toasts.failed(words.failed.remove(name), error);
    return false;
  }
}

/** Makes it as it was, with those on it that were. Addresses are given out anew. */
async function createAgain(network: Network, members: readonly Member[]): Promise<void> {
  const id = await create(sameAgain(network));
  if (id === null) return;
  for (const member of members) {
    const aliases = member.aliases.length > 0 ? { Aliases: member.aliases } : undefined;
    await api.connect(id, member.id, aliases).catch((error: unknown) => toasts.failed(words.failed.connect(member.name), error));
  }
}

/** Removes all that nobody uses, after naming each. */
export async function prune(rows: readonly NetworkRow[]): Promise<void> {
  const unused = rows.filter(isUnused);
  if (unused.length === 0) return toasts.info(words.done.pruned([]), words.pruneAsk.none);
  const lost = unused.flatMap(({ network, members }) => [
    words.pruneAsk.one(nameOf(network), subnetsOf(network)),
    ...(members.length > 0 ? [words.pruneAsk.stopped(nameOf(network), names(members))] : []),
  ]);
  if (!(await ask({ title: words.pruneAsk.title(unused.length), lost, kept: words.pruneAsk.kept, action: words.pruneAsk.action(unused.length) }))) return;
  try {
    toasts.done(words.done.pruned((await api.prune()).map(harmless).sort()));
  } catch (error) {
    toasts.failed(words.failed.prune, error);
  }
}

export async function connect(network: Network, form: ConnectForm, containerName: string): Promise<boolean> {
  try {
    await api.connect(network.Id, form.container, endpointConfig(form));
    toasts.done(words.done.connect(containerName, nameOf(network)));
    return true;
  } catch (error) {
    toasts.failed(words.failed.connect(containerName), error);
    return false;
  }
}

/** Can be taken back at once, so that nobody is asked. */
export async function disconnect(network: Network, member: Member): Promise<void> {
  try {
    await api.disconnect(network.Id, member.id);
    const form = { container: member.id, address: "", aliases: member.aliases.join(", ") };
    toasts.done(words.done.disconnect(member.name, nameOf(network)), { label: words.connectAgain, run: () => void connect(network, form, member.name) });
  } catch (error) {
    toasts.failed(words.failed.disconnect(member.name), error);
  }
}
