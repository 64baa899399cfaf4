use std::time::{Duration, Instant};

use anyhow::Result;
use tests::engine::{Engine, Kind};
use tests::{records, wait};

use crate::table::{Figure, Limit, Value};

const GIB: u64 = 1 << 30;
/// The image's own data.
const SIZE: u64 = 5 * GIB;
/// How long it may take until the data is there, on an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How often the machine process is killed.
const KILLS: usize = 50;

pub(crate) fn freed() -> Result<Vec<Figure>> {
    let engine = Engine::start(Kind::Machine)?;
    let machine = engine.machine()?;
    // Room for the container, its archive and the image at once.
    machine.ok(["config", "set", "disk", "40G"])?;
    machine.ok(["restart"])?;
    engine.load_busybox()?;
    let docker = |args: &[&str]| engine.docker(args).timeout(PATIENCE).output()?.text();
    let script = format!("dd if=/dev/zero of=/data bs=1M count={} && sync", SIZE >> 20);
    docker(&["run", "--network", "none", "--name", "big", "busybox", "sh", "-c", &script])?;
    docker(&["commit", "big", "big"])?;
    docker(&["rm", "big"])?;
    machine.ok(["shell", "--", "sync"])?;
    wait::eventually_true("the container's blocks are back", PATIENCE, || {
        // The image itself is there twice, as it came and unpacked.
        Ok(machine.disk_used()? < 2 * SIZE + SIZE / 2)
    })?;
    let begun = Instant::now();
    docker(&["rmi", "big"])?;
    let answered = begun.elapsed();
    // What the file system keeps of its own is small beside it.
    wait::eventually_true("the image's blocks are back", PATIENCE, || Ok(machine.disk_used()? < SIZE / 10))?;
    let all = begun.elapsed();
    let figure = |name: &str, time, limit| Figure {
        name: name.to_owned(),
        ours: Value::time(time),
        peer: None,
        limit,
        samples: 1,
    };
    Ok(vec![
        figure("5 GiB of image data: removed", answered, None),
        figure("5 GiB of image data: back on the host", all, Some(Limit::Value(5000.0))),
    ])
}

pub(crate) fn kills() -> Result<Vec<Figure>> {
    let engine = Engine::start(Kind::Machine)?;
    let tally = records::kill_in_writes(&engine, KILLS)?;
    let figure = |name: &str, number: usize, limit| -> Result<Figure> {
        let ours = Value { number: f64::from(u32::try_from(number)?), unit: "records" };
        Ok(Figure { name: name.to_owned(), ours, peer: None, limit, samples: KILLS })
    };
    Ok(vec![
        figure("records synced to a volume before a kill", tally.acknowledged, None)?,
        figure("of these, lost", tally.lost, Some(Limit::Value(0.0)))?,
    ])
}
