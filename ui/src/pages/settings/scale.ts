/** How a slider counts, and what a place on it is called. */
import type { Limits } from "../../settings/rules";
import { MIN_DISK, MIN_MEMORY } from "../../settings/rules";
import { GIB, inGib, MIB, typedSize } from "../../settings/size";
import { bytes, count } from "../../text";

export interface Scale {
  least: number;
  most: number;
  step: number;
  /** Beyond this share of the whole it is unwise. */
  safe?: number;
  /** Where a value is; null if it is none. */
  position(value: string): number | null;
  /** A value as the field shows it. */
  shown(value: string): string;
  /** A place as the field would be typed. */
  typed(position: number): string;
  spoken(position: number): string;
}

export const cpuScale = (limits: Limits): Scale => ({
  least: 1,
  most: Math.max(limits.cpus, 2),
  step: 1,
  position: (value) => (/^\s*\d+\s*$/.test(value) ? Number(value) : null),
  shown: (value) => value,
  typed: String,
  spoken: (position) => count(position, "CPU"),
});

const sizes = (least: number, most: number, step: number) => ({
  least,
  most,
  step,
  position: typedSize,
  shown(value: string): string {
    const size = typedSize(value);
    return size === null ? value : inGib(size);
  },
  typed: (position: number) => inGib(Math.round(position / MIB) * MIB),
  spoken: (position: number) => bytes(position),
});

export function memoryScale(limits: Limits): Scale {
  const scale = sizes(MIN_MEMORY, Math.max(Math.floor(limits.memory / MIN_MEMORY), 2) * MIN_MEMORY, MIN_MEMORY);
  return { ...scale, safe: ((limits.memory / 4) * 3 - scale.least) / (scale.most - scale.least) };
}

/** From the size that the disk has, which it keeps at least, to what the host's own disk has. */
export function diskScale(limits: Limits): Scale {
  const least = Math.max(limits.diskNow, MIN_DISK);
  return sizes(least, Math.max(least + GIB, Math.floor(limits.disk / GIB) * GIB), GIB);
}
