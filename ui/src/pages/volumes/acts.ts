/** What can be done with volumes: with a question that names what is lost, as a job where it takes a while, and with a message at the end. */
import { harmless } from "../../api/ansi";
import type { ContainerSummary } from "../../api/types";
import * as api from "../../api/volumes";
import { backend } from "../../backend/current";
import { ask } from "../../stores/confirm.svelte";
import { begin } from "../../stores/jobs.svelte";
import { toasts } from "../../stores/toasts.svelte";
import { volumeSizes } from "../../stores/volumes";
import { bytes, text } from "../../text";
import { sum, type VolumeRow } from "./model";

const words = text.volumes;

export const userNames = (users: readonly ContainerSummary[]): string[] => users.map((user) => harmless(user.Names[0]?.replace(/^\//, "") ?? user.Id.slice(0, 12)));
const what = (rows: readonly VolumeRow[]) => words.what(rows.map(({ name }) => name));
const running = (users: readonly ContainerSummary[]) => userNames(users.filter(({ State }) => State === "running" || State === "restarting"));

const SHOWN = 8;

/** Asks, naming what is lost and how much. Docker refuses those that a container has: they are left out. Resolves with whether all are gone. */
export async function remove(rows: readonly VolumeRow[]): Promise<boolean> {
  const staying = rows.filter(({ users }) => users.length > 0);
  const going = rows.filter(({ users }) => users.length === 0);
  if (going.length === 0) {
    toasts.info(words.removing.inUseTitle(staying.map(({ name }) => name)), words.removing.inUse(userNames(staying.flatMap(({ users }) => users))));
    return false;
  }
  const lost = going.slice(0, SHOWN).map(({ name, size, remote }) => (remote ? words.removing.remote(name) : words.removing.volume(name, size)));
  const rest = going.slice(SHOWN);
  if (rest.length > 0) lost.push(words.removing.more(rest.length, sum(rest) ?? 0));
  const names = going.map(({ name }) => name);
  const total = sum(going.filter(({ mounted }) => !mounted));
  const answer = await ask({
    title: words.removing.title(names),
    lost,
    kept: [going.length > 1 && total !== null ? words.removing.total(total) : "", words.removing.irrevocable, ...staying.slice(0, 3).map(({ name, users }) => `${words.removing.stays(name, userNames(users))} `)].join(""),
    action: words.removing.action(names),
  });
  if (!answer) return false;
  const done: VolumeRow[] = [];
  for (const one of going) {
    try {
      await api.remove(one.volume.Name);
      done.push(one);
    } catch (error) {
      toasts.failed(words.removing.failed(one.name), error);
    }
  }
  if (done.length > 0) toasts.done(words.removing.done(what(done)));
  return done.length === rows.length;
}

/** To a tar file of the host. */
export async function backUp({ volume, name, size, users }: VolumeRow): Promise<void> {
  const day = new Date().toISOString().slice(0, 10);
  const path = await backend.chooseFile("save", `${name.replace(/[^\w.-]+/g, "_")}-${day}.tar`);
  if (path === null) return;
  const writers = running(users);
  if (writers.length > 0) toasts.info(words.backingUp.running(writers));
  begin({
    page: "volumes",
    title: words.backingUp.job(name),
    failed: words.backingUp.failed(name),
    advance: { done: 0, total: size, about: true },
    run: async (job, signal) => {
      const written = await api.download(volume.Name, "/", "folder", path, job.bytes, signal);
      toasts.done(words.backingUp.done(name, bytes(written)));
    },
  });
}

function restoring(volumeName: string, name: string, path: string, failed: string, changed: () => void): void {
  begin({
    page: "volumes",
    title: words.restoring.job(name),
    failed,
    run: async (job, signal) => {
      try {
        await api.restore(volumeName, path, job.bytes, signal);
      } finally {
        // Of one that broke off, the beginning is there. No event tells of files.
        changed();
        void volumeSizes.refresh();
      }
      toasts.done(words.restoring.done(name));
    },
  });
}

/** From a tar file of the host, into a volume that is there. */
export async function restore({ volume, name, users }: VolumeRow, changed: () => void = () => {}): Promise<void> {
  const path = await backend.chooseFile("open");
  if (path === null) return;
  const file = path.split(/[\\/]/).at(-1) ?? path;
  const writers = running(users);
  const answer = await ask({
    title: words.restoring.title(name),
    lost: [words.restoring.lost(file), ...(writers.length > 0 ? [words.restoring.running(writers)] : [])],
    kept: words.restoring.kept,
    action: words.restoring.action,
  });
  if (answer) restoring(volume.Name, name, path, words.restoring.failed(name), changed);
}

/** A new volume; from a tar file of the host if there is one. Resolves with its name, or null if there is none. */
export async function create(options: Parameters<typeof api.create>[0], backup: string | null): Promise<string | null> {
  try {
    const made = await api.create(options);
    if (backup === null) toasts.done(words.creating.done(harmless(made.Name.length === 64 ? made.Name.slice(0, 12) : made.Name)));
    else restoring(made.Name, made.Name, backup, words.restoring.notNew(made.Name), () => {});
    return made.Name;
  } catch (error) {
    toasts.failed(words.creating.failed, error);
    return null;
  }
}

export async function copyName(name: string): Promise<void> {
  await backend.copyText(name);
  toasts.info(words.copied(harmless(name)));
}
