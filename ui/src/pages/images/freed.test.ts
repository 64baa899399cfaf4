import { describe, expect, test } from "vitest";
import type { ImageDetails, ImageHistory, ImageSummary } from "../../api/types";
import { freed, freedByLayers, freedByList, layers } from "./freed";

/** A small store of images: each a list of layers with their sizes, the lowest first. */
function store(images: Record<string, [diff: string, size: number][]>) {
  const chainsOf = (id: string) => {
    let chain = "";
    return (images[id] ?? []).map(([diff, size]) => ({ chain: (chain += diff), size }));
  };
  const all = Object.keys(images).map((id): ImageSummary => {
    const others = new Set(Object.keys(images).filter((other) => other !== id).flatMap((other) => chainsOf(other).map(({ chain }) => chain)));
    const mine = chainsOf(id);
    const sum = (of: typeof mine) => of.reduce((total, { size }) => total + size, 0);
    return { Id: id, ParentId: "", RepoTags: [], RepoDigests: [], Created: 0, Size: sum(mine), SharedSize: sum(mine.filter(({ chain }) => others.has(chain))), Labels: null, Containers: 0 };
  });
  const asked: string[] = [];
  const ask = {
    inspect: async (id: string) => {
      asked.push(id);
      return { Id: id, RootFS: { Type: "layers", Layers: (images[id] ?? []).map(([diff]) => diff) } } as unknown as ImageDetails;
    },
    history: async (id: string) => (images[id] ?? []).flatMap(([, Size]) => [{ Size, CreatedBy: "RUN" }, { Size: 0, CreatedBy: "ENV" }]).reverse() as unknown as ImageHistory[],
  };
  const pick = (...ids: string[]) => all.filter(({ Id }) => ids.includes(Id));
  return { all, ask, asked, pick };
}

const shop = () =>
  store({
    kept: [["base", 70], ["app", 10]],
    old: [["base", 70], ["tools", 50], ["src1", 3]],
    older: [["base", 70], ["tools", 50], ["src2", 4]],
    alone: [["other", 200]],
  });

describe("what removing images frees", () => {
  test("of one is what only it has; nobody is asked", async () => {
    const { all, ask, asked, pick } = shop();
    expect(await freed(pick("old"), all, ask)).toEqual({ bytes: 3, exact: true });
    expect(await freed(pick("alone"), all, ask)).toEqual({ bytes: 200, exact: true });
    expect(asked).toEqual([]);
  });

  test("of several counts once what they share among themselves, and not what others need", async () => {
    const { all, ask, pick } = shop();
    expect(await freed(pick("old", "older"), all, ask)).toEqual({ bytes: 50 + 3 + 4, exact: true });
    expect(await freed(pick("old", "older", "alone"), all, ask)).toEqual({ bytes: 50 + 3 + 4 + 200, exact: true });
  });

  test("of all is all", async () => {
    const { all, ask } = shop();
    expect(await freed(all, all, ask)).toEqual({ bytes: 70 + 10 + 50 + 3 + 4 + 200, exact: true });
  });

  test("tells layers of the same content apart when what is below differs", async () => {
    const { all, ask, pick } = store({ a: [["one", 10], ["top", 5]], b: [["two", 10], ["top", 5]], c: [["one", 10], ["top", 5]] });
    // b's `top` is not a's.
    expect(await freed(pick("a", "b"), all, ask)).toEqual({ bytes: 15, exact: true });
  });

  test("is a lower bound when the histories do not tell", async () => {
    const { all, ask, pick } = shop();
    expect(await freed(pick("old", "older"), all, { ...ask, history: async () => [] })).toEqual({ bytes: 7, exact: false });
    expect(await freed(pick("old", "older"), all, { ...ask, inspect: async () => Promise.reject(new Error("gone")) })).toEqual({ bytes: 7, exact: false });
  });

  test("is nothing known when the list does not tell what is shared", () => {
    const { pick } = shop();
    expect(freedByList(pick("old").map((image) => ({ ...image, SharedSize: -1 })))).toEqual({ bytes: 0, exact: false });
  });

  test("of nothing is nothing", async () => {
    const { all, ask } = shop();
    expect(await freed([], all, ask)).toEqual({ bytes: 0, exact: true });
  });
});

test("layers are named by their whole chain, lowest first", () => {
  const details = { Id: "x", RootFS: { Type: "layers", Layers: ["a", "b"] } } as unknown as ImageDetails;
  const history = [{ Size: 2 }, { Size: 0 }, { Size: 1 }] as ImageHistory[];
  expect(layers(details, history)).toEqual({ id: "x", chain: [{ name: " a", size: 1 }, { name: " a b", size: 2 }] });
  expect(layers(details, history.slice(1))).toBeNull();
  expect(freedByLayers([layers(details, history)!, layers(details, history)!], [" a"])).toBe(2);
});
