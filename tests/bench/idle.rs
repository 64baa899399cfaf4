use std::time::Duration;

use anyhow::{Context, Result};
use tests::engine::{Engine, Kind};
use tests::machine::Machine;
use tests::wait;

use crate::processes::{proportional_memory, ticks};
use crate::table::{Figure, Limit, Value};

/// How long a machine is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(15);
/// How long its processor time is counted.
const WATCH: Duration = Duration::from_secs(30);

pub(crate) fn host() -> Result<Vec<Figure>> {
    let machine = Machine::new()?;
    machine.start()?;
    wait::let_pass(SETTLE);
    let before = ticks(&machine.namespace().processes()?)?;
    wait::let_pass(WATCH);
    let after = ticks(&machine.namespace().processes()?)?;
    let processes = machine.namespace().processes()?;
    let (mut all, mut guest) = (0, 0);
    for process in &processes {
        let (own, ram) = proportional_memory(process)?;
        all += own;
        guest += ram;
    }
    machine.ok(["stop"])?;
    // Ticks are hundredths of a second for every user of /proc: see proc(5) and sysconf(3), _SC_CLK_TCK.
    let percent = u32::try_from(after - before).map(f64::from)? / WATCH.as_secs_f64();
    let figure =
        |name: &str, ours, limit| Figure { name: name.to_owned(), ours, peer: None, limit, samples: 1 };
    let percent = Value { number: percent, unit: "% of a core" };
    Ok(vec![
        figure("idle machine: processor time", percent, Some(Limit::Value(1.0))),
        figure(
            "idle machine: memory beyond the guest's",
            Value::memory(all - guest),
            Some(Limit::Value(150.0)),
        ),
        figure("idle machine: memory the guest has touched", Value::memory(guest), None),
    ])
}

pub(crate) fn engine_memory() -> Result<Vec<Figure>> {
    let machine = Machine::new()?;
    machine.start()?;
    wait::let_pass(SETTLE);
    let script = "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in \
                  *coracle-agent\\ engine*) grep VmRSS $p/status;; esac; done";
    let line = machine.ok(["shell", "--", "sh", "-c", script])?;
    let inside = resident(&line).context("no engine in the guest")?;
    machine.ok(["stop"])?;

    let native = Engine::start(Kind::Native)?;
    let dockerd = Engine::start(Kind::Dockerd)?;
    wait::let_pass(SETTLE);
    let all = |engine: &Engine| -> Result<u64> {
        let mut sum = 0;
        for process in engine.namespace().processes()? {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid.as_raw_nonzero()));
            // The harness's own process that holds the engine is not the engine.
            if !process.line.contains("--role=") {
                sum += status.ok().as_deref().and_then(resident).unwrap_or(0);
            }
        }
        Ok(sum)
    };
    let peer = Some(("dockerd and containerd", Value::memory(all(&dockerd)?)));
    let figure = |name: &str, bytes, limit| Figure {
        name: name.to_owned(),
        ours: Value::memory(bytes),
        peer,
        limit,
        samples: 1,
    };
    Ok(vec![
        figure("engine in a machine: resident memory", inside, Some(Limit::Value(20.0))),
        figure("engine natively: resident memory", all(&native)?, None),
    ])
}

/// The bytes that `VmRSS` of `/proc/PID/status` tells.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}
