import { describe, expect, test } from "vitest";
import { fitted, layout, QUAY, ROW } from "./picture";

describe("berths", () => {
  test.each([0, 1, 3, 7, 40, 1000])("%i boats lie apart, in the water, within the picture", (boats) => {
    for (const width of [320, 760, 1400]) {
      const { berths, height, width: drawn, slot, rows } = layout(width, boats);
      expect(berths.length).toBeLessThanOrEqual(boats);
      expect(height).toBe(rows * ROW);
      for (const [index, berth] of berths.entries()) {
        expect(berth.x - slot / 2).toBeGreaterThanOrEqual(QUAY);
        expect(berth.x + slot / 2).toBeLessThanOrEqual(drawn + 1);
        expect(berth.y).toBeLessThan(height);
        const next = berths[index + 1];
        if (next) expect(next.row > berth.row || next.x - berth.x >= 100).toBe(true);
      }
    }
  });

  test("a few are all drawn, of a thousand as many as can be told apart", () => {
    expect(layout(900, 6).berths).toHaveLength(6);
    expect(layout(900, 1000).berths).toHaveLength(8);
  });
});

test("a long name keeps both its ends, and fits", () => {
  const measure = (text: string) => [...text].length * 7;
  expect(fitted("web", 70, measure)).toBe("web");
  expect(fitted("harbour-shop-backend-worker-12", 105, measure)).toBe("harbour…rker-12");
  expect(fitted("🚣".repeat(300), 70, measure)).toBe(`${"🚣".repeat(5)}…${"🚣".repeat(4)}`);
  expect(fitted("n".repeat(250), 3, measure)).toBe("n…n");
  for (let length = 1; length < 60; length++) expect(measure(fitted("x".repeat(length), 133, measure))).toBeLessThanOrEqual(133);
});
