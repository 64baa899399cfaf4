import { describe, expect, test } from "vitest";
import { aligned, contains, format, formatSubnet, isAligned, overlaps, parseAddress, parseSubnet, type Subnet } from "./address";

const subnet = (text: string): Subnet => {
  const parsed = parseSubnet(text);
  if (!parsed) throw new Error(`${text} is no subnet`);
  return parsed;
};

describe("addresses", () => {
  test.each([
    ["172.20.0.1", "172.20.0.1"],
    ["0.0.0.0", "0.0.0.0"],
    ["fd00::1", "fd00::1"],
    ["::", "::"],
    ["::1", "::1"],
    ["FD00:0:0:0:0:0:0:a", "fd00::a"],
    ["2001:db8:0:1:0:0:0:1", "2001:db8:0:1::1"],
    ["::ffff:10.0.0.1", "::ffff:a00:1"],
    ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
    ["1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"],
  ])("%s is read, and written %s", (typed, written) => {
    const address = parseAddress(typed);
    expect(address && format(address)).toBe(written);
  });

  test.each(["", "10", "10.0.0", "10.0.0.256", "010.0.0.1", "10.0.0.1.2", ":", ":::", "1::2::3", "fd00", "12345::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::1.2.3", "1:2:3:4:5:6:7::8", "10.0.0.1 "])(
    "%j is none",
    (typed) => expect(parseAddress(typed)).toBeNull(),
  );
});

describe("subnets", () => {
  test.each(["10.7.0.0", "10.7.0.0/33", "10.7.0.0/", "/24", "fd00::/129", "10.7.0.0/2x"])("%j is none", (typed) => expect(parseSubnet(typed)).toBeNull());

  test("one that starts within itself is told, with what was meant", () => {
    expect(isAligned(subnet("10.7.0.0/24"))).toBe(true);
    expect(isAligned(subnet("10.7.0.5/24"))).toBe(false);
    expect(formatSubnet(aligned(subnet("10.7.0.5/24")))).toBe("10.7.0.0/24");
    expect(formatSubnet(aligned(subnet("fd00:0:0:7:1::/64")))).toBe("fd00:0:0:7::/64");
  });

  test("what is in one, and what only looks so", () => {
    const addresses = ["10.7.0.1", "10.7.0.255", "10.7.1.0", "fd00::1"].map((text) => parseAddress(text));
    expect(addresses.map((address) => address && contains(subnet("10.7.0.0/24"), address))).toEqual([true, true, false, false]);
  });

  test("one that is part of another overlaps it, either way", () => {
    expect(overlaps(subnet("172.16.0.0/12"), subnet("172.20.0.0/16"))).toBe(true);
    expect(overlaps(subnet("172.20.0.0/16"), subnet("172.16.0.0/12"))).toBe(true);
    expect(overlaps(subnet("172.20.0.0/16"), subnet("172.21.0.0/16"))).toBe(false);
    expect(overlaps(subnet("0.0.0.0/0"), subnet("fd00::/8"))).toBe(false);
  });
});
