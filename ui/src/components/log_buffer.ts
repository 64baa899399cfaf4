/** The lines of a log that are kept in sight: the last 100,000, with what is needed to draw and search each. */
import { parse, plain, type Span, type Style } from "../api/ansi";
import type { LogLine, StreamName } from "../api/log_stream";

export interface KeptLine {
  /** Counts from the first line ever shown: stays the same as older lines go. */
  number: number;
  stream: StreamName;
  time: string | null;
  raw: string;
  /** The colour that earlier lines left switched on. */
  start: Style | undefined;
}

export const KEPT = 100_000;
/** Older lines go in blocks, so that a flood does not move the array for each line. */
const BLOCK = 5_000;
/** A browser lays out no longer line at 60 frames a second. */
const DRAWN = 8_192;

export class LogBuffer {
  lines: KeptLine[] = [];
  dropped = 0;
  #styles: Record<StreamName, Style | undefined> = { stdout: undefined, stderr: undefined };
  #next = 0;

  push(lines: readonly LogLine[]): void {
    for (const { stream, time, text } of lines) {
      const start = this.#styles[stream];
      this.lines.push({ number: this.#next++, stream, time, raw: text, start });
      if (text.includes("\x1b[")) {
        const { end } = parse(text, start);
        this.#styles[stream] = Object.keys(end).length === 0 ? undefined : end;
      }
    }
    if (this.lines.length > KEPT + BLOCK) {
      const surplus = this.lines.length - KEPT;
      this.lines.splice(0, surplus);
      this.dropped += surplus;
    }
  }

  clear(): void {
    this.lines = [];
    this.dropped = 0;
  }
}

export interface Piece extends Span {
  match: boolean;
}

/** A pattern that finds what was typed, as it was typed; null for nothing typed. */
export const pattern = (typed: string): RegExp | null => (typed === "" ? null : new RegExp(typed.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gi"));

export function matches(line: KeptLine, search: RegExp): boolean {
  search.lastIndex = 0;
  return search.test(plain(line.raw));
}

/** A line as it is drawn: coloured pieces, with what was searched for marked. */
export function pieces(line: KeptLine, search: RegExp | null): Piece[] {
  const cut = line.raw.length > DRAWN ? `${line.raw.slice(0, DRAWN)}…` : line.raw;
  const { spans } = parse(cut, line.start);
  if (!search) return spans.map((span) => ({ ...span, match: false }));
  const out: Piece[] = [];
  for (const { text, style } of spans) {
    let from = 0;
    search.lastIndex = 0;
    for (const found of text.matchAll(search)) {
      if (found.index > from) out.push({ text: text.slice(from, found.index), style, match: false });
      out.push({ text: found[0], style, match: true });
      from = found.index + found[0].length;
    }
    if (from < text.length) out.push({ text: text.slice(from), style, match: false });
  }
  return out;
}
