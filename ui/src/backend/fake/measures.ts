/** What changes by itself: how busy the host and the machine are, and what the machine logs. */
import type { GuestFigures, HostFigures, MachineLog, MachineStatus } from "../backend";

const GIB = 1024 ** 3;

/** Something between about 0 and 1 that looks like work. `t` in seconds. */
const work = (t: number) => 0.5 + 0.28 * Math.sin(t / 23) + 0.14 * Math.sin(t / 5.3) + 0.08 * Math.sin(t / 1.9);
/** Its integral from 0. */
const worked = (t: number) => 0.5 * t + 0.28 * 23 * (1 - Math.cos(t / 23)) + 0.14 * 5.3 * (1 - Math.cos(t / 5.3)) + 0.08 * 1.9 * (1 - Math.cos(t / 1.9));

export function hostFigures(status: MachineStatus): HostFigures {
  const t = Date.now() / 1000;
  const runs = status.state === "running";
  return {
    cpus: 8,
    cpu_busy: 0.1 + 0.3 * work(t / 1.7),
    machine_cpu_busy: runs ? 0.16 * work(t) : 0,
    memory_total_bytes: 32 * GIB,
    memory_available_bytes: 19 * GIB - 0.8 * GIB * work(t / 3),
    machine_memory_bytes: runs ? 1.6 * GIB + 0.2 * GIB * work(t / 4) : 0,
    disk_total_bytes: 512 * GIB,
    disk_free_bytes: 204 * GIB,
  };
}

function guestFigures(status: MachineStatus, fixed: GuestFigures, uptimeMs: number): GuestFigures {
  const seconds = uptimeMs / 1000;
  return {
    ...fixed,
    cpu_busy_ms: Math.round(status.cpus * 1000 * 0.34 * worked(seconds)),
    memory_available_bytes: fixed.memory_available_bytes - 0.35 * GIB * work(seconds / 4),
  };
}

/** The status as it is now. */
export function measured(status: MachineStatus): MachineStatus {
  const { guest } = status;
  if (!guest) return { ...status };
  const uptime_ms = Math.max(guest.uptime_ms, Date.now() - status.started_at_ms);
  return { ...status, guest: { ...guest, uptime_ms, figures: guest.figures && guestFigures(status, guest.figures, uptime_ms) } };
}

const STEPS = ["disk: 64 GiB, journal clean", "network: 10.0.2.0/24, gateway 10.0.2.2", "shares: /home/ada", "vsock: guest connected", "engine: 28.5.1 ready", "ports: 8080/tcp published", "guest: 11 containers"];
const DEVICES = ["virtio-blk", "virtio-net", "virtio-fs", "virtio-vsock", "virtio-rng", "virtio-balloon"];

function entry(log: MachineLog, index: number): string {
  if (log === "console") {
    const time = `[${(index * 0.017_113).toFixed(6).padStart(12)}]`;
    if (index === 13) return `${time} \x1b[33mwarning\x1b[0m: <b>clock</b> skewed by 2 ms, corrected`;
    return `${time} ${DEVICES[index % DEVICES.length]}: device ${index} ready`;
  }
  const at = new Date(Date.UTC(2026, 10, 21, 8, 0, 0) + index * 4321).toISOString();
  if (index % 29 === 28) return `${at} \x1b[33m WARN\x1b[0m forward: port 8443 was taken, tried again`;
  if (index % 83 === 82) return `${at} \x1b[31mERROR\x1b[0m forward: connection refused (os error 111)`;
  return `${at} \x1b[32m INFO\x1b[0m ${STEPS[index % STEPS.length]}`;
}

/** What was logged, and a line now and then while it runs. */
export function machineLog(log: MachineLog, runs: () => boolean, line: (text: string) => void): { close(): void } {
  let index = 0;
  for (const there = log === "console" ? 180 : 420; index < there; index++) line(entry(log, index));
  const timer = setInterval(() => {
    if (runs()) line(entry(log, index++));
  }, 1500);
  return { close: () => clearInterval(timer) };
}

export const diagnosticsFiles = () => [
  { name: "versions.txt", text: "coracle 0.1.0 (Linux x86_64)\nengine 28.5.1, API 1.51\nkernel 6.12.41\nDebian GNU/Linux 12\n" },
  { name: "status.json", text: `${JSON.stringify({ name: "default", state: "running", cpus: 4, memory_mib: 4096 }, null, 2)}\n` },
  { name: "config.toml", text: 'cpus = 4\nmemory = "4G"\nhttp_proxy = "http://[removed]@proxy.example:3128"\n' },
  { name: "doctor.txt", text: "ok    accelerator: kvm\nwarn  docker CLI: there is no docker in PATH\n" },
  { name: "machine.log", text: Array.from({ length: 420 }, (_, index) => entry("machine", index)).join("\n") },
  { name: "console.log", text: Array.from({ length: 180 }, (_, index) => entry("console", index)).join("\n") },
  { name: "engine.log", text: "" },
];
