/**
 * What removing images frees. Images share layers: one is gone only with the last image that stands on it.
 *
 * The list tells of each image its size and how much of it others share. That is exact for one image; of several
 * it leaves out what only they share among themselves. For that, their layers are looked at.
 */
import type { ImageDetails, ImageHistory, ImageSummary } from "../../api/types";

export interface Freed {
  bytes: number;
  /** It is this; otherwise at least this. */
  exact: boolean;
}

/** The layers of an image from the lowest up, with the bytes of each. */
export interface Layers {
  id: string;
  /** A layer is the same as another only if all below are: each is named by its whole chain. */
  chain: { name: string; size: number }[];
}

const own = (image: ImageSummary): number => Math.max(0, image.Size - Math.max(0, image.SharedSize));

/** What the list alone tells. */
export function freedByList(gone: readonly ImageSummary[]): Freed {
  const known = gone.every((image) => image.SharedSize >= 0);
  return {
    bytes: known ? gone.reduce((sum, image) => sum + own(image), 0) : 0,
    // Of two that share with somebody, that may be each other.
    exact: known && gone.filter((image) => image.SharedSize > 0).length < 2,
  };
}

/** Null where the history does not tell the size of each layer. */
export function layers({ Id, RootFS }: ImageDetails, history: readonly ImageHistory[]): Layers | null {
  const sizes = history
    .filter(({ Size }) => Size > 0)
    .map(({ Size }) => Size)
    .reverse();
  const diffs = RootFS.Layers ?? [];
  if (sizes.length !== diffs.length) return null;
  let name = "";
  return { id: Id, chain: diffs.map((diff, index) => ({ name: (name += ` ${diff}`), size: sizes[index] ?? 0 })) };
}

/** The chains alone, for images that stay: their sizes do not matter. */
export function chainNames({ RootFS }: ImageDetails): string[] {
  let name = "";
  return (RootFS.Layers ?? []).map((diff) => (name += ` ${diff}`));
}

/** Bytes of the layers that only images of `gone` stand on, each counted once. */
export function freedByLayers(gone: readonly Layers[], kept: Iterable<string>): number {
  const stays = new Set(kept);
  const counted = new Set<string>();
  let sum = 0;
  for (const { name, size } of gone.flatMap(({ chain }) => chain)) {
    if (stays.has(name) || counted.has(name)) continue;
    counted.add(name);
    sum += size;
  }
  return sum;
}

const AT_ONCE = 8;

async function each<A, B>(all: readonly A[], ask: (one: A) => Promise<B>): Promise<B[]> {
  const answers: B[] = [];
  const queue = [...all.entries()];
  const work = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) answers[next[0]] = await ask(next[1]);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return answers;
}

/** What removing `gone` of `all` frees, as exactly as the engine tells it. */
export async function freed(
  gone: readonly ImageSummary[],
  all: readonly ImageSummary[],
  ask: { inspect(id: string): Promise<ImageDetails>; history(id: string): Promise<ImageHistory[]> },
): Promise<Freed> {
  const listed = freedByList(gone);
  if (listed.exact) return listed;
  const going = new Set(gone.map((image) => image.Id));
  const shares = (image: ImageSummary) => image.SharedSize !== 0;
  try {
    const [known, staying] = await Promise.all([
      each(gone.filter(shares), async ({ Id }) => layers(...(await Promise.all([ask.inspect(Id), ask.history(Id)])))),
      each(all.filter((image) => shares(image) && !going.has(image.Id)), ({ Id }) => ask.inspect(Id).then(chainNames)),
    ]);
    if (known.some((one) => one === null)) return listed;
    const alone = gone.filter((image) => !shares(image)).reduce((sum, image) => sum + image.Size, 0);
    return { bytes: alone + freedByLayers(known as Layers[], staying.flat()), exact: true };
  } catch {
    // One of them is gone meanwhile: what the list told still holds as a lower bound.
    return listed;
  }
}
