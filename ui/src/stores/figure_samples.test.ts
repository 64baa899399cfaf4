import { describe, expect, test } from "vitest";
import type { GuestFigures, HostFigures, MachineStatus } from "../backend/backend";
import { sample, sinceStart, type Sample } from "./figure_samples";

const GIB = 1024 ** 3;

const host: HostFigures = {
  cpus: 8,
  cpu_busy: 0.25,
  machine_cpu_busy: 0.05,
  memory_total_bytes: 32 * GIB,
  memory_available_bytes: 20 * GIB,
  machine_memory_bytes: 2 * GIB,
  disk_total_bytes: 500 * GIB,
  disk_free_bytes: 200 * GIB,
};

function status(uptime: number, busy: number, changes: Partial<MachineStatus> = {}): MachineStatus {
  const figures: GuestFigures = { cpu_busy_ms: busy, memory_total_bytes: 4 * GIB, memory_available_bytes: 3 * GIB, disk_total_bytes: 60 * GIB, disk_free_bytes: 50 * GIB };
  return {
    name: "default",
    state: "running",
    docker_socket: "",
    cpus: 4,
    memory_mib: 4096,
    disk_bytes: 64 * GIB,
    disk_used_bytes: GIB,
    accelerator: "kvm",
    accelerator_reason: "",
    pid: 100,
    emulator_pid: null,
    started_at_ms: 0,
    ready_after_ms: 800,
    guest: { stage: { stage: "ready" }, agent_version: "0.1.0", kernel: "6.12", uptime_ms: uptime, engine_restarts: 0, figures },
    last_exit: null,
    ...changes,
  };
}

/** Samples of one status after the other. */
const all = (...statuses: (MachineStatus | null)[]): Sample[] =>
  statuses.reduce<Sample[]>((samples, one, index) => [...samples, sample(index * 2000, host, one, samples.at(-1))], []);

const shares = (...statuses: (MachineStatus | null)[]) => all(...statuses).map(({ guest }) => guest?.cpu ?? null);

describe("how busy the machine's processors are", () => {
  test("is not known from one measurement", () => expect(shares(status(1000, 500))).toEqual([null]));

  test("is busy time over passed time and processors", () => {
    // 4 processors for 2 s: 8 s of time, 2 s of it busy.
    expect(shares(status(1000, 500), status(3000, 2500), status(5000, 2500), status(7000, 10_500))).toEqual([null, 0.25, 0, 1]);
  });

  test("is by the guest's clock: what was told twice is not an idle moment", () => {
    expect(shares(status(1000, 500), status(3000, 2500), status(3000, 2500), status(4000, 4500))).toEqual([null, 0.25, 0.25, 0.5]);
  });

  test("is never above all of them, however the ticks fall", () => expect(shares(status(1000, 0), status(3000, 8100)).at(-1)).toBe(1));

  test("starts anew with another start of the machine", () => {
    expect(shares(status(100_000, 90_000), status(800, 400, { pid: 101 }), status(1800, 1400, { pid: 101 }))).toEqual([null, null, 0.25]);
    // A guest that started again under the same process.
    expect(shares(status(100_000, 400), status(800, 500))).toEqual([null, null]);
  });

  test("is not known while it does not run, or does not say", () => {
    expect(shares(status(1000, 1), status(1000, 1, { state: "stopped", guest: null }), null)).toEqual([null, null, null]);
    const silent = status(3000, 1);
    if (silent.guest) silent.guest.figures = null;
    expect(all(silent)[0]?.guest).toBeNull();
  });
});

test("memory and disk are what is not available", () => {
  expect(all(status(1000, 0))[0]?.guest).toMatchObject({ memoryUsed: GIB, memoryTotal: 4 * GIB, diskUsed: 10 * GIB, diskTotal: 60 * GIB });
});

test("a line begins where the machine was started last", () => {
  const samples = all(status(1000, 0), status(2000, 0), status(0, 0, { state: "stopped", guest: null }), status(700, 0, { pid: 102 }), status(2700, 800, { pid: 102 }));
  expect(sinceStart(samples).map(({ uptimeMs }) => uptimeMs)).toEqual([700, 2700]);
  expect(sinceStart(samples.slice(0, 3))).toEqual([]);
  expect(sinceStart([])).toEqual([]);
});
