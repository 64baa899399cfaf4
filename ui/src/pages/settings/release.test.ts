import { expect, it } from "vitest";
import { day, notes } from "./release";

it("a release has a day, however its date is written", () => {
  expect(day("2026-11-28")).toBe("28 November 2026");
  expect(day("2026-11-28 09:00:00.0 +00:00:00")).toBe("28 November 2026");
  expect(day("yesterday")).toBe("");
  expect(day(null)).toBe("");
});

it("notes are read as a changelog is written", () => {
  expect(notes("# 0.2\r\n\nStarts\nsooner.\n\n- one\n- two,\n  and more\n* three\n\nThe end.")).toEqual([
    { kind: "title", text: "0.2" },
    { kind: "text", text: "Starts sooner." },
    { kind: "items", items: ["one", "two, and more", "three"] },
    { kind: "text", text: "The end." },
  ]);
  expect(notes("")).toEqual([]);
  expect(notes("<b>-</b>")).toEqual([{ kind: "text", text: "<b>-</b>" }]);
});
