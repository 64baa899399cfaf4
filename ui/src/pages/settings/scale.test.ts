import { expect, it } from "vitest";
import type { Limits } from "../../settings/rules";
import { GIB, MIB } from "../../settings/size";
import { cpuScale, diskScale, memoryScale } from "./scale";

const LIMITS: Limits = { cpus: 8, memory: 16 * GIB - 300 * MIB, disk: 500.4 * GIB, diskNow: 64 * GIB };

it("sliders go as far as the host does", () => {
  expect(cpuScale(LIMITS)).toMatchObject({ least: 1, most: 8 });
  expect(memoryScale(LIMITS)).toMatchObject({ least: 512 * MIB, most: 15.5 * GIB });
  const memory = memoryScale(LIMITS);
  expect(memory.least + (memory.safe ?? 0) * (memory.most - memory.least)).toBeCloseTo((LIMITS.memory / 4) * 3);
  expect(diskScale(LIMITS)).toMatchObject({ least: 64 * GIB, most: 500 * GIB });
  expect(diskScale({ ...LIMITS, diskNow: 0 }).least).toBe(GIB);
});

it("a host that has less than the machine's disk leaves room to grow", () => {
  const scale = diskScale({ ...LIMITS, disk: 40 * GIB });
  expect(scale.most).toBeGreaterThan(scale.least);
  expect(cpuScale({ ...LIMITS, cpus: 1 }).most).toBeGreaterThan(1);
});

it("a place and what is typed are the same", () => {
  const scale = memoryScale(LIMITS);
  for (let place = scale.least; place <= scale.most; place += scale.step) expect(scale.position(scale.typed(place))).toBe(place);
  expect(scale.shown("1536M")).toBe("1.5");
  expect(scale.shown("lots")).toBe("lots");
  expect(scale.position("lots")).toBeNull();
  expect(cpuScale(LIMITS).position("two")).toBeNull();
});
