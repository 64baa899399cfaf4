/** Names of images, as people type them and as Docker tells them. */

const REPOSITORY = /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::\d+)?\/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const DIGEST = /^[a-z0-9]+:[0-9a-f]{32,}$/;

export interface ImageName {
  repository: string;
  /** Without one, `latest`; null where a digest says which. */
  tag: string | null;
  digest: string | null;
}

/** The parts of a name, without judging them. A colon before the last slash is a port. */
export function split(name: string): ImageName {
  const at = name.indexOf("@");
  const digest = at < 0 ? null : name.slice(at + 1);
  const rest = at < 0 ? name : name.slice(0, at);
  const colon = rest.lastIndexOf(":");
  if (colon <= rest.lastIndexOf("/")) return { repository: rest, tag: null, digest };
  return { repository: rest.slice(0, colon), tag: rest.slice(colon + 1), digest };
}

/** A name as `docker pull` takes it, or null if it is none. */
export function parse(typed: string): ImageName | null {
  const name = split(typed.trim().replace(/^docker pull\s+/, "").replace(/^https?:\/\//, ""));
  if (!REPOSITORY.test(name.repository) || name.repository.length > 255) return null;
  if (name.tag !== null && !TAG.test(name.tag)) return null;
  if (name.digest !== null && !DIGEST.test(name.digest)) return null;
  return { ...name, tag: name.tag ?? (name.digest === null ? "latest" : null) };
}

/** As Docker shows it: `nginx:1.29`. */
export const shown = ({ repository, tag, digest }: ImageName): string => `${repository}${tag === null ? "" : `:${tag}`}${digest === null ? "" : `@${digest}`}`;
