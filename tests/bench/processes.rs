use anyhow::{Context, Result};
use tests::namespace::Process;

/// The processor time that processes took, in hundredths of a second: see proc(5) and sysconf(3), `_SC_CLK_TCK`.
pub(crate) fn ticks(processes: &[Process]) -> Result<u64> {
    let mut sum = 0;
    for process in processes {
        let Some(fields) = stat(process)? else { continue };
        // utime and stime.
        sum += fields[11] + fields[12];
    }
    Ok(sum)
}

/// When a process began, in hundredths of a second since the machine's start.
pub(crate) fn began(process: &Process) -> Result<u64> {
    Ok(stat(process)?.with_context(|| format!("{} has ended", process.line))?[19])
}

/// The fields of `/proc/PID/stat` from the third on, those that are no numbers as 0; none of a process that has ended.
fn stat(process: &Process) -> Result<Option<Vec<u64>>> {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", process.pid.as_raw_nonzero())) else {
        return Ok(None);
    };
    // The name, in brackets, may hold blanks.
    let fields = stat.rsplit_once(") ").context("an odd /proc/PID/stat")?.1;
    let fields: Vec<u64> = fields.split(' ').map(|field| field.parse().unwrap_or(0)).collect();
    anyhow::ensure!(fields.len() > 20, "an odd /proc/PID/stat");
    Ok(Some(fields))
}

/// A process's share of the memory that it maps, in bytes, and how much of that is the guest's RAM.
pub(crate) fn proportional_memory(process: &Process) -> Result<(u64, u64)> {
    let path = format!("/proc/{}/smaps", process.pid.as_raw_nonzero());
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let (mut all, mut ram, mut in_ram) = (0, 0, false);
    for line in text.lines() {
        if let Some(size) = line.strip_prefix("Pss:") {
            let kib: u64 = size.trim().trim_end_matches(" kB").parse().context("an odd size")?;
            all += kib * 1024;
            if in_ram {
                ram += kib * 1024;
            }
        } else if line.split_once(' ').is_some_and(|(range, _)| range.contains('-')) {
            // The head of a mapping; the emulator names its memory file after the kind of memory.
            in_ram = line.contains("memfd:memory-backend-memfd");
        }
    }
    Ok((all, ram))
}
