//! What a control group has used, as Docker tells it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use wire::docker::stats::{Blkio, BlkioEntry, Cpu, CpuUsage, Memory, Network, Pids, Stats, Throttling};

use super::cgroup::{CgroupVersion, Cgroups};

/// Of `/proc/stat` and `cpuacct.stat`: what the kernel calls `USER_HZ` is 100 on every machine that Linux
/// still runs on.
const TICK: u64 = 10_000_000;
const MICROSECOND: u64 = 1_000;
/// Counts of version 1's `memory.stat` that Docker tells, each also as `total_…`.
const V1_MEMORY: [&str; 15] = [
    "active_anon",
    "active_file",
    "cache",
    "dirty",
    "inactive_anon",
    "inactive_file",
    "mapped_file",
    "pgfault",
    "pgmajfault",
    "pgpgin",
    "pgpgout",
    "rss",
    "rss_huge",
    "unevictable",
    "writeback",
];
const V1_LIMITS: [&str; 2] = ["hierarchical_memory_limit", "hierarchical_memsw_limit"];
/// Counts of version 2's.
const V2_MEMORY: [&str; 31] = [
    "active_anon",
    "active_file",
    "anon",
    "anon_thp",
    "file",
    "file_dirty",
    "file_mapped",
    "file_writeback",
    "inactive_anon",
    "inactive_file",
    "kernel_stack",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pglazyfree",
    "pglazyfreed",
    "pgmajfault",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "shmem",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "sock",
    "thp_collapse_alloc",
    "thp_fault_alloc",
    "unevictable",
    "workingset_activate",
    "workingset_nodereclaim",
    "workingset_refault",
];
/// Interfaces that every network namespace may have from the start.
const KERNELS_OWN: [&str; 10] =
    ["lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip6gre0", "ip_vti0", "ip6_vti0"];

impl Cgroups {
    /// What the group `path` uses now. Only the time and the names are left out.
    pub(super) fn usage(&self, path: &Path) -> io::Result<Stats> {
        let group = Group { groups: self.groups(path).collect() };
        if group.groups.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut stats = match self.version() {
            CgroupVersion::V1 => v1(&group),
            CgroupVersion::V2 => v2(&group),
        };
        let machine = Machine::read()?;
        stats.cpu_stats.system_cpu_usage = machine.cpu_time;
        stats.cpu_stats.online_cpus = machine.cpus;
        let limit = &mut stats.memory_stats.limit;
        if *limit == 0 || *limit > machine.memory {
            *limit = machine.memory;
        }
        Ok(stats)
    }
}

/// A group's directories, one in each hierarchy.
struct Group {
    groups: Vec<PathBuf>,
}

impl Group {
    /// The text of a file; empty where a controller is missing.
    fn text(&self, file: &str) -> String {
        self.groups.iter().find_map(|group| fs::read_to_string(group.join(file)).ok()).unwrap_or_default()
    }

    /// A file with one number; 0 for none, and for "no limit".
    fn number(&self, file: &str) -> u64 {
        self.text(file).trim().parse().unwrap_or(0)
    }

    /// A file of names and numbers.
    fn table(&self, file: &str) -> BTreeMap<String, u64> {
        table(&self.text(file))
    }
}

fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

fn v1(group: &Group) -> Stats {
    let (used, throttled) = (group.table("cpuacct.stat"), group.table("cpu.stat"));
    let of = |table: &BTreeMap<String, u64>, name: &str| table.get(name).copied().unwrap_or(0);
    let ticks = |name: &str| of(&used, name).saturating_mul(TICK);
    let mut memory = group.table("memory.stat");
    memory.retain(|name, _| {
        let own = name.strip_prefix("total_").unwrap_or(name);
        V1_MEMORY.contains(&own) || V1_LIMITS.contains(&name.as_str())
    });
    Stats {
        pids_stats: Pids { current: group.number("pids.current"), limit: group.number("pids.max") },
        blkio_stats: Blkio {
            io_service_bytes_recursive: v1_blkio(&group.text("blkio.throttle.io_service_bytes_recursive")),
            io_serviced_recursive: v1_blkio(&group.text("blkio.throttle.io_serviced_recursive")),
            io_queue_recursive: v1_blkio(&group.text("blkio.io_queued_recursive")),
            io_service_time_recursive: v1_blkio(&group.text("blkio.io_service_time_recursive")),
            io_wait_time_recursive: v1_blkio(&group.text("blkio.io_wait_time_recursive")),
            io_merged_recursive: v1_blkio(&group.text("blkio.io_merged_recursive")),
            io_time_recursive: v1_blkio(&group.text("blkio.time_recursive")),
            sectors_recursive: v1_blkio(&group.text("blkio.sectors_recursive")),
        },
        cpu_stats: Cpu {
            cpu_usage: CpuUsage {
                total_usage: group.number("cpuacct.usage"),
                percpu_usage: group
                    .text("cpuacct.usage_percpu")
                    .split_whitespace()
                    .filter_map(|number| number.parse().ok())
                    .collect(),
                usage_in_kernelmode: ticks("system"),
                usage_in_usermode: ticks("user"),
            },
            throttling_data: Throttling {
                periods: of(&throttled, "nr_periods"),
                throttled_periods: of(&throttled, "nr_throttled"),
                throttled_time: of(&throttled, "throttled_time"),
            },
            ..Cpu::default()
        },
        memory_stats: Memory {
            usage: group.number("memory.usage_in_bytes"),
            max_usage: group.number("memory.max_usage_in_bytes"),
            stats: memory,
            failcnt: group.number("memory.failcnt"),
            limit: group.number("memory.limit_in_bytes"),
        },
        ..Stats::default()
    }
}

