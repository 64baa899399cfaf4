import { expect, it } from "vitest";
import { formatSize, GIB, inGib, MIB, parseSize, typedSize } from "./size";

it("sizes are read in units of 1024", () => {
  for (const [text, bytes] of [
    ["512M", 512 * MIB],
    ["4G", 4 * GIB],
    ["4g", 4 * GIB],
    ["4GiB", 4 * GIB],
    ["4GB", 4 * GIB],
    ["4 G", 4 * GIB],
    ["2T", 2048 * GIB],
  ] as const) {
    expect(parseSize(text), text).toBe(bytes);
    expect(typedSize(text), text).toBe(bytes);
  }
});

it("what is no size is refused", () => {
  for (const text of ["", "G", "4", "4K", "-4G", "4.5G", "4GX", "4Gé", "é"]) expect(parseSize(text), text).toBeNull();
  for (const text of ["", "G", "4K", "-4", "4.5.6", "4 5", "1e3", "0x10", "é"]) expect(typedSize(text), text).toBeNull();
});

it("a bare number counts GiB, and becomes a whole number of MiB", () => {
  expect(typedSize("6")).toBe(6 * GIB);
  expect(typedSize(" 6,5 ")).toBe(6.5 * GIB);
  expect(typedSize("4.3")).toBe(4403 * MIB);
  expect(typedSize("1.5T")).toBe(1536 * GIB);
});

it("a size is written as it is read", () => {
  for (const text of ["512M", "4G", "1536M", "1T", "0M"]) expect(formatSize(parseSize(text) ?? -1)).toBe(text);
});

it("a field of GiB loses no MiB", () => {
  for (let mib = 1; mib < 70_000; mib += 7) expect(typedSize(inGib(mib * MIB))).toBe(mib * MIB);
  expect(inGib(6 * GIB)).toBe("6");
});
