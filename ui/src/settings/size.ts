/** Sizes as `coracle config` writes them: `512M`, `4G`, `1T`. Mirrors `crates/coracle/src/machine/size.rs`. */

export const MIB = 2 ** 20;
export const GIB = 2 ** 30;

/** Units of 1024, longest first, so that the largest that divides evenly is written. */
const UNITS = [
  ["T", 2 ** 40],
  ["G", GIB],
  ["M", MIB],
] as const;

/** Bytes of a size as it is kept in the file: a whole number and a unit. Null if it is none. */
export function parseSize(text: string): number | null {
  const match = /^(\d+)\s*([TGM])(?:I?B)?\s*$/i.exec(text);
  return match ? times(Number(match[1]), match[2]) : null;
}

/**
 * Bytes of a size as people type it into a field that counts in GiB: `6`, `6.5`, and all that {@link parseSize}
 * knows. Rounded to a whole MiB, which is what a machine can have.
 */
export function typedSize(text: string): number | null {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*(?:([TGM])(?:I?B)?)?\s*$/i.exec(text);
  if (!match) return null;
  const bytes = times(Number((match[1] ?? "").replace(",", ".")), match[2] ?? "G");
  return bytes === null ? null : Math.round(bytes / MIB) * MIB;
}

function times(count: number, unit = ""): number | null {
  const factor = UNITS.find(([name]) => name === unit.toUpperCase())?.[1];
  return factor === undefined || !Number.isFinite(count) ? null : count * factor;
}

/** As it would be written; `bytes` is a whole number of MiB. */
export function formatSize(bytes: number): string {
  const [name, unit] = UNITS.find(([, factor]) => bytes !== 0 && bytes % factor === 0) ?? (["M", MIB] as const);
  return `${Math.floor(bytes / unit)}${name}`;
}

/** For a field that counts in GiB: `6`, `1.5`. Exact to the MiB. */
export const inGib = (bytes: number): string => String(Number((bytes / GIB).toFixed(4)));
