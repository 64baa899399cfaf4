import { flushSync } from "svelte";
import { beforeEach, afterEach, describe, expect, test, vi } from "vitest";
import { BackendError, type Backend, type MachineState, type StreamListener } from "../backend/backend";
import { setBackend } from "../backend/current";
import { connection } from "./connection.svelte";
import type { Load } from "./load";
import { happenedTo, Resource } from "./resource";

/** An engine of which only the events matter. */
class Engine {
  state: MachineState = "running";
  refuses: BackendError | null = null;
  opened = 0;
  stream: StreamListener | null = null;
  changed: () => void = () => undefined;

  readonly backend = {
    machine: async () => ({ state: this.state }),
    onMachineChange: (listener: () => void) => {
      this.changed = listener;
      return () => undefined;
    },
    engineStream: async (_: unknown, listener: StreamListener) => {
      this.opened++;
      if (this.refuses) throw this.refuses;
      this.stream = listener;
      return { status: 200, headers: {}, write: async () => undefined, finish: async () => undefined, close: () => (this.stream = null) };
    },
  } as unknown as Backend;

  event(Type: string, Action = "start"): void {
    this.stream?.data(new TextEncoder().encode(`${JSON.stringify({ Type, Action, Actor: { ID: "1", Attributes: {} }, time: 0, timeNano: 0 })}\n`));
  }
}

let engine: Engine;
let end: () => void;

/** Looks at a resource as a page does. */
function watch<T>(resource: Resource<T>): { states: string[]; last: () => Load<T>; stop: () => void } {
  const states: string[] = [];
  let last: Load<T> = { state: "waiting" };
  const stop = $effect.root(() => {
    $effect(() => {
      last = resource.current;
      states.push(last.state);
    });
  });
  return { states, last: () => last, stop };
}

const settle = async (ms = 0) => {
  await vi.advanceTimersByTimeAsync(ms);
  flushSync();
};

beforeEach(() => {
  vi.useFakeTimers();
  engine = new Engine();
  setBackend(engine.backend);
});

afterEach(() => {
  end();
  vi.useRealTimers();
});

describe("a resource", () => {
  test("loads when the engine is reached, and again on the events that change it", async () => {
    const load = vi.fn(async () => load.mock.calls.length);
    const resource = new Resource({ load, refreshOn: (event) => event.Type === "container" });
    const seen = watch(resource);
    end = connection.keep();
    await settle();
    expect(seen.last()).toEqual({ state: "ready", value: 1 });
    engine.event("image");
    await settle(1000);
    expect(load).toHaveBeenCalledTimes(1);
    engine.event("container");
    await settle(1000);
    expect(seen.last()).toEqual({ state: "ready", value: 2 });
    expect(seen.states).not.toContain("failed");
    seen.stop();
  });

  test("answers a burst of events with few loads, and the last one counts", async () => {
    const load = vi.fn(async () => load.mock.calls.length);
    const resource = new Resource({ load, refreshOn: () => true });
    const seen = watch(resource);
    end = connection.keep();
    await settle(1000);
    for (let number = 0; number < 100; number++) {
      engine.event("container");
      await settle(10);
    }
    await settle(1000);
    expect(load.mock.calls.length).toBeLessThanOrEqual(6);
    expect(load.mock.calls.length).toBeGreaterThanOrEqual(3);
    seen.stop();
  });

  test("rests while nobody looks, and is asked anew when somebody does again", async () => {
    const load = vi.fn(async () => 1);
    const resource = new Resource({ load, refreshOn: () => true });
    end = connection.keep();
    await settle();
    engine.event("container");
    await settle(1000);
    expect(load).not.toHaveBeenCalled();
    const seen = watch(resource);
    await settle();
    expect(load).toHaveBeenCalledTimes(1);
    seen.stop();
    flushSync();
    await settle();
    engine.event("container");
    await settle(1000);
    expect(load).toHaveBeenCalledTimes(1);
    watch(resource).stop();
  });

  test("an answer that another has overtaken is dropped", async () => {
    const answers: ((value: string) => void)[] = [];
    const resource = new Resource({ load: () => new Promise<string>((resolve) => answers.push(resolve)), refreshOn: () => true });
    const seen = watch(resource);
    end = connection.keep();
    await settle();
    void resource.refresh();
    answers[1]?.("new");
    await settle();
    answers[0]?.("old");
    await settle();
    expect(seen.last()).toEqual({ state: "ready", value: "new" });
    seen.stop();
  });

  test("says why it could not be loaded, and recovers", async () => {
    let fails = true;
    const resource = new Resource({
      load: async () => {
        if (fails) throw new BackendError("engine", "boom");
        return "fine";
      },
      refreshOn: () => true,
    });
    const seen = watch(resource);
    end = connection.keep();
    await settle();
    expect(seen.last()).toMatchObject({ state: "failed", error: { message: "boom" } });
    fails = false;
    await resource.refresh();
    flushSync();
    expect(seen.last()).toEqual({ state: "ready", value: "fine" });
    seen.stop();
  });
});

