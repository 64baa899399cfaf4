import { expect, it } from "vitest";
import { brokenAt } from "./broken";

it("a mistake in the file has a line, one of a value has none", () => {
  const file = "/home/me/.coracle/default/config.toml";
  expect(brokenAt(`${file}:3: "lots" is not a size`, file)).toEqual({ line: "3", message: '"lots" is not a size' });
  expect(brokenAt("memory = 99G: this host has 16384M in all", file)).toEqual({ line: null, message: "memory = 99G: this host has 16384M in all" });
  expect(brokenAt(`cannot read ${file}: Permission denied`, file)).toEqual({ line: null, message: `cannot read ${file}: Permission denied` });
  expect(brokenAt("/a:b:2: x", "/a:b")).toEqual({ line: "2", message: "x" });
});
