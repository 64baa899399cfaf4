//! What the kernel is told about a machine whose work is to run containers: its name, its limits, its
//! loopback interface.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::interface::Interface;

const HOSTNAME: &str = "coracle";

/// Open files a process may have; containers inherit it. The kernel's own ceiling (`fs.nr_open`).
const OPEN_FILES: u64 = 1 << 20;

/// Kernel settings: path below `/proc/sys`, value.
const SETTINGS: &[(&str, &str)] = &[
    // Containers reach each other and the world through this machine.
    ("net/ipv4/ip_forward", "1"),
    // One developer's file watchers are many: each container and each bundler has its own.
    ("fs/inotify/max_user_instances", "8192"),
    ("fs/inotify/max_user_watches", "1048576"),
    ("fs/inotify/max_queued_events", "65536"),
    ("fs/file-max", "9223372036854775807"),
    // Elasticsearch and its kin refuse to start below this.
    ("vm/max_map_count", "262144"),
    ("kernel/pid_max", "4194304"),
    // Each container takes a session keyring of root's.
    ("kernel/keys/root_maxkeys", "1000000"),
    // Debuggers attach to processes in their container as they do on Docker Desktop; containers are kept
    // apart by their namespaces.
    ("kernel/yama/ptrace_scope", "0"),
    // A kernel in an unknown state must not go on writing to the data disk: end the VM at once.
    ("kernel/panic_on_oops", "1"),
    ("kernel/panic", "-1"),
];

/// Applies everything. What fails is logged and left out: no setting is worth a VM that does not start.
/// A setting that this kernel does not have needs none.
pub(crate) fn apply() {
    if let Err(error) = rustix::system::sethostname(HOSTNAME.as_bytes()) {
        tracing::warn!("cannot set the host name: {error}");
    }
    // First, because what follows waits for the kernel's grace periods, as do cgroups, mounts and network
    // namespaces of every container: on a machine of few CPUs hurrying them costs nothing.
    if let Err(error) = fs::write("/sys/kernel/rcu_expedited", "1") {
        tracing::warn!("the kernel's grace periods stay slow: {error}");
    }
    for (path, value) in SETTINGS {
        if let Err(error) = fs::write(format!("/proc/sys/{path}"), value)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot set {path} to {value}: {error}");
        }
    }
    let unlimited = Rlimit { current: None, maximum: None };
    let files = Rlimit { current: Some(OPEN_FILES), maximum: Some(OPEN_FILES) };
    for (name, resource, limit) in [
        ("open files", Resource::Nofile, files),
        ("locked memory", Resource::Memlock, unlimited),
        ("processes", Resource::Nproc, unlimited),
    ] {
        if let Err(error) = setrlimit(resource, limit) {
            tracing::warn!("cannot raise the limit of {name}: {error}");
        }
    }
    // The kernel then gives it 127.0.0.1 and ::1.
    if let Err(error) = Interface::new("lo").and_then(|loopback| loopback.up()) {
        tracing::warn!("cannot set the loopback interface up: {error}");
    }
    tracing::debug!("limits are set");
}
