import { describe, expect, test } from "vitest";
import type { ContainerSummary, ImageSummary } from "../../api/types";
import { nameOf, prunable, rows, stripped, type Filter, type SortColumn } from "./model";

const image = (Id: string, RepoTags: string[], more: Partial<ImageSummary> = {}): ImageSummary => ({ Id, ParentId: "", RepoTags, RepoDigests: [], Created: 100, Size: 10, SharedSize: 0, Labels: null, Containers: 0, ...more });
const container = (name: string, ImageID: string) => ({ Id: name, Names: [`/${name}`], ImageID, State: "running", Ports: [], Labels: {} }) as unknown as ContainerSummary;

const images = [image("sha256:aaaaaaaaaaaa1", ["nginx:1.29", "nginx:latest"], { Size: 30 }), image("sha256:bbbbbbbbbbbb2", [], { Size: 20 }), image("sha256:cccccccccccc3", ["alpine:3.22"], { Created: 300 }), image("sha256:dddddddddddd4", ["<none>:<none>"], { RepoDigests: ["registry@sha256:0123456789abcdef"] })];
const containers = [container("web", "sha256:aaaaaaaaaaaa1")];
const view = (filter: Filter = "all", search = "", column: SortColumn = "name", down = false) => rows(images, containers, { filter, search, sort: { column, down } }).map(({ name }) => name);

describe("the list", () => {
  test("puts what has no tag at the end, whichever way", () => {
    expect(view()).toEqual(["alpine:3.22", "nginx:1.29", "bbbbbbbbbbbb", "registry@0123456789ab"]);
    expect(view("all", "", "name", true).slice(0, 2)).toEqual(["nginx:1.29", "alpine:3.22"]);
    expect(view("all", "", "name", true).slice(2)).toEqual(["registry@0123456789ab", "bbbbbbbbbbbb"]);
  });

  test("sorts by size, age and use, the most first", () => {
    expect(view("all", "", "size")[0]).toBe("nginx:1.29");
    expect(view("all", "", "created")[0]).toBe("alpine:3.22");
    expect(view("all", "", "used")[0]).toBe("nginx:1.29");
  });

  test("narrows", () => {
    expect(view("used")).toEqual(["nginx:1.29"]);
    expect(view("unused")).toHaveLength(3);
    expect(view("dangling")).toEqual(["bbbbbbbbbbbb", "registry@0123456789ab"]);
    expect(view("all", "web")).toEqual(["nginx:1.29"]);
    expect(view("all", "LATEST ngi")).toEqual(["nginx:1.29"]);
    expect(view("all", "cccc")).toEqual(["alpine:3.22"]);
    expect(view("all", "nothing")).toEqual([]);
  });

  test("shows what a browser or a terminal would obey", () => {
    expect(nameOf(image("sha256:1", ["\u202Egnp.exe:1"]))).not.toContain("\u202E");
  });
});

test("a clean-up takes what no container stands on, and says whose names suffer", () => {
  const all = rows(images, containers, { filter: "all", search: "", sort: { column: "name", down: false } });
  expect(prunable(all, false).map(({ name }) => name)).toEqual(["bbbbbbbbbbbb", "registry@0123456789ab"]);
  expect(prunable(all, true).map(({ name }) => name)).toEqual(["alpine:3.22", "bbbbbbbbbbbb", "registry@0123456789ab"]);
  expect(stripped(all).map(({ name, more }) => [name, more])).toEqual([["nginx:1.29", ["nginx:latest"]]]);
});
