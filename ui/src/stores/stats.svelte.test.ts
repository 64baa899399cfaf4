import { flushSync } from "svelte";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { StatsMessage } from "../api/stats";
import type { Backend, EngineRequest, StreamListener } from "../backend/backend";
import { setBackend } from "../backend/current";
import { stats, Stats } from "./stats";

const open = new Map<string, StreamListener>();
let asked = 0;

function measure(id: string, memory: number): void {
  const message: Partial<StatsMessage> = {
    read: new Date().toISOString(),
    cpu_stats: { cpu_usage: { total_usage: 0 } },
    precpu_stats: { cpu_usage: { total_usage: 0 } },
    memory_stats: { usage: memory },
  };
  open.get(id)?.data(new TextEncoder().encode(`${JSON.stringify(message)}\n`));
}

beforeEach(() => {
  vi.useFakeTimers();
  open.clear();
  asked = 0;
  setBackend({
    engineStream: async (request: EngineRequest, listener: StreamListener) => {
      asked++;
      const id = request.path.split("/")[2] ?? "";
      open.set(id, listener);
      return { status: 200, headers: {}, write: async () => undefined, finish: async () => undefined, close: () => open.delete(id) };
    },
  } as unknown as Backend);
});

afterEach(() => vi.useRealTimers());

/** Looks at containers as a page does; tells how often it was drawn. */
function watch(...all: Stats[]): { seen: () => (number | undefined)[]; drawn: () => number; stop: () => void } {
  let seen: (number | undefined)[] = [];
  let drawn = 0;
  const stop = $effect.root(() => {
    $effect(() => {
      seen = all.map((one) => one.latest?.memory);
      drawn++;
    });
  });
  flushSync();
  return { seen: () => seen, drawn: () => drawn, stop };
}

const settle = async (ms: number) => {
  await vi.advanceTimersByTimeAsync(ms);
  flushSync();
};

test("the first measurement is shown at once, those of many containers then together", async () => {
  const page = watch(new Stats("a"), new Stats("b"));
  await settle(200);
  measure("a", 1);
  await settle(0);
  expect(page.seen()).toEqual([1, undefined]);
  measure("b", 2);
  await settle(0);
  const before = page.drawn();
  for (let at = 0; at < 9; at++) {
    measure(at % 2 === 0 ? "a" : "b", 10 + at);
    await settle(100);
  }
  expect(page.drawn()).toBe(before);
  await settle(200);
  expect(page.seen()).toEqual([18, 17]);
  expect(page.drawn()).toBe(before + 1);
  page.stop();
});

test("nothing is measured of what only flies by, nor of what nobody looks at any more", async () => {
  const short = watch(new Stats("a"));
  await settle(50);
  short.stop();
  await settle(1000);
  expect(asked).toBe(0);

  const long = watch(new Stats("a"));
  await settle(200);
  expect([...open.keys()]).toEqual(["a"]);
  long.stop();
  await settle(0);
  expect([...open.keys()]).toEqual([]);
});

test("two that look at one container share a stream", async () => {
  const page = watch(stats("same"), stats("same"));
  await settle(200);
  expect(asked).toBe(1);
  page.stop();
});

test("a container that ended has no figures", async () => {
  const page = watch(new Stats("a"));
  await settle(200);
  measure("a", 5);
  await settle(0);
  open.get("a")?.end();
  await settle(0);
  expect(page.seen()).toEqual([undefined]);
  page.stop();
});
