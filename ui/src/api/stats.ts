/** What Docker measures of a container, and what people read from it. */

interface CpuStats {
  cpu_usage: { total_usage: number };
  system_cpu_usage?: number;
  online_cpus?: number;
}

/** A line of `GET /containers/{id}/stats`. */
export interface StatsMessage {
  read: string;
  cpu_stats: CpuStats;
  precpu_stats: CpuStats;
  memory_stats: { usage?: number; limit?: number; stats?: Record<string, number> };
  networks?: Record<string, { rx_bytes: number; tx_bytes: number }>;
  blkio_stats?: { io_service_bytes_recursive: { op: string; value: number }[] | null };
  pids_stats?: { current?: number };
}

export interface Sample {
  /** Milliseconds since the epoch. */
  at: number;
  /** Of one core: 1.5 is one core and a half. */
  cpu: number;
  memory: number;
  memoryLimit: number;
  received: number;
  sent: number;
  read: number;
  written: number;
  processes: number;
}

/** Docker's own sums: processor share against the message's own predecessor, memory without what the kernel can drop. */
export function sample(message: StatsMessage): Sample {
  const cpu = message.cpu_stats;
  const before = message.precpu_stats;
  const used = cpu.cpu_usage.total_usage - before.cpu_usage.total_usage;
  const passed = (cpu.system_cpu_usage ?? 0) - (before.system_cpu_usage ?? 0);
  // The first message of a stream has no predecessor.
  const known = before.system_cpu_usage !== undefined && before.system_cpu_usage > 0 && passed > 0 && used >= 0;

  const memory = message.memory_stats;
  // cgroup v2, then v1; as `docker stats` does.
  const droppable = memory.stats?.["inactive_file"] ?? memory.stats?.["total_inactive_file"] ?? 0;
  const usage = memory.usage ?? 0;

  let received = 0;
  let sent = 0;
  for (const network of Object.values(message.networks ?? {})) {
    received += network.rx_bytes;
    sent += network.tx_bytes;
  }
  let read = 0;
  let written = 0;
  for (const entry of message.blkio_stats?.io_service_bytes_recursive ?? []) {
    const op = entry.op.toLowerCase();
    if (op === "read") read += entry.value;
    else if (op === "write") written += entry.value;
  }
  return {
    at: Date.parse(message.read),
    cpu: known ? (used / passed) * (cpu.online_cpus ?? 1) : 0,
    memory: droppable < usage ? usage - droppable : usage,
    memoryLimit: memory.limit ?? 0,
    received,
    sent,
    read,
    written,
    processes: message.pids_stats?.current ?? 0,
  };
}

/** Bytes a second between two samples of a counter; a counter that fell has started anew. */
export function rate(now: Sample, before: Sample | undefined, counter: "received" | "sent" | "read" | "written"): number {
  if (!before || now.at <= before.at) return 0;
  const grown = now[counter] - before[counter];
  return (Math.max(0, grown) / (now.at - before.at)) * 1000;
}