/// Lines of `MAJOR:MINOR [OPERATION] NUMBER`, and a total that nobody asked for.
fn v1_blkio(text: &str) -> Option<Vec<BlkioEntry>> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (device, op, value) = match words.as_slice() {
            [device, value] => (device, "", value),
            [device, op, value] => (device, *op, value),
            _ => return None,
        };
        let (major, minor) = device.split_once(':')?;
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_lowercase(),
            value: value.parse().ok()?,
        })
    };
    Some(text.lines().filter_map(entry).collect())
}

fn v2(group: &Group) -> Stats {
    let (cpu, events) = (group.table("cpu.stat"), group.table("memory.events"));
    let number = |name: &str| cpu.get(name).copied().unwrap_or(0);
    let time = |name: &str| number(name).saturating_mul(MICROSECOND);
    let mut memory = group.table("memory.stat");
    // Docker tells all of them, whatever the kernel counts.
    let memory = V2_MEMORY.map(|name| (name.to_owned(), memory.remove(name).unwrap_or(0))).into();
    let pids = group.text("pids.max");
    Stats {
        pids_stats: Pids {
            current: group.number("pids.current"),
            // Docker's number for no limit here; with version 1 it is none.
            limit: if pids.trim() == "max" { u64::MAX } else { pids.trim().parse().unwrap_or(0) },
        },
        blkio_stats: Blkio { io_service_bytes_recursive: v2_io(&group.text("io.stat")), ..Blkio::default() },
        cpu_stats: Cpu {
            cpu_usage: CpuUsage {
                total_usage: time("usage_usec"),
                percpu_usage: Vec::new(),
                usage_in_kernelmode: time("system_usec"),
                usage_in_usermode: time("user_usec"),
            },
            throttling_data: Throttling {
                periods: number("nr_periods"),
                throttled_periods: number("nr_throttled"),
                throttled_time: time("throttled_usec"),
            },
            ..Cpu::default()
        },
        memory_stats: Memory {
            usage: group.number("memory.current"),
            stats: memory,
            failcnt: events.get("oom").copied().unwrap_or(0),
            limit: group.number("memory.max"),
            ..Memory::default()
        },
        ..Stats::default()
    }
}

/// Lines of `MAJOR:MINOR rbytes=NUMBER wbytes=NUMBER …`; `None` for none.
fn v2_io(text: &str) -> Option<Vec<BlkioEntry>> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for word in words {
            let (op, value) = match word.split_once('=') {
                Some(("rbytes", value)) => ("read", value),
                Some(("wbytes", value)) => ("write", value),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                entries.push(BlkioEntry { major, minor, op: op.to_owned(), value });
            }
        }
    }
    (!entries.is_empty()).then_some(entries)
}

/// What a container's share is a share of.
struct Machine {
    /// Nanoseconds.
    cpu_time: u64,
    cpus: u32,
    /// Bytes.
    memory: u64,
}

impl Machine {
    fn read() -> io::Result<Self> {
        let (cpu_time, cpus) = cpu_times(&fs::read_to_string("/proc/stat")?);
        let info = rustix::system::sysinfo();
        Ok(Self { cpu_time, cpus, memory: u64::from(info.mem_unit).saturating_mul(info.totalram) })
    }
}

/// From `/proc/stat`: nanoseconds of all CPUs together since boot, and how many there are.
fn cpu_times(text: &str) -> (u64, u32) {
    let all = text.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    // User, nice, system, idle, waiting, interrupts (hard and soft); what guests get is in the first two.
    let ticks: u64 = all.split_whitespace().take(7).filter_map(|word| word.parse::<u64>().ok()).sum();
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
    };
    let cpus = text.lines().filter(is_cpu).count();
    (ticks.saturating_mul(TICK), u32::try_from(cpus).unwrap_or(u32::MAX))
}

