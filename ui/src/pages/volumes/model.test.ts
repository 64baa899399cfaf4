import { describe, expect, test } from "vitest";
import type { ContainerSummary, Volume } from "../../api/types";
import { isAnonymous, nameOf, prunable, rows, sum, type Filter, type SortColumn } from "./model";

const ID = "0123456789ab".padEnd(64, "c");
const volume = (Name: string, more: Partial<Volume> = {}): Volume => ({ Name, Driver: "local", Mountpoint: "", Labels: null, Options: null, Scope: "local", ...more });
const container = (name: string, ...volumes: string[]) =>
  ({ Id: name, Names: [`/${name}`], State: "running", Mounts: [{ Type: "bind", Source: "/x" }, ...volumes.map((Name) => ({ Type: "volume", Name }))] }) as unknown as ContainerSummary;

const volumes = [volume("data-2"), volume("data-10"), volume(ID, { Labels: { "com.docker.volume.anonymous": "" } }), volume("share", { Options: { type: "nfs", device: ":/srv" } }), volume("old", { Labels: { "com.docker.compose.project": "ferry" } })];
const sizes = new Map([["data-2", 5], ["data-10", 50], [ID, 7], ["share", 0], ["old", 1]]);
const containers = [container("web", "data-2", "data-2"), container("db", "data-2")];
const all = (filter: Filter = "all", search = "", column: SortColumn = "name") => rows(volumes, containers, sizes, { filter, search, sort: { column, down: false } });
const names = (...given: Parameters<typeof all>) => all(...given).map(({ name }) => name);

describe("the list", () => {
  test("sorts by number within names; what nobody named comes last", () => {
    expect(names()).toEqual(["data-2", "data-10", "old", "share", "0123456789ab"]);
    expect(names("all", "", "size")[0]).toBe("data-10");
    expect(names("all", "", "used")[0]).toBe("data-2");
  });

  test("narrows", () => {
    expect(names("used")).toEqual(["data-2"]);
    expect(names("anonymous")).toEqual(["0123456789ab"]);
    expect(names("all", "ferry")).toEqual(["old"]);
    expect(names("all", "DB")).toEqual(["data-2"]);
  });

  test("counts a container once that has a volume twice", () => {
    expect(all("used")[0]?.users).toHaveLength(2);
  });
});

test("anonymous is what Docker marks, or what it made up before it marked", () => {
  expect(isAnonymous(volume("cache", { Labels: { "com.docker.volume.anonymous": "" } }))).toBe(true);
  expect(isAnonymous(volume(ID))).toBe(true);
  expect(isAnonymous(volume(ID, { Labels: { mine: "1" } }))).toBe(false);
  expect(isAnonymous(volume("data"))).toBe(false);
  expect(nameOf(volume("<b>x</b>\u202E"))).not.toContain("\u202E");
});

test("a clean-up takes what no container has and what is here; its sum is that of the sizes", () => {
  expect(prunable(all(), false).map(({ name }) => name)).toEqual(["0123456789ab"]);
  expect(prunable(all(), true).map(({ name }) => name)).toEqual(["data-10", "old", "0123456789ab"]);
  expect(sum(prunable(all(), true))).toBe(58);
  expect(sum(rows(volumes, [], undefined, { filter: "all", search: "", sort: { column: "name", down: false } }))).toBeNull();
  expect(sum([])).toBe(0);
  const [memory] = rows([volume("fast", { Options: { type: "tmpfs", device: "tmpfs" } })], [], new Map(), { filter: "all", search: "", sort: { column: "name", down: false } });
  expect(memory).toMatchObject({ mounted: true, remote: false, size: null });
});
