import { expect, test } from "vitest";
import { ago, bytes, count, date, duration, percent, shortId } from "./format";

test.each([
  [0, "0 B"],
  [1023, "1023 B"],
  [1024, "1 KiB"],
  [1536, "1.5 KiB"],
  [15.27 * 1024 * 1024, "15.3 MiB"],
  [412 * 1024 * 1024, "412 MiB"],
  [64 * 1024 ** 3, "64 GiB"],
])("%d bytes are %s", (number, shown) => expect(bytes(number)).toBe(shown));

test.each([
  [0.0004, "0.0 %"],
  [0.0994, "9.9 %"],
  [0.0996, "10 %"],
  [1.5, "150 %"],
])("a share of %d is %s", (share, shown) => expect(percent(share)).toBe(shown));

test.each([
  [59_000, "59 s"],
  [61_000, "1 min"],
  [3 * 3_600_000 + 5 * 60_000, "3 h 5 min"],
  [26 * 3_600_000, "1 d 2 h"],
])("%d ms are %s", (ms, shown) => expect(duration(ms)).toBe(shown));

test("other words", () => {
  const now = Date.parse("2026-11-21T12:00:00Z");
  expect(ago(now - 3 * 60_000, now)).toBe("3 minutes ago");
  expect(ago(now + 5000, now)).toBe("now");
  expect(date("0001-01-01T00:00:00Z")).toBe("–");
  expect(shortId("sha256:0123456789abcdef")).toBe("0123456789ab");
  expect([count(1, "container"), count(1200, "container"), count(0, "process", "processes")]).toEqual(["1 container", "1,200 containers", "0 processes"]);
});
