/** How busy the host and the machine are, from what they count: pure. */
import type { HostFigures, MachineStatus } from "../backend/backend";

export interface GuestSample {
  /** Of all its processors, 0 to 1; null before there are two measurements. */
  cpu: number | null;
  memoryUsed: number;
  memoryTotal: number;
  diskUsed: number;
  diskTotal: number;
  /** What the next sample is compared with. */
  busyMs: number;
  uptimeMs: number;
  pid: number;
}

export interface Sample {
  /** Milliseconds since the epoch. */
  at: number;
  host: HostFigures;
  guest: GuestSample | null;
}

/** The share of its processors' time that was busy between two measurements. The guest's own clock is what both are told by. */
function busyShare(status: MachineStatus, busyMs: number, uptimeMs: number, before: GuestSample | null): number | null {
  // Another start of the machine counts from zero.
  if (!before || before.pid !== status.pid || busyMs < before.busyMs || uptimeMs < before.uptimeMs) return null;
  const passed = uptimeMs - before.uptimeMs;
  // The same measurement, told twice.
  if (passed === 0) return before.cpu;
  return Math.min(1, (busyMs - before.busyMs) / (passed * Math.max(1, status.cpus)));
}

export function sample(at: number, host: HostFigures, status: MachineStatus | null, before: Sample | undefined): Sample {
  const figures = status?.state === "running" ? status.guest?.figures : null;
  if (!status || !figures) return { at, host, guest: null };
  const uptimeMs = status.guest?.uptime_ms ?? 0;
  return {
    at,
    host,
    guest: {
      cpu: busyShare(status, figures.cpu_busy_ms, uptimeMs, before?.guest ?? null),
      memoryUsed: Math.max(0, figures.memory_total_bytes - figures.memory_available_bytes),
      memoryTotal: figures.memory_total_bytes,
      diskUsed: Math.max(0, figures.disk_total_bytes - figures.disk_free_bytes),
      diskTotal: figures.disk_total_bytes,
      busyMs: figures.cpu_busy_ms,
      uptimeMs,
      pid: status.pid,
    },
  };
}

/** Those since the machine was last started, so that a line has no gap. */
export function sinceStart(samples: readonly Sample[]): GuestSample[] {
  const pid = samples.at(-1)?.guest?.pid;
  const from = samples.findLastIndex(({ guest }) => guest === null || guest.pid !== pid) + 1;
  return samples.slice(from).flatMap(({ guest }) => guest ?? []);
}
