import { beforeEach, expect, it } from "vitest";
import { BackendError, type Backend, type Preferences, type Update } from "../backend/backend";
import { setBackend } from "../backend/current";
import { preferences } from "./preferences.svelte";
import { Updates } from "./updates.svelte";

const NEWER: Update = { version: "0.2.0", date: null, notes: "" };
let found: Update | null | Error;
let installed: (progress: (done: number, total: number | null) => void) => Promise<void>;
let told: string[];
let asked: number;
let updates: Updates;

beforeEach(() => {
  found = null;
  installed = async () => undefined;
  told = [];
  asked = 0;
  updates = new Updates();
  preferences.current = { notify: { update_ready: true, container_died: true, health_changed: false }, update_channel: "stable", skipped_version: null } as Preferences;
  setBackend({
    update: {
      async check() {
        asked++;
        if (found instanceof Error) throw found;
        return found;
      },
      install: (_version, progress) => installed(progress),
    },
    notify: async (title) => void told.push(title),
  } as Partial<Backend> as Backend);
});

it("a look finds nothing, a version, or cannot look", async () => {
  await updates.check();
  expect(updates.current.state).toBe("newest");
  found = NEWER;
  await updates.check();
  expect(updates.current).toEqual({ state: "newer", update: NEWER });
  found = new BackendError("host", "cannot look for updates at https://x.test: timed out");
  await updates.check();
  expect(updates.current.state).toBe("unreachable");
  found = new BackendError("no_updates", "this build of Coracle has no place to look for updates (x: No such file); update it as you installed it");
  await updates.check();
  expect(updates.current.state).toBe("unconfigured");
});

it("installs with progress, and what fails can be tried again", async () => {
  found = NEWER;
  await updates.install();
  expect(updates.current.state).toBe("unknown");
  await updates.check();
  installed = async (progress) => {
    progress(5, 10);
    expect(updates.current).toMatchObject({ state: "installing", done: 5, total: 10 });
    // Neither a look nor another channel disturbs it.
    await updates.check();
    await updates.channelChanged();
    await updates.lookQuietly();
    expect(updates.current.state).toBe("installing");
    throw new BackendError("host", "the signature does not fit");
  };
  await updates.install();
  expect(updates.current).toMatchObject({ state: "failed", update: NEWER, error: { message: "the signature does not fit" } });
  expect(asked).toBe(1);
  installed = async () => undefined;
  await updates.install();
  expect(updates.current).toEqual({ state: "installed", version: "0.2.0" });
});

it("what is found on a channel that was left is dropped", async () => {
  let answer: (update: Update | null) => void = () => undefined;
  setBackend({ update: { check: () => new Promise((resolve) => (answer = resolve)) } } as Partial<Backend> as Backend);
  const first = updates.check();
  const answerFirst = answer;
  const second = updates.channelChanged();
  answer(null);
  await second;
  answerFirst(NEWER);
  await first;
  expect(updates.current.state).toBe("newest");
});

it("tells of a version once, and not of one that was skipped, nor if nobody wants to know", async () => {
  found = NEWER;
  await updates.lookQuietly();
  await updates.lookQuietly();
  expect(told).toEqual(["Coracle 0.2.0 is ready"]);
  found = { ...NEWER, version: "0.3.0" };
  preferences.current = { ...(preferences.current as Preferences), skipped_version: "0.3.0" };
  await updates.lookQuietly();
  expect(told.length).toBe(1);
  const before = asked;
  preferences.current = { ...(preferences.current as Preferences), notify: { update_ready: false, container_died: true, health_changed: true } };
  await updates.lookQuietly();
  expect(asked).toBe(before);
});

it("a quiet look that fails disturbs nothing", async () => {
  found = new BackendError("host", "offline");
  await updates.lookQuietly();
  expect(updates.current.state).toBe("unknown");
});
