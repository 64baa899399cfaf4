//! How busy the host and the machine's processes are, from /proc.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use serde::Serialize;

use crate::error::{Error, Result};

/// `HostFigures` in `ui/src/backend/backend.ts`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figures {
    cpus: usize,
    /// Shares of all processors since the last look, 0 to 1.
    cpu_busy: f64,
    machine_cpu_busy: f64,
    memory_total_bytes: u64,
    memory_available_bytes: u64,
    machine_memory_bytes: u64,
    disk_total_bytes: u64,
    disk_free_bytes: u64,
}

/// Remembers what it saw, for shares are of what happened between two looks.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    last: Option<Ticks>,
}

/// Clock ticks since the host started.
#[derive(Debug, Clone)]
struct Ticks {
    total: u64,
    busy: u64,
    /// Of each of the machine's processes.
    machine: HashMap<u32, u64>,
}

impl Sampler {
    /// `roots` are the machine's processes that are known; their children count, too. `disk` is where the
    /// machine's disk is, or will be.
    pub(crate) fn look(&mut self, roots: &[u32], disk: &Path) -> Result<Figures> {
        let failed = |what: &str, error: io::Error| Error::host(format!("cannot read {what}: {error}"));
        let stat = fs::read_to_string("/proc/stat").map_err(|error| failed("/proc/stat", error))?;
        let memory = fs::read_to_string("/proc/meminfo").map_err(|error| failed("/proc/meminfo", error))?;
        let processes = family(roots);
        let (total, busy) = host_ticks(&stat);
        let machine = processes.iter().filter_map(|pid| Some((*pid, process_ticks(*pid)?))).collect();
        let now = Ticks { total, busy, machine };
        let (cpu_busy, machine_cpu_busy) =
            self.last.as_ref().map_or((0.0, 0.0), |last| now.shares_since(last));
        self.last = Some(now);
        let existing = disk.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let space =
            rustix::fs::statvfs(existing).map_err(|error| failed("the disk's free space", error.into()))?;
        Ok(Figures {
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            cpu_busy,
            machine_cpu_busy,
            memory_total_bytes: meminfo(&memory, "MemTotal"),
            memory_available_bytes: meminfo(&memory, "MemAvailable"),
            machine_memory_bytes: processes.iter().filter_map(|pid| process_memory(*pid)).sum(),
            disk_total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            disk_free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        })
    }
}

impl Ticks {
    fn shares_since(&self, last: &Ticks) -> (f64, f64) {
        let total = self.total.saturating_sub(last.total);
        if total == 0 {
            return (0.0, 0.0);
        }
        // Of a process that is new, everything is: it began after the last look.
        let spent =
            |(pid, ticks): (&u32, &u64)| ticks.saturating_sub(last.machine.get(pid).copied().unwrap_or(0));
        let machine: u64 = self.machine.iter().map(spent).sum();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a share of ticks; a float has more digits than are shown"
        )]
        let share = |part: u64| (part as f64 / total as f64).min(1.0);
        (share(self.busy.saturating_sub(last.busy)), share(machine))
    }
}

/// Total and busy ticks of the first line of /proc/stat: idle is its fourth field, waiting for disks its
/// fifth, and the last two are part of the first two. See proc_stat(5).
fn host_ticks(stat: &str) -> (u64, u64) {
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let fields: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    let total = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (total, total - idle)
}

fn meminfo(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = value.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    kib * 1024
}

/// User and system time of a process: the 14th and 15th field of proc_pid_stat(5), counted after the name, which may
/// have anything in it.
fn process_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// What a process holds, with memory that it shares divided among those who share it: the guest's belongs to two.
fn process_memory(pid: u32) -> Option<u64> {
    Some(meminfo(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss"))
}

/// Processes and their children, of any degree.
fn family(roots: &[u32]) -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut open: Vec<u32> = roots.iter().copied().filter(|pid| *pid != 0).collect();
    while let Some(pid) = open.pop() {
        if found.insert(pid) {
            open.extend(children(pid));
        }
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_happened_in_between() {
        let ticks = |total, busy, machine: &[(u32, u64)]| Ticks {
            total,
            busy,
            machine: machine.iter().copied().collect(),
        };
        let last = ticks(1000, 500, &[(1, 100), (2, 50)]);
        let now = ticks(1200, 600, &[(1, 140), (3, 10)]);
        assert_eq!(now.shares_since(&last), (0.5, 0.25));
        assert_eq!(last.shares_since(&last), (0.0, 0.0));
    }

    #[test]
    fn this_host_has_figures() {
        let mut sampler = Sampler::default();
        let own = std::process::id();
        let folder = tempfile::tempdir().unwrap();
        let figures = sampler.look(&[own, 0], &folder.path().join("not/yet")).unwrap();
        assert!(figures.memory_total_bytes > figures.memory_available_bytes);
        assert!(figures.machine_memory_bytes > 1 << 20, "{figures:?}");
        assert!(figures.disk_total_bytes >= figures.disk_free_bytes);
        assert!(process_ticks(own).is_some());
        assert!(family(&[own]).contains(&own));
    }

    #[test]
    fn a_line_of_proc_stat() {
        assert_eq!(host_ticks("cpu  10 20 30 1000 500 1 2 3 7 7\ncpu0 1\n"), (1566, 66));
        assert_eq!(host_ticks(""), (0, 0));
    }
}
