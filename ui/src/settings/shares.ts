/** Folders of the host that a machine has, at the same paths. Mirrors `crates/coracle/src/machine/shares.rs`. */
import { text } from "../text";

const words = text.settings.problems;

export interface Share {
  path: string;
  readOnly: boolean;
}

/** Says that the machine has none. */
export const NONE = "none";
const READ_ONLY = ":ro";

/** What the guest needs for itself: no share can be at these paths or above them. */
export const GUESTS_OWN = [
  "/bin",
  "/boot",
  "/dev",
  "/etc",
  "/lib",
  "/lib64",
  "/mnt",
  "/proc",
  "/run",
  "/sbin",
  "/sys",
  "/usr/bin",
  "/usr/sbin",
  "/var/lib/coracle",
];
/** And none below these, where the guest's kernel and engine have files of theirs. */
export const GUESTS_TREES = ["/dev", "/mnt", "/proc", "/run", "/sys", "/var/lib/coracle"];

/** `PATH[:ro]` each, separated by commas, or `none`. Null if one is no absolute path. */
export function parseShares(text: string): Share[] | null {
  if (text === NONE) return [];
  const shares = text.split(",").map(parseShare);
  return shares.every((share) => share !== null) ? shares : null;
}

function parseShare(text: string): Share | null {
  const readOnly = text.endsWith(READ_ONLY);
  const path = readOnly ? text.slice(0, -READ_ONLY.length) : text.replace(/:rw$/, "");
  if (!path.startsWith("/") || path.includes("\0")) return null;
  const parts = path.split("/").filter((part) => part !== "");
  if (parts.includes(".") || parts.includes("..")) return null;
  return { path: `/${parts.join("/")}`, readOnly };
}

export const formatShares = (shares: readonly Share[]): string =>
  shares.length === 0 ? NONE : shares.map(({ path, readOnly }) => (readOnly ? path + READ_ONLY : path)).join(",");

/** Whether a path is another one or inside it. */
const isIn = (path: string, above: string) => path === above || path.startsWith(above === "/" ? above : `${above}/`);

/** Why each share cannot be, in their order; null where it can. That a folder is there, only the machine's side can tell. */
export function shareProblems(shares: readonly Share[]): (string | null)[] {
  return shares.map(({ path, readOnly }, place) => {
    // What is written with these would be read as something else.
    if (path.includes(",")) return words.shareComma;
    const again = parseShare(readOnly ? path + READ_ONLY : path);
    if (again === null) return words.sharePath;
    if (again.path !== path || again.readOnly !== readOnly) return words.shareEnding;
    const own = GUESTS_OWN.find((guests) => isIn(guests, path)) ?? GUESTS_TREES.find((tree) => isIn(path, tree));
    if (own !== undefined) return words.shareGuests(own);
    const above = shares.find((other, index) => index !== place && isIn(path, other.path));
    if (above) return above.path === path ? words.shareTwice : words.shareInside(above.path);
    return null;
  });
}
