/** Cleaning the machine up, and emptying it. */
import * as containersApi from "../../api/containers";
import { harmless } from "../../api/ansi";
import * as imagesApi from "../../api/images";
import * as networksApi from "../../api/networks";
import * as system from "../../api/system";
import { at, call } from "../../api/engine";
import * as volumesApi from "../../api/volumes";
import { BackendError, EngineError } from "../../backend/backend";
import { nameOf } from "../containers/model";
import { isPredefined } from "../networks/model";
import { imageName, KINDS, type Holdings, type Kind } from "./clean_up";

export const holdings = async (): Promise<Holdings> => {
  const [disk, networks] = await Promise.all([system.diskUsage(), networksApi.list()]);
  return { disk, networks };
};

export interface Cleaned {
  kind: Kind;
  number: number;
  /** Null for what takes no space. */
  bytes: number | null;
  /** Why nothing of this kind was removed. */
  error: BackendError | null;
}

const prunes: Record<Kind, () => Promise<{ number: number; bytes: number | null }>> = {
  containers: () => containersApi.prune().then((report) => ({ number: report.ContainersDeleted?.length ?? 0, bytes: report.SpaceReclaimed })),
  // The report tells names and layers apart, not images: those that are gone are counted.
  images: async () => {
    const before = await imagesApi.list();
    const report = await imagesApi.prune(true);
    const after = new Set((await imagesApi.list()).map(({ Id }) => Id));
    return { number: before.filter(({ Id }) => !after.has(Id)).length, bytes: report.SpaceReclaimed };
  },
  volumes: () => volumesApi.prune(true).then((report) => ({ number: report.VolumesDeleted?.length ?? 0, bytes: report.SpaceReclaimed })),
  networks: () => networksApi.prune().then((names) => ({ number: names.length, bytes: null })),
};

/** Removes what is unused of the chosen kinds, in the order in which one lets go of the other. What fails does not stop the rest. */
export async function cleanUp(chosen: ReadonlySet<Kind>, now: (kind: Kind) => void): Promise<Cleaned[]> {
  const cleaned: Cleaned[] = [];
  for (const kind of KINDS.filter((one) => chosen.has(one))) {
    now(kind);
    try {
      cleaned.push({ kind, ...(await prunes[kind]()), error: null });
    } catch (error) {
      cleaned.push({ kind, number: 0, bytes: null, error: error as BackendError });
    }
  }
  return cleaned;
}

/** What is gone already is what was wanted. */
async function gone(act: Promise<unknown>): Promise<void> {
  try {
    await act;
  } catch (error) {
    if (!(error instanceof EngineError && error.status === 404)) throw error;
  }
}

export interface Left {
  /** What it is, and why it is still there. */
  name: string;
  error: BackendError;
}

/** Deletes everything in the machine, and resolves with what could not be. */
export async function reset(progress: (kind: Kind, done: number, all: number) => void): Promise<Left[]> {
  const left: Left[] = [];
  const each = async <T>(kind: Kind, things: readonly T[], name: (thing: T) => string, act: (thing: T) => Promise<unknown>) => {
    for (const [index, thing] of things.entries()) {
      progress(kind, index, things.length);
      await gone(act(thing)).catch((error: BackendError) => left.push({ name: name(thing), error }));
    }
    progress(kind, things.length, things.length);
  };
  await each("containers", await containersApi.list(), nameOf, ({ Id }) => containersApi.remove(Id, { force: true, volumes: true }));
  // The engine knows in which order images let go of each other; what it leaves is told by its own refusal.
  progress("images", 0, (await imagesApi.list()).length);
  await imagesApi.prune(true).catch(() => undefined);
  await each("images", await imagesApi.list(), imageName, ({ Id }) => imagesApi.remove(Id, { force: true }));
  await each("volumes", await volumesApi.list(), ({ Name }) => harmless(Name), ({ Name }) => call("DELETE", at`/volumes/${Name}`, { query: { force: true } }));
  await each("networks", (await networksApi.list()).filter((network) => !isPredefined(network)), ({ Name }) => harmless(Name), ({ Id }) => networksApi.remove(Id));
  return left;
}
