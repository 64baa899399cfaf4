import { beforeEach, expect, it } from "vitest";
import { BackendError, SettingError, type Backend, type HostFigures, type MachineSettings, type SettingKey } from "../backend/backend";
import { setBackend } from "../backend/current";
import { GIB } from "../settings/size";
import { SettingsStore } from "./settings.svelte";

const HOST: HostFigures = {
  cpus: 8,
  cpu_busy: 0,
  machine_cpu_busy: 0,
  memory_total_bytes: 16 * GIB,
  memory_available_bytes: 8 * GIB,
  machine_memory_bytes: 0,
  disk_total_bytes: 500 * GIB,
  disk_free_bytes: 200 * GIB,
};

let report: MachineSettings;
let sent: unknown[];
let refuse: Error | null;
let host: HostFigures | null;
let store: SettingsStore;

beforeEach(async () => {
  const values = { cpus: "4", memory: "4G", disk: "60G", accel: "auto", shares: "/home/me,/tmp", "http-proxy": "none", "https-proxy": "none", "no-proxy": "none", "container-proxy": "false" };
  report = {
    values: Object.fromEntries(Object.entries(values).map(([key, effective]) => [key, { chosen: null, effective }])) as MachineSettings["values"],
    restart_needed: false,
    file: "/home/me/.coracle/default/config.toml",
    error: null,
  };
  sent = [];
  refuse = null;
  host = HOST;
  setBackend({
    settings: async () => structuredClone(report),
    host: async () => {
      if (!host) throw new BackendError("host", "no /proc");
      return host;
    },
    async changeSettings(changes: Partial<Record<SettingKey, string | null>>) {
      sent.push(changes);
      if (refuse) throw refuse;
      for (const [key, value] of Object.entries(changes) as [SettingKey, string | null][]) report.values[key] = { chosen: value, effective: value ?? values[key] };
      return structuredClone(report);
    },
  } as Partial<Backend> as Backend);
  store = new SettingsStore();
  await store.load();
});

it("a change is a draft until it is applied, as coracle writes it", async () => {
  store.set("memory", "6.5");
  expect(store.value("memory")).toBe("6.5");
  expect(store.changed).toEqual(["memory"]);
  expect(await store.apply()).toBe(true);
  expect(sent).toEqual([{ memory: "6656M" }]);
  expect(store.changed).toEqual([]);
  expect(store.value("memory")).toBe("6656M");
  expect(store.isDefault("memory")).toBe(false);
});

it("what is wrong is named and not applied", async () => {
  store.set("cpus", "many");
  store.set("disk", "80");
  expect(store.wrong).toEqual(["cpus"]);
  expect(await store.apply()).toBe(false);
  expect(sent).toEqual([]);
  store.discard();
  expect(store.changed).toEqual([]);
  expect(store.value("cpus")).toBe("4");
});

it("a slider that is back where it was has changed nothing", () => {
  store.set("cpus", "5");
  store.set("cpus", "4");
  expect(store.changed).toEqual([]);
  // That no proxy is wanted is a choice, even where there is none now.
  store.set("http-proxy", "none");
  expect(store.changed).toEqual(["http-proxy"]);
});

it("the default is chosen for one key and holds after it is applied", async () => {
  store.set("memory", "6");
  await store.apply();
  store.useDefault("memory");
  expect(store.isDefault("memory")).toBe(true);
  expect(store.value("memory")).toBe("4G");
  expect(store.changed).toEqual(["memory"]);
  await store.apply();
  expect(sent.at(-1)).toEqual({ memory: null });
  // Of the environment's, only the machine's side knows.
  store.set("http-proxy", "http://p:1");
  await store.apply();
  store.useDefault("http-proxy");
  expect(store.value("http-proxy")).toBeNull();
});

it("a refusal stands at its key, keeps the drafts, and goes when it is changed", async () => {
  refuse = new SettingError("shares", "shares: cannot share /gone: No such file or directory");
  store.set("shares", "/gone");
  store.set("cpus", "2");
  expect(await store.apply()).toBe(false);
  expect(store.checked("shares")).toEqual({ ok: false, problem: refuse.message });
  expect(store.changed).toEqual(["cpus", "shares"]);
  store.set("shares", "/home/me");
  expect(store.checked("shares").ok).toBe(true);
});

it("remembers what the running machine does not have yet", async () => {
  report.restart_needed = true;
  store.set("cpus", "2");
  store.postponed = true;
  await store.apply();
  store.set("disk", "80");
  await store.apply();
  expect(store.waiting).toEqual(["cpus", "disk"]);
  expect(store.postponed).toBe(false);
  report.restart_needed = false;
  await store.load();
  expect(store.waiting).toEqual([]);
});

it("works without the host's figures, and without settings says why", async () => {
  host = null;
  await store.load();
  expect(store.host.state).toBe("failed");
  store.set("cpus", "32");
  expect(store.checked("cpus")).toEqual({ ok: true, value: "32", warning: null });
  setBackend({ settings: async () => Promise.reject(new BackendError("machine", "no coracle")), host: async () => HOST } as Partial<Backend> as Backend);
  await store.load();
  expect(store.current).toMatchObject({ state: "failed" });
  expect(store.value("cpus")).toBe("32");
});
