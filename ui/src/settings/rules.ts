/**
 * What a setting's value may be, checked while it is typed. The authority is `crates/coracle/src/machine/config.rs`,
 * which checks again when a change is kept; `rules.test.ts` holds the figures against its source.
 */
import type { HostFigures, SettingKey } from "../backend/backend";
import { bytes as human, text } from "../text";
import { hasCredentials, isProxy, NONE } from "./proxy";
import { formatShares, parseShares, shareProblems } from "./shares";
import { formatSize, GIB, MIB, typedSize } from "./size";

const words = text.settings.problems;

export const MAX_CPUS = 64;
export const MIN_MEMORY = 512 * MIB;
export const MIN_DISK = GIB;
export const MAX_DISK = 2 ** 46;
export const DEFAULT_DISK = 60 * GIB;
export const ACCELERATORS = ["auto", "kvm", "qemu"] as const;

/** What this computer and the machine's disk allow. */
export interface Limits {
  cpus: number;
  memory: number;
  /** Of the file system that holds the machine's disk. */
  disk: number;
  /** The size of the machine's disk, 0 if there is none yet: it cannot shrink. */
  diskNow: number;
}

export const limitsOf = (host: HostFigures, diskNow: number): Limits => ({
  cpus: host.cpus,
  memory: Math.floor(host.memory_total_bytes / MIB) * MIB,
  disk: host.disk_total_bytes,
  diskNow,
});

export type Checked =
  /** As it is kept, and what to think about. */
  { ok: true; value: string; warning: string | null } | { ok: false; problem: string };

const good = (value: string, warning: string | null = null): Checked => ({ ok: true, value, warning });
const wrong = (problem: string): Checked => ({ ok: false, problem });

/** Checks what was typed. */
export function check(key: SettingKey, typed: string, limits: Limits): Checked {
  const text = typed.trim();
  switch (key) {
    case "cpus":
      return checkCpus(text, limits);
    case "memory":
      return checkMemory(text, limits);
    case "disk":
      return checkDisk(text, limits);
    case "accel":
      return (ACCELERATORS as readonly string[]).includes(text) ? good(text) : wrong(words.accelerator);
    case "shares": {
      const shares = parseShares(text);
      if (!shares) return wrong(words.sharePath);
      const problem = shareProblems(shares).find((found) => found !== null);
      return problem === undefined ? good(formatShares(shares)) : wrong(problem);
    }
    case "http-proxy":
    case "https-proxy":
      if (text === "") return wrong(words.proxyEmpty);
      return text === NONE || isProxy(text) ? good(text, hasCredentials(text) ? words.proxyPassword : null) : wrong(words.proxy);
    case "no-proxy":
      return text === "" ? wrong(words.noProxyEmpty) : good(text);
    case "container-proxy":
      return text === "true" || text === "false" ? good(text) : wrong(words.yesOrNo);
  }
}

function checkCpus(text: string, limits: Limits): Checked {
  if (!/^\d+$/.test(text)) return wrong(words.cpusNumber);
  const count = Number(text);
  if (count < 1 || count > MAX_CPUS) return wrong(words.cpusRange(MAX_CPUS));
  return good(String(count), count > limits.cpus ? words.cpusMore(limits.cpus) : null);
}

function checkMemory(text: string, limits: Limits): Checked {
  const size = typedSize(text);
  if (size === null) return wrong(words.size);
  if (size < MIN_MEMORY) return wrong(words.memoryLeast(human(MIN_MEMORY)));
  if (size > limits.memory) return wrong(words.memoryMost(human(limits.memory)));
  return good(formatSize(size), size > (limits.memory / 4) * 3 ? words.memoryMuch : null);
}

function checkDisk(text: string, limits: Limits): Checked {
  const size = typedSize(text);
  if (size === null) return wrong(words.size);
  if (size < limits.diskNow) return wrong(words.diskShrinks(human(limits.diskNow)));
  if (size < MIN_DISK || size > MAX_DISK) return wrong(words.diskRange(human(MIN_DISK), human(MAX_DISK)));
  return good(formatSize(size), size > limits.disk ? words.diskLarge(human(limits.disk)) : null);
}

/** What holds where nothing is chosen, as far as it follows from the host alone. */
export function defaultOf(key: SettingKey, limits: Limits): string | null {
  switch (key) {
    case "cpus":
      return String(Math.min(limits.cpus, 4));
    case "memory": {
      const quarter = Math.min(Math.max(limits.memory / 4, 2 * GIB), 8 * GIB);
      const step = 256 * MIB;
      return formatSize(Math.max(Math.floor(Math.min(quarter, limits.memory / 2) / step) * step, MIN_MEMORY));
    }
    case "disk":
      return formatSize(limits.diskNow || DEFAULT_DISK);
    case "accel":
      return "auto";
    case "container-proxy":
      return "false";
    default:
      return null;
  }
}
