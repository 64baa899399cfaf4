import { expect, test } from "vitest";
import { visibleRange } from "./virtual";

test("only what is in sight exists, wherever one is", () => {
  for (const top of [0, 1, 4600, 45_540, 10_000_000]) {
    const { first, end } = visibleRange({ top, height: 600, rowHeight: 46, count: 1000 });
    expect(end - first).toBeLessThan(40);
    expect(first).toBeGreaterThanOrEqual(0);
    expect(end).toBeLessThanOrEqual(1000);
    if (top < 1000 * 46) {
      expect(first * 46).toBeLessThanOrEqual(top);
      expect(end * 46).toBeGreaterThanOrEqual(Math.min(top + 600, 46_000));
    }
  }
  expect(visibleRange({ top: 0, height: 600, rowHeight: 46, count: 3 })).toEqual({ first: 0, end: 3 });
});
