/** What the list of images shows, and in which order: pure, so that it can be tested without a page. */
import { harmless } from "../../api/ansi";
import type { ContainerSummary, ImageSummary } from "../../api/types";
import { shortId } from "../../text/format";
import { split } from "./names";

export type Filter = "all" | "used" | "unused" | "dangling";
export type SortColumn = "name" | "used" | "created" | "size";

export interface ImageRow {
  image: ImageSummary;
  /** What it is called in the list: its first tag, or what is known instead. */
  name: string;
  /** Before and after the colon. */
  repository: string;
  tag: string | null;
  /** Its other tags. */
  more: string[];
  /** No tag leads to it. */
  dangling: boolean;
  users: ContainerSummary[];
}

const NONE = "<none>:<none>";

export const tagsOf = (image: { RepoTags: string[] | null }): string[] => (image.RepoTags ?? []).filter((tag) => tag !== NONE);
export const digestsOf = (image: { RepoDigests: string[] | null }): string[] => (image.RepoDigests ?? []).filter((digest) => digest !== "<none>@<none>");

/** What to call an image: its first tag, or the repository it came from, or its id. */
export function nameOf(image: { Id: string; RepoTags: string[] | null; RepoDigests: string[] | null }): string {
  const [tag] = tagsOf(image);
  if (tag !== undefined) return harmless(tag);
  const [digest] = digestsOf(image);
  if (digest === undefined) return shortId(image.Id);
  const at = digest.indexOf("@");
  return harmless(`${digest.slice(0, at)}@${shortId(digest.slice(at + 1))}`);
}

/** Which containers stand on which image. */
export function usersByImage(containers: readonly ContainerSummary[]): Map<string, ContainerSummary[]> {
  const users = new Map<string, ContainerSummary[]>();
  for (const container of containers) {
    const present = users.get(container.ImageID);
    if (present) present.push(container);
    else users.set(container.ImageID, [container]);
  }
  return users;
}

export function row(image: ImageSummary, users: ContainerSummary[]): ImageRow {
  const [first, ...more] = tagsOf(image);
  const name = nameOf(image);
  const parts = first === undefined ? { repository: name, tag: null } : split(harmless(first));
  return { image, name, repository: parts.repository, tag: parts.tag, more: more.map(harmless), dangling: first === undefined, users };
}

export function passes({ image, name, more, users, dangling }: ImageRow, filter: Filter, search: string): boolean {
  if (filter === "used" && users.length === 0) return false;
  if (filter === "unused" && users.length > 0) return false;
  if (filter === "dangling" && !dangling) return false;
  if (search === "") return true;
  const all = [name, ...more, shortId(image.Id), image.Id, ...digestsOf(image), ...users.map((user) => user.Names[0] ?? "")].join("\n").toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

const byName = new Intl.Collator("en", { numeric: true }).compare;

export function rows(
  images: readonly ImageSummary[],
  containers: readonly ContainerSummary[],
  { filter, search, sort }: { filter: Filter; search: string; sort: { column: SortColumn; down: boolean } },
): ImageRow[] {
  const users = usersByImage(containers);
  const shown = images.map((image) => row(image, users.get(image.Id) ?? [])).filter((one) => passes(one, filter, search));
  const sign = sort.down ? -1 : 1;
  const by: Record<SortColumn, (a: ImageRow, b: ImageRow) => number> = {
    // What has no name stands at the end, whichever way.
    name: (a, b) => Number(a.dangling) - Number(b.dangling) || sign * byName(a.name, b.name),
    used: (a, b) => sign * (b.users.length - a.users.length),
    created: (a, b) => sign * (b.image.Created - a.image.Created),
    size: (a, b) => sign * (b.image.Size - a.image.Size),
  };
  return shown.sort((a, b) => by[sort.column](a, b) || byName(a.name, b.name));
}

/** Those that a clean-up takes: no container stands on them; without `all`, no tag leads to them either. */
export const prunable = (rows: readonly ImageRow[], all: boolean): ImageRow[] => rows.filter((one) => one.users.length === 0 && (all || one.dangling));

/** Those that are used and have several tags: Docker's clean-up of all takes all but one away. */
export const stripped = (rows: readonly ImageRow[]): ImageRow[] => rows.filter((one) => one.users.length > 0 && one.more.length > 0);
