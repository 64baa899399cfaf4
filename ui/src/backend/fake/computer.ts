/** What `coracle doctor` and `coracle docker-context` find on this computer. */
import type { DockerContext, DoctorCheck } from "../backend";

export class FakeComputer {
  checks: DoctorCheck[] = [
    { name: "accelerator", verdict: "ok", found: "kvm (this processor has hardware virtualisation and a guest ran at its speed)" },
    { name: "hardware virtualisation", verdict: "ok", found: "this processor has hardware virtualisation and a guest ran at its speed" },
    { name: "QEMU", verdict: "ok", found: "QEMU emulator version 7.2.19 (/usr/bin/qemu-system-x86_64)" },
    { name: "guest image", verdict: "ok", found: "/usr/share/coracle/guest: kernel 6.12.41, root 0.1.0, unchanged" },
    { name: "CORACLE_HOME", verdict: "ok", found: "/home/ada/.coracle will be created by the first start" },
    { name: "socket paths", verdict: "ok", found: "/home/ada/.coracle/default/docker.sock" },
    { name: "CPUs and memory", verdict: "ok", found: "4 of 8 CPUs, up to 4 GiB of 32 GiB memory" },
    { name: "disk space", verdict: "ok", found: "204 GiB free in /home/ada" },
    { name: "docker CLI", verdict: "warn", found: "there is no docker in PATH", advice: "install it to use the machine: `sudo apt-get install docker-cli` or docker.com's packages" },
    { name: "docker context", verdict: "ok", found: "'default' of default; `coracle start` adds 'coracle'" },
  ];
  context: DockerContext = { name: "coracle", current: "default", selected: false };
  /** DOCKER_HOST is set: what is selected does not hold. */
  heldByVariable = false;
  tray = true;

  constructor(query: URLSearchParams) {
    this.tray = query.get("tray") !== "0";
    const doctor = query.get("doctor");
    if (doctor === "good") this.checks = this.checks.map((check) => (check.verdict === "ok" ? check : { name: check.name, verdict: "ok", found: "Docker version 28.5.1 (/usr/bin/docker)" }));
    if (doctor === "bad") {
      this.checks[1] = { name: "hardware virtualisation", verdict: "warn", found: "/dev/kvm cannot be opened: Permission denied (os error 13)", advice: "`sudo usermod -aG kvm $USER`, and log in again" };
      this.checks[2] = { name: "QEMU", verdict: "fail", found: "there is no qemu-system-x86_64 in PATH", advice: "install it: `sudo apt-get install qemu-system-x86` on Debian and Ubuntu" };
    }
    if (query.get("docker") === "held") {
      this.heldByVariable = true;
      this.context.current = "tcp://10.0.0.5:2375";
    }
  }

  select(): DockerContext {
    if (!this.heldByVariable) this.context = { name: "coracle", current: "coracle", selected: true };
    return { ...this.context };
  }
}
