/** Numbers and times as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

/** `1.4 GiB`: three figures at most, and never a decimal of a byte. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = unit === 0 || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return `${trimmed(value.toFixed(digits))} ${UNITS[unit]}`;
}

const trimmed = (text: string): string => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

/** Of one core, as `docker stats` has it: `1.5` is 150 %. */
export function percent(share: number): string {
  const value = share * 100;
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} %`;
}

const STEPS = [
  { unit: "second", ms: 1000 },
  { unit: "minute", ms: 60_000 },
  { unit: "hour", ms: 3_600_000 },
  { unit: "day", ms: 86_400_000 },
  { unit: "month", ms: 30 * 86_400_000 },
  { unit: "year", ms: 365 * 86_400_000 },
] as const;

const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

/** `3 minutes ago`. */
export function ago(at: number, now: number = Date.now()): string {
  const passed = Math.max(0, now - at);
  const step = STEPS.findLast((candidate) => passed >= candidate.ms) ?? STEPS[0];
  return relative.format(-Math.floor(passed / step.ms), step.unit);
}

/** `2 h 14 min`: the two greatest parts. */
export function duration(ms: number): string {
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  const days = Math.floor(hours / 24);
  return hours % 24 === 0 ? `${days} d` : `${days} d ${hours % 24} h`;
}

const dateTime = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

export const date = (at: number | string): string => {
  const time = typeof at === "string" ? Date.parse(at) : at;
  // Docker says "never" with the year 1.
  return Number.isNaN(time) || time <= 0 ? "–" : dateTime.format(time);
};

/** `sha256:` away, twelve digits, as `docker` shows it. */
export const shortId = (id: string): string => id.replace(/^sha256:/, "").slice(0, 12);

/** `1 container`, `3 containers`. */
export const count = (number: number, noun: string, plural = `${noun}s`): string => `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
