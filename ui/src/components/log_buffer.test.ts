import { expect, test } from "vitest";
import type { LogLine } from "../api/log_stream";
import { KEPT, LogBuffer, matches, pattern, pieces } from "./log_buffer";

const line = (text: string, stream: LogLine["stream"] = "stdout"): LogLine => ({ stream, time: null, text });

test("the last hundred thousand lines are kept, and their numbers stay", () => {
  const buffer = new LogBuffer();
  for (let at = 0; at < 130_000; at += 1000) buffer.push(Array.from({ length: 1000 }, (_, index) => line(`line ${at + index}`)));
  expect(buffer.lines.length).toBeGreaterThanOrEqual(KEPT);
  expect(buffer.lines.length).toBeLessThan(KEPT + 6000);
  expect(buffer.dropped + buffer.lines.length).toBe(130_000);
  expect(buffer.lines.at(-1)).toMatchObject({ number: 129_999, raw: "line 129999" });
});

test("a colour goes on in its own stream only", () => {
  const buffer = new LogBuffer();
  buffer.push([line("\x1b[31mred"), line("plain", "stderr"), line("still\x1b[0m"), line("plain")]);
  expect(buffer.lines.map((one) => pieces(one, null).map(({ style }) => style.colour))).toEqual([[1], [undefined], [1], [undefined]]);
});

test("what is searched for is found as it is shown, and marked", () => {
  const [one] = (() => {
    const buffer = new LogBuffer();
    buffer.push([line("\x1b[32ma.b\x1b[0m axb A.B")]);
    return buffer.lines;
  })();
  if (!one) throw new Error("no line");
  const search = pattern("a.b");
  if (!search) throw new Error("no pattern");
  expect(matches(one, search)).toBe(true);
  expect(pieces(one, search).filter(({ match }) => match).map(({ text }) => text)).toEqual(["a.b", "A.B"]);
  const other = pattern("32m");
  expect(other && matches(one, other)).toBe(false);
  expect(pattern("")).toBeNull();
});

test("a long line is drawn in part", () => {
  const buffer = new LogBuffer();
  buffer.push([line("y".repeat(60_000))]);
  expect(pieces(buffer.lines[0] ?? { number: 0, stream: "stdout", time: null, raw: "", start: undefined }, null)[0]?.text.length).toBeLessThan(10_000);
});
