/**
 * Docker's two ways to send what a container writes: with a terminal, bytes as they are; without,
 * frames of `[stream, 0, 0, 0, length: u32 big-endian]` and a payload.
 */
import { Lines } from "./lines";

export type StreamName = "stdout" | "stderr";

export interface LogLine {
  stream: StreamName;
  /** RFC 3339 as Docker sends it, if asked for. */
  time: string | null;
  text: string;
}

/** A longer line is cut, and says so: nobody reads on, and a browser cannot lay it out. */
export const LINE_LIMIT = 64 * 1024;

const HEADER = 8;

/** Takes frames apart. A payload is handed on as it comes, so a frame of any length takes no memory. */
export class Demultiplexer {
  #header = new Uint8Array(HEADER);
  #have = 0;
  #left = 0;
  #stream: StreamName = "stdout";

  constructor(readonly payload: (stream: StreamName, bytes: Uint8Array) => void) {}

  push(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.#left > 0) {
        const taken = Math.min(this.#left, bytes.length - at);
        this.payload(this.#stream, bytes.subarray(at, at + taken));
        this.#left -= taken;
        at += taken;
        continue;
      }
      const taken = Math.min(HEADER - this.#have, bytes.length - at);
      this.#header.set(bytes.subarray(at, at + taken), this.#have);
      this.#have += taken;
      at += taken;
      if (this.#have < HEADER) return;
      this.#have = 0;
      this.#left = new DataView(this.#header.buffer).getUint32(4);
      this.#stream = this.#header[0] === 2 ? "stderr" : "stdout";
    }
  }
}

export class LogParser {
  #lines = { stdout: new BoundedLines(), stderr: new BoundedLines() };
  #out: LogLine[] = [];
  #frames = new Demultiplexer((stream, bytes) => this.#take(stream, bytes));

  constructor(
    readonly terminal: boolean,
    readonly timestamps: boolean,
  ) {}

  push(bytes: Uint8Array): LogLine[] {
    this.#out = [];
    if (this.terminal) this.#take("stdout", bytes);
    else this.#frames.push(bytes);
    return this.#out;
  }

  /** Lines that never got an end. */
  finish(): LogLine[] {
    const out: LogLine[] = [];
    for (const stream of ["stdout", "stderr"] as const) {
      const rest = this.#lines[stream].rest();
      if (rest !== "") out.push(this.#line(stream, rest));
    }
    return out;
  }

  #take(stream: StreamName, bytes: Uint8Array): void {
    for (const text of this.#lines[stream].push(bytes)) this.#out.push(this.#line(stream, text));
  }

  #line(stream: StreamName, raw: string): LogLine {
    let text = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
    let time: string | null = null;
    if (this.timestamps) {
      const space = text.indexOf(" ");
      if (space > 0 && space <= 40) {
        time = text.slice(0, space);
        text = text.slice(space + 1);
      }
    }
    return { stream, time, text };
  }
}

/** {@link Lines} that hold no more than {@link LINE_LIMIT} of a line. */
class BoundedLines {
  #lines = new Lines();
  #length = 0;
  #dropped = 0;

  push(bytes: Uint8Array): string[] {
    const out: string[] = [];
    let start = 0;
    while (start < bytes.length) {
      const newline = bytes.indexOf(10, start);
      const end = newline < 0 ? bytes.length : newline;
      const room = Math.max(0, LINE_LIMIT - this.#length);
      const kept = Math.min(end - start, room);
      this.#lines.push(bytes.subarray(start, start + kept));
      this.#length += kept;
      this.#dropped += end - start - kept;
      if (newline < 0) break;
      out.push(this.rest());
      start = newline + 1;
    }
    return out;
  }

  rest(): string {
    const dropped = this.#dropped;
    this.#length = 0;
    this.#dropped = 0;
    const text = this.#lines.rest();
    return dropped > 0 ? `${text}… (${dropped} more bytes in this line)` : text;
  }
}
