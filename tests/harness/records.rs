//! Records that a container writes to a volume, one fsync each, while its machine process is killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::engine::Engine;
use crate::process::Program;

/// How long a machine may take until it writes the first records.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many records are acknowledged before the first kill; each round waits for some more than the last, so that
/// the kills come at other moments of the file system's own work.
const FEW: usize = 5;

/// What came of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Records whose fsync had returned before the kill.
    pub acknowledged: usize,
    /// Those of them that were not there afterwards.
    pub lost: usize,
}

/// Kills the machine process in the middle of writes, `rounds` times, and counts the records after each start. In the end
/// the machine is off, and its disk's file system was found clean.
///
/// # Errors
/// A machine that does not start again, records that nobody wrote, a file system that is not clean.
pub fn kill_in_writes(engine: &Engine, rounds: usize) -> Result<Tally> {
    let machine = engine.machine()?;
    let docker = |args: &[&str]| engine.docker(args).output()?.text();
    engine.load_busybox()?;
    docker(&["volume", "create", "records"])?;
    let mut tally = Tally::default();
    let mut written = 0;
    for round in 0..rounds {
        // A record is acknowledged when its fsync has returned.
        let script = format!(
            "i={written}; while i=$((i+1)); do echo $i | dd of=/data/log oflag=append conv=notrunc,fsync 2>/dev/null \
             && echo $i; done"
        );
        let run = ["run", "--network", "none", "-v", "records:/data", "busybox", "sh", "-c", &script];
        let running = engine.docker(run).timeout(PATIENCE).spawn()?;
        let enough = FEW + 7 * round % 40;
        running.wait_until("records are written", |stdout, _| {
            stdout.iter().filter(|byte| **byte == b'\n').count() >= enough
        })?;
        machine.kill_9()?;
        machine.expect_no_process()?;
        let said = running.wait()?.stdout();
        // The last line may be cut short.
        let said = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let last: usize = said.lines().last().context("nothing was written")?.parse()?;
        tally.acknowledged += last - written;

        machine.ok(["start"])?;
        let log = docker(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "records:/data",
            "busybox",
            "cat",
            "/data/log",
        ])?;
        let found: Vec<usize> =
            log.lines().map(str::parse).collect::<Result<_, _>>().context("an odd record")?;
        ensure!(
            found.iter().copied().eq(1..=found.len()),
            "round {round}: the records are not those written: {log}"
        );
        tally.lost += last.saturating_sub(found.len());
        written = found.len();
    }
    machine.ok(["stop"])?;
    let check = Program::new("/sbin/e2fsck").args(["-f", "-n"]).arg(machine.file("disk.raw")).output()?;
    ensure!(check.code() == 0, "the disk's file system is not clean: {check}");
    Ok(tally)
}
