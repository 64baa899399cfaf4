//! How busy the guest is: its processors, memory and data disk.

use std::fs;

use anyhow::{Context, Result};
use wire::guest::Figures;

use super::disk;

/// The figures of this moment; `None`, with a word in the log, where the kernel does not give them.
pub(crate) fn now() -> Option<Figures> {
    read().inspect_err(|error| tracing::debug!("no figures: {error:#}")).ok()
}

fn read() -> Result<Figures> {
    let cpu_busy_ms = busy_ms(&fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?)?;
    let memory = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let disk = rustix::fs::statvfs(disk::MOUNTED_AT)
        .with_context(|| format!("cannot look at {}", disk::MOUNTED_AT))?;
    Ok(Figures {
        cpu_busy_ms,
        memory_total_bytes: memory_bytes(&memory, "MemTotal")?,
        memory_available_bytes: memory_bytes(&memory, "MemAvailable")?,
        disk_total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
        // As `df` has it: what is kept back for root is not free.
        disk_free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
    })
}

/// The busy time in the first line of `/proc/stat`, see proc_stat(5): all but idle (4th) and waiting for
/// disks (5th). The two at the end, of guests, are part of the first two. A tick is 10 ms on every
/// architecture (`USER_HZ`).
fn busy_ms(stat: &str) -> Result<u64> {
    const MS_PER_TICK: u64 = 10;
    let line = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .context("/proc/stat has no line of all CPUs")?;
    let mut ticks = 0_u64;
    for (index, field) in line.split_whitespace().take(8).enumerate() {
        let field: u64 = field.parse().with_context(|| format!("/proc/stat says {field:?}"))?;
        if !matches!(index, 3 | 4) {
            ticks = ticks.saturating_add(field);
        }
    }
    Ok(ticks.saturating_mul(MS_PER_TICK))
}

/// A line of `/proc/meminfo`, which counts in KiB.
fn memory_bytes(meminfo: &str, name: &str) -> Result<u64> {
    let value = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("/proc/meminfo has no {name}"))?;
    let kib: u64 = value
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| format!("/proc/meminfo says {name}: {value}"))?;
    Ok(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy_and_guests_are_not_counted_twice() {
        let stat = "cpu  10 20 30 1000 500 1 2 3 7 7\ncpu0 10 20 30 1000 500 1 2 3 7 7\nintr 1\n";
        assert_eq!(busy_ms(stat).unwrap(), 660);
        for nonsense in ["", "cpu0 1 2 3", "cpu  1 x"] {
            assert!(busy_ms(nonsense).is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:        2048 kB\nMemAvailable:    1024 kB\nMemAvailableX:  1 kB\n";
        assert_eq!(memory_bytes(text, "MemTotal").unwrap(), 2 << 20);
        assert_eq!(memory_bytes(text, "MemAvailable").unwrap(), 1 << 20);
        assert!(memory_bytes(text, "MemFree").is_err());
        assert!(memory_bytes("MemTotal: much\n", "MemTotal").is_err());
    }

    #[test]
    fn this_kernel_is_understood() {
        busy_ms(&fs::read_to_string("/proc/stat").unwrap()).unwrap();
        memory_bytes(&fs::read_to_string("/proc/meminfo").unwrap(), "MemAvailable").unwrap();
    }
}
