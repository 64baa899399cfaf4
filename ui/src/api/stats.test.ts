import { expect, test } from "vitest";
import { rate, sample, type StatsMessage } from "./stats";

const message: StatsMessage = {
  read: "2026-11-21T08:00:01Z",
  cpu_stats: { cpu_usage: { total_usage: 3_500_000_000 }, system_cpu_usage: 104_000_000_000, online_cpus: 4 },
  precpu_stats: { cpu_usage: { total_usage: 2_000_000_000 }, system_cpu_usage: 100_000_000_000, online_cpus: 4 },
  memory_stats: { usage: 100, limit: 1000, stats: { inactive_file: 30 } },
  networks: { eth0: { rx_bytes: 10, tx_bytes: 1 }, eth1: { rx_bytes: 5, tx_bytes: 2 } },
  blkio_stats: {
    io_service_bytes_recursive: [
      { op: "read", value: 7 },
      { op: "Read", value: 3 },
      { op: "write", value: 4 },
      { op: "total", value: 14 },
    ],
  },
  pids_stats: { current: 6 },
};

test("as `docker stats` computes it", () => {
  expect(sample(message)).toEqual({
    at: Date.parse("2026-11-21T08:00:01Z"),
    cpu: 1.5,
    memory: 70,
    memoryLimit: 1000,
    received: 15,
    sent: 3,
    read: 10,
    written: 4,
    processes: 6,
  });
});

test("the first message of a stream knows no processor share", () => {
  expect(sample({ ...message, precpu_stats: { cpu_usage: { total_usage: 0 } } }).cpu).toBe(0);
});

test("cgroup v1 names what can be dropped differently", () => {
  expect(sample({ ...message, memory_stats: { usage: 100, limit: 1000, stats: { total_inactive_file: 40 } } }).memory).toBe(60);
});

test("rates are per second, and a counter that fell started anew", () => {
  const before = sample(message);
  expect(rate({ ...before, at: before.at + 2000, received: 2015 }, before, "received")).toBe(1000);
  expect(rate({ ...before, at: before.at + 2000, received: 0 }, before, "received")).toBe(0);
  expect(rate(before, undefined, "received")).toBe(0);
});
