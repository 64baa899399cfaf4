import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { check, DEFAULT_DISK, defaultOf, MAX_CPUS, MAX_DISK, MIN_DISK, MIN_MEMORY, type Limits } from "./rules";
import { SCHEMES } from "./proxy";
import { GUESTS_OWN, GUESTS_TREES } from "./shares";
import { GIB, MIB, formatSize } from "./size";

const LIMITS: Limits = { cpus: 8, memory: 16 * GIB, disk: 500 * GIB, diskNow: 10 * GIB };
const at = (key: Parameters<typeof check>[0], typed: string, limits = LIMITS) => check(key, typed, limits);
const value = (...args: Parameters<typeof at>) => {
  const checked = at(...args);
  return checked.ok ? checked.value : `refused: ${checked.problem}`;
};
const warning = (...args: Parameters<typeof at>) => {
  const checked = at(...args);
  return checked.ok ? checked.warning : "refused";
};

describe("rules", () => {
  it("keep what fits as coracle writes it", () => {
    expect(value("cpus", " 4 ")).toBe("4");
    expect(value("memory", "6.5")).toBe("6656M");
    expect(value("memory", "4 GiB")).toBe("4G");
    expect(value("disk", "1024")).toBe("1T");
    expect(value("shares", "/home/me/,/data:ro")).toBe("/home/me,/data:ro");
    expect(value("http-proxy", "proxy.test:3128")).toBe("proxy.test:3128");
    expect(value("no-proxy", ".test, 10.0.0.0/8")).toBe(".test, 10.0.0.0/8");
    expect(value("container-proxy", "true")).toBe("true");
    expect(value("accel", "kvm")).toBe("kvm");
  });

  it("refuse what the host or the disk cannot give", () => {
    const cases = [
      ["cpus", "0", "1 to 64"],
      ["cpus", "65", "1 to 64"],
      ["cpus", "two", "whole number"],
      ["cpus", "1.5", "whole number"],
      ["cpus", "-1", "whole number"],
      ["cpus", "", "whole number"],
      ["memory", "17", "16 GiB in all"],
      ["memory", "256M", "512 MiB at least"],
      ["memory", "much", "number of GiB"],
      ["memory", "", "number of GiB"],
      ["disk", "9", "cannot shrink"],
      ["disk", "65T", "64 TiB"],
      ["accel", "hvf", "one of the three"],
      ["shares", "home", "full path"],
      ["shares", "/proc/1", "its own /proc"],
      ["http-proxy", "", "None"],
      ["https-proxy", "ftp://p.test", "http, https, socks5"],
      ["no-proxy", " ", "None"],
      ["container-proxy", "maybe", "yes or no"],
    ] as const;
    for (const [key, typed, words] of cases) expect(value(key, typed), `${key} = ${typed}`).toContain(words);
    expect(value("disk", "0.5", { ...LIMITS, diskNow: 0 })).toContain("1 GiB to 64 TiB");
  });

  it("take what is allowed but unwise, and say so", () => {
    expect(warning("cpus", "8")).toBeNull();
    expect(warning("cpus", "9")).toContain("has 8");
    expect(warning("memory", "12")).toBeNull();
    expect(warning("memory", "13")).toContain("a quarter");
    expect(warning("disk", "500")).toBeNull();
    expect(warning("disk", "501")).toContain("500 GiB");
    expect(warning("http-proxy", "http://me:secret@p.test")).toContain("password");
    expect(warning("http-proxy", "http://p.test")).toBeNull();
  });

  it("know the defaults that follow from the host", () => {
    expect(defaultOf("cpus", LIMITS)).toBe("4");
    expect(defaultOf("memory", LIMITS)).toBe("4G");
    expect(defaultOf("memory", { ...LIMITS, memory: 3 * GIB })).toBe("1536M");
    expect(defaultOf("memory", { ...LIMITS, memory: 1024 * GIB })).toBe("8G");
    expect(defaultOf("disk", LIMITS)).toBe("10G");
    expect(defaultOf("disk", { ...LIMITS, diskNow: 0 })).toBe("60G");
    expect(defaultOf("shares", LIMITS)).toBeNull();
  });
});

/** The machine's side decides; what is written here a second time is held against it. */
describe("figures", () => {
  const source = (path: string) => readFileSync(new URL(`../../../crates/${path}`, import.meta.url), "utf8");
  const list = (text: string, name: string) => {
    const body = new RegExp(`const ${name}: \\[&str; \\d+\\] = \\[([^\\]]*)\\]`).exec(text)?.[1];
    return [...(body ?? "").matchAll(/"([^"]*)"/g)].map((match) => match[1]);
  };
  const bytes = (text: string, name: string) => {
    const expression = new RegExp(`const ${name}: Size = Size::whole\\(([^)]*)\\)`).exec(text)?.[1];
    const factors = (expression ?? "NaN").split("*").map((factor) => {
      const word = factor.trim();
      const shift = /^(\d+) << (\d+)$/.exec(word);
      return word === "GIB" ? GIB : word === "MIB" ? MIB : shift ? Number(shift[1]) * 2 ** Number(shift[2]) : Number(word);
    });
    return factors.reduce((product, factor) => product * factor, 1);
  };

  it("are those of coracle", () => {
    const config = source("coracle/src/machine/config.rs");
    expect(Number(/const MAX_CPUS: u8 = (\d+);/.exec(config)?.[1])).toBe(MAX_CPUS);
    expect(bytes(config, "MIN_MEMORY")).toBe(MIN_MEMORY);
    expect(bytes(config, "MIN_DISK")).toBe(MIN_DISK);
    expect(bytes(config, "MAX_DISK")).toBe(MAX_DISK);
    expect(bytes(config, "DEFAULT_DISK")).toBe(DEFAULT_DISK);
    const shares = source("coracle/src/machine/shares.rs");
    expect(list(shares, "GUESTS_OWN")).toEqual(GUESTS_OWN);
    expect(list(shares, "GUESTS_TREES")).toEqual(GUESTS_TREES);
    expect(list(source("wire/src/settings.rs"), "PROXY_SCHEMES")).toEqual(SCHEMES);
    expect(formatSize(DEFAULT_DISK)).toBe("60G");
  });
});
