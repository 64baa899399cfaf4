/** What can be done with images: with a question that names what is lost, as a job where it takes a while, and with a message at the end. */
import * as api from "../../api/images";
import type { ContainerSummary, ImageSummary } from "../../api/types";
import { harmless } from "../../api/ansi";
import { backend } from "../../backend/current";
import { ask } from "../../stores/confirm.svelte";
import { begin } from "../../stores/jobs.svelte";
import { go } from "../../stores/route.svelte";
import { toasts } from "../../stores/toasts.svelte";
import { bytes, shortId, text } from "../../text";
import { freed } from "./freed";
import { tagsOf, type ImageRow } from "./model";
import { parse, shown, type ImageName } from "./names";
import { pulls } from "./pulls.svelte";

const words = text.images;

export const what = (rows: readonly ImageRow[]): string => words.what(rows.map(({ name }) => name));
export const userNames = (users: readonly ContainerSummary[]): string[] => users.map((user) => harmless(user.Names[0]?.replace(/^\//, "") ?? user.Id.slice(0, 12)));

const isUp = ({ State }: ContainerSummary) => State === "running" || State === "paused" || State === "restarting";

const SHOWN = 8;

/** Asks, naming what is lost. Docker refuses those that a container runs on: they are left out. Resolves with whether all are gone. */
export async function remove(rows: readonly ImageRow[], all: readonly ImageSummary[]): Promise<boolean> {
  const staying = rows.filter(({ users }) => users.some(isUp));
  const going = rows.filter(({ users }) => !users.some(isUp));
  if (going.length === 0) {
    const users = userNames(staying.flatMap((one) => one.users.filter(isUp)));
    toasts.info(words.removing.inUseTitle(staying.map(({ name }) => name)), words.removing.inUse(users));
    return false;
  }
  // What a stopped container stands on keeps its layers until the container goes.
  const free = going.filter(({ users }) => users.length === 0).map(({ image }) => image);
  const sum = await freed(free, all, api);
  const lost = going.slice(0, SHOWN).map(({ name, image, more, users }) => {
    if (users.length > 0) return words.removing.users(name, userNames(users));
    return more.length > 0 ? words.removing.tags(name, more) : words.removing.image(name, bytes(image.Size));
  });
  if (going.length > SHOWN) lost.push(words.removing.more(going.length - SHOWN));
  const names = going.map(({ name }) => name);
  const answer = await ask({
    title: words.removing.title(names),
    lost,
    kept: [
      ...staying.slice(0, 3).map(({ name, users }) => `${words.removing.running(name, userNames(users.filter(isUp)))} `),
      sum.exact ? words.removing.freed(bytes(sum.bytes)) : words.removing.freedAtLeast(bytes(sum.bytes)),
      words.removing.pullAgain,
    ].join(""),
    action: words.removing.action(names),
  });
  if (!answer) return false;
  const done: ImageRow[] = [];
  for (const one of going) {
    try {
      await api.remove(one.image.Id, { force: true });
      done.push(one);
    } catch (error) {
      toasts.failed(words.removing.failed(one.name), error);
    }
  }
  if (done.length > 0) {
    const [only] = done;
    // What has a digest came from a registry.
    const name = done.length === 1 && only && !only.dangling && (only.image.RepoDigests ?? []).length > 0 ? parse(only.name) : null;
    toasts.done(words.removing.done(what(done)), name ? { label: words.removing.pullBack, run: () => pulls.begin(name) } : undefined);
  }
  return done.length === rows.length;
}

/** To a tar file of the host, as `docker save` does. */
export async function save(rows: readonly ImageRow[]): Promise<void> {
  const title = what(rows);
  const plain = rows.length === 1 ? title.replace(/[^\w.-]+/g, "_") : "images";
  const path = await backend.chooseFile("save", `${plain}.tar`);
  if (path === null) return;
  // By name where there is one: a name that is saved is there again after a load.
  const names = rows.flatMap(({ image }) => (tagsOf(image).length > 0 ? tagsOf(image) : [image.Id]));
  begin({
    page: "images",
    title: words.saving.job(title),
    failed: words.saving.failed(title),
    advance: { done: 0, total: rows.reduce((sum, { image }) => sum + image.Size, 0), about: true },
    run: async (job, signal) => {
      const size = await api.save(names, path, job.bytes, signal);
      toasts.done(words.saving.done(title, bytes(size)));
    },
  });
}

/** From a tar file of the host, as `docker load` does. */
export async function load(): Promise<void> {
  const path = await backend.chooseFile("open");
  if (path === null) return;
  const file = path.split(/[\\/]/).at(-1) ?? path;
  begin({
    page: "images",
    title: words.loading.job(file),
    failed: words.loading.failed(file),
    run: async (job, signal) => {
      const names = await api.load(path, job.bytes, signal);
      toasts.done(words.loading.done(names.map(harmless)));
    },
  });
}

/** From a tar file of the host that holds the files of a whole system, as `docker import` does. */
export function importFiles(path: string, name: ImageName | null): void {
  const file = path.split(/[\\/]/).at(-1) ?? path;
  begin({
    page: "images",
    title: words.importing.job(file),
    failed: words.importing.failed(file),
    run: async (job, signal) => {
      const id = await api.importFiles(path, name && { repository: name.repository, tag: name.tag ?? "latest" }, job.bytes, signal);
      toasts.done(words.importing.done(name ? shown(name) : shortId(id)), { label: words.pulling.show, run: () => go("images", id) });
    },
  });
}

export async function copyName(name: string): Promise<void> {
  await backend.copyText(name);
  toasts.info(words.copied(harmless(name)));
}

/** Takes a tag away; another one must be left. A way back is offered. */
export async function untag(id: string, tag: string): Promise<void> {
  try {
    await api.remove(tag, { force: false });
    toasts.done(words.tags.removed(harmless(tag)), { label: words.tags.back, run: () => void addTag(id, tag) });
  } catch (error) {
    toasts.failed(words.tags.notRemoved, error);
  }
}

/** Resolves with whether it is there now. */
export async function addTag(id: string, typed: string): Promise<boolean> {
  const name = parse(typed);
  if (!name || name.tag === null) return false;
  try {
    await api.tag(id, name.repository, name.tag);
    toasts.done(words.tags.done(harmless(`${name.repository}:${name.tag}`)));
    return true;
  } catch (error) {
    toasts.failed(words.tags.failed, error);
    return false;
  }
}