describe("the connection", () => {
  test("an engine that restarts keeps what is shown, and it is asked anew", async () => {
    const load = vi.fn(async () => load.mock.calls.length);
    const resource = new Resource({ load, refreshOn: () => true });
    const seen = watch(resource);
    end = connection.keep();
    await settle();
    engine.stream?.end(new BackendError("engine_unreachable", "reset"));
    await settle();
    expect(connection.current).toEqual({ state: "connecting", error: null });
    expect(seen.last()).toEqual({ state: "ready", value: 1 });
    await settle(200);
    expect(connection.current).toEqual({ state: "open" });
    expect(seen.last()).toEqual({ state: "ready", value: 2 });
    expect(engine.opened).toBe(2);
    seen.stop();
  });

  test("is tried less and less often, and says why it fails", async () => {
    engine.refuses = new BackendError("engine_unreachable", "permission denied");
    const resource = new Resource({ load: async () => 1, refreshOn: () => true });
    const seen = watch(resource);
    end = connection.keep();
    await settle();
    expect(seen.last()).toMatchObject({ state: "failed", error: { message: "permission denied" } });
    await settle(60_000);
    const tries = engine.opened;
    expect(tries).toBeGreaterThan(5);
    expect(tries).toBeLessThan(14);
    engine.refuses = null;
    engine.changed();
    await settle();
    expect(seen.last()).toEqual({ state: "ready", value: 1 });
    seen.stop();
  });

  test("follows the machine: nothing is known of one that stopped", async () => {
    const resource = new Resource({ load: async () => 1, refreshOn: () => true });
    const seen = watch(resource);
    engine.state = "stopped";
    end = connection.keep();
    await settle(5000);
    expect(engine.opened).toBe(0);
    expect(seen.last()).toEqual({ state: "waiting" });
    engine.state = "running";
    engine.changed();
    await settle();
    expect(seen.last()).toEqual({ state: "ready", value: 1 });
    engine.state = "stopped";
    engine.changed();
    await settle();
    expect(seen.last()).toEqual({ state: "waiting" });
    expect(engine.stream).toBeNull();
    seen.stop();
  });
});

test("what happened concerns a thing by its name, its id and the beginning of that", () => {
  const event = (Attributes: Record<string, string>) => ({ Type: "container", Action: "die", Actor: { ID: "abcdef012345", Attributes }, time: 0, timeNano: 0 });
  for (const named of ["web", "abcdef012345", "abcdef"]) expect(happenedTo(event({ name: "web" }), named)).toBe(true);
  for (const named of ["we", "web2", "cdef", "012345"]) expect(happenedTo(event({ name: "web" }), named)).toBe(false);
  expect(happenedTo(event({ name: "web", oldName: "/shop" }), "shop")).toBe(true);
  expect(happenedTo(event({}), "web")).toBe(false);
});
