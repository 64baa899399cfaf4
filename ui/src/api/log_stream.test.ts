import { describe, expect, test } from "vitest";
import { LINE_LIMIT, LogParser } from "./log_stream";

const utf8 = new TextEncoder();

function frame(stream: 1 | 2, text: string | Uint8Array): Uint8Array {
  const payload = typeof text === "string" ? utf8.encode(text) : text;
  const framed = new Uint8Array(8 + payload.length);
  framed[0] = stream;
  new DataView(framed.buffer).setUint32(4, payload.length);
  framed.set(payload, 8);
  return framed;
}

function joined(...parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

const shown = (parser: LogParser, ...pieces: Uint8Array[]) => [...pieces.flatMap((piece) => parser.push(piece)), ...parser.finish()].map(({ stream, text }) => `${stream}:${text}`);

describe("frames", () => {
  const bytes = joined(frame(1, "one\ntw"), frame(2, "err\n"), frame(1, "o\nthree é\n"));

  test("lines are put together across frames, each stream for itself", () => {
    expect(shown(new LogParser(false, false), bytes)).toEqual(["stdout:one", "stderr:err", "stdout:two", "stdout:three é"]);
  });

  test("wherever the bytes are cut", () => {
    for (let cut = 1; cut < bytes.length; cut++) {
      expect(shown(new LogParser(false, false), bytes.subarray(0, cut), bytes.subarray(cut))).toEqual(["stdout:one", "stderr:err", "stdout:two", "stdout:three é"]);
    }
    expect(shown(new LogParser(false, false), ...[...bytes].map((byte) => Uint8Array.of(byte)))).toHaveLength(4);
  });
});

test("a terminal's bytes have no frames", () => {
  expect(shown(new LogParser(true, false), utf8.encode("a\r\nb"))).toEqual(["stdout:a", "stdout:b"]);
});

test("the time is taken off", () => {
  const [line] = new LogParser(true, true).push(utf8.encode("2026-11-21T08:31:22.123456789Z hello world\n"));
  expect(line).toEqual({ stream: "stdout", time: "2026-11-21T08:31:22.123456789Z", text: "hello world" });
});

test("a line of 10 MiB is cut and says by how much; the next one is whole", () => {
  const parser = new LogParser(false, false);
  const lines = parser.push(joined(frame(1, "x"), new Uint8Array(0)));
  expect(lines).toEqual([]);
  const long = new Uint8Array(10 * 1024 * 1024).fill(120);
  const framed = new Uint8Array(8 + long.length);
  framed[0] = 1;
  new DataView(framed.buffer).setUint32(4, long.length);
  framed.set(long, 8);
  const got = [...parser.push(framed), ...parser.push(frame(1, "\nafter\n"))];
  expect(got.map(({ text }) => text.length)).toEqual([LINE_LIMIT + `… (${10 * 1024 * 1024 + 1 - LINE_LIMIT} more bytes in this line)`.length, 5]);
});