/// The counters of the network namespace of `pid`, by interface. Empty when that is the machine's own.
pub(super) fn networks(pid: u32) -> io::Result<BTreeMap<String, Network>> {
    let space = |process: &str| fs::read_link(format!("/proc/{process}/ns/net"));
    if space(&pid.to_string())? == space("self")? {
        return Ok(BTreeMap::new());
    }
    Ok(interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev"))?))
}

/// From `/proc/net/dev` (proc_pid_net(5)).
fn interfaces(text: &str) -> BTreeMap<String, Network> {
    text.lines()
        .filter_map(|line| {
            let (name, counts) = line.split_once(':')?;
            let name = name.trim();
            let counts: Vec<u64> = counts.split_whitespace().map_while(|word| word.parse().ok()).collect();
            let [rx_bytes, rx_packets, rx_errors, rx_dropped, _, _, _, _, rest @ ..] = counts.as_slice()
            else {
                return None;
            };
            let [tx_bytes, tx_packets, tx_errors, tx_dropped, ..] = rest else { return None };
            let network = Network {
                rx_bytes: *rx_bytes,
                rx_packets: *rx_packets,
                rx_errors: *rx_errors,
                rx_dropped: *rx_dropped,
                tx_bytes: *tx_bytes,
                tx_packets: *tx_packets,
                tx_errors: *tx_errors,
                tx_dropped: *tx_dropped,
            };
            (!KERNELS_OWN.contains(&name)).then(|| (name.to_owned(), network))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let groups = vec![directory.path().to_owned()];
        (directory, Group { groups })
    }

    #[test]
    fn version_2_is_told_in_dockers_words() {
        let (_directory, group) = group(&[
            ("cpu.stat", "usage_usec 30\nuser_usec 20\nsystem_usec 10\nnr_throttled 2\nthrottled_usec 5\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 5\ninactive_file 7\nodd 1\n"),
            ("memory.events", "low 0\nmax 9\noom 3\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
            ("io.stat", "254:0 rbytes=10 wbytes=20 rios=1\n254:16 \n"),
        ]);
        let stats = v2(&group);
        assert_eq!(stats.cpu_stats.cpu_usage.total_usage, 30_000);
        assert_eq!(stats.cpu_stats.throttling_data.throttled_time, 5_000);
        assert_eq!((stats.memory_stats.usage, stats.memory_stats.failcnt), (4096, 3));
        assert_eq!(stats.memory_stats.limit, 0);
        let memory = &stats.memory_stats.stats;
        assert_eq!((memory["anon"], memory["inactive_file"], memory["file"], memory.len()), (5, 7, 0, 31));
        assert_eq!(stats.pids_stats, Pids { current: 2, limit: u64::MAX });
        let io = stats.blkio_stats.io_service_bytes_recursive.unwrap();
        assert_eq!((io[1].major, io[1].op.as_str(), io[1].value), (254, "write", 20));
        assert_eq!(v2_io(""), None);
    }

    #[test]
    fn version_1_is_too() {
        let (_directory, group) = group(&[
            ("cpuacct.usage", "33\n"),
            ("cpuacct.usage_percpu", "30 3 \n"),
            ("cpuacct.stat", "user 1\nsystem 2\n"),
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.stat", "cache 1\ntotal_cache 2\nhierarchical_memory_limit 3\nswap 4\n"),
            ("pids.max", "max\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\n8:0 Total 10\nTotal 10\n"),
        ]);
        let stats = v1(&group);
        assert_eq!(stats.cpu_stats.cpu_usage.percpu_usage, [30, 3]);
        assert_eq!(stats.cpu_stats.cpu_usage.usage_in_kernelmode, 2 * TICK);
        assert_eq!(stats.memory_stats.limit, 64 << 20);
        assert_eq!(stats.memory_stats.stats.len(), 3);
        assert_eq!(stats.pids_stats.limit, 0);
        assert_eq!(stats.blkio_stats.io_service_bytes_recursive.unwrap().len(), 2);
        assert_eq!(stats.blkio_stats.io_queue_recursive, Some(Vec::new()));
    }

    #[test]
    fn the_machines_counters_are_read() {
        let text = "cpu  1 2 3 4 5 6 7 100 100 100\ncpu0 1 2\ncpu1 0 0\nintr 5\n";
        assert_eq!(cpu_times(text), (28 * TICK, 2));
        let text = "Inter-|   Receive | Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\nodd: 1 2\n";
        let found = interfaces(text);
        assert_eq!(found.len(), 1);
        assert_eq!((found["eth0"].rx_dropped, found["eth0"].tx_bytes), (4, 50));
    }
}
