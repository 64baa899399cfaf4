use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::http::Server;
use tests::machine::Machine;

use crate::emulator::Emulator;
use crate::table::{Figure, Limit, Value, median};

/// Starts, and bare boots, that are counted.
const STARTS: usize = 5;

pub(crate) fn run() -> Result<Vec<Figure>> {
    let machine = Machine::new()?;
    let first = start(&machine)?;
    let emulator = Emulator::of(&machine)?;
    machine.ok(["stop"])?;
    let (mut starts, mut boots) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        boots.push(bare_boot(&emulator)?);
        starts.push(start(&machine)?);
        machine.ok(["stop"])?;
    }
    let bare = Value::time(median(boots));
    let figure = |name: &str, time: Duration, limit: Option<Limit>, samples: usize| Figure {
        name: name.to_owned(),
        ours: Value::time(time),
        peer: Some(("bare boot", bare)),
        limit,
        samples,
    };
    Ok(vec![
        figure("coracle start until docker version", median(starts), Some(Limit::Ratio(2.5)), STARTS),
        figure("the first start, which formats the disk", first, None, 1),
    ])
}

/// Starts the machine; the time until a request for the version is answered.
fn start(machine: &Machine) -> Result<Duration> {
    let begun = Instant::now();
    machine.start()?;
    Server::Unix(machine.socket()).get("/version").send()?.expect(200)?;
    Ok(begun.elapsed())
}

/// Boots the kernel to its first program; the time until the emulator has ended.
fn bare_boot(emulator: &Emulator) -> Result<Duration> {
    // It ends at once; the kernel has no other and stops, which ends the emulator.
    let program = emulator.program("/bin/true", "none");
    let begun = Instant::now();
    let ended = program.output()?;
    let time = begun.elapsed();
    ensure!(ended.code() == 0, "the bare boot failed: {ended}");
    Ok(time)
}
