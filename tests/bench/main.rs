//! Measurements of a finished product, beside its peers in the same run: `cargo xtask bench [ROW…] [--json]`.

/// The desktop app.
mod app;
/// Many containers, their logs, and processes in them.
mod containers;
/// Create, start, wait, remove, over the API.
mod cycle;
/// A machine's data disk on the host's.
mod disk;
/// A machine's emulator without the machine.
mod emulator;
/// Edits on the host that a container hears of.
mod file_events;
/// git and npm, to work on files.
mod file_programs;
/// Folders of the host in a guest.
mod files;
/// A machine that has nothing to do.
mod idle;
/// The guest's network, beside others'.
mod network;
/// Published ports.
mod ports;
/// What processes take.
mod processes;
/// From `coracle start` until Docker answers.
mod start;
/// Figures and how they are printed.
mod table;
/// Connections to measure.
mod traffic;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use tests::case::Skip;
use tests::engine::{self, Engine, Kind};
use tests::{leftovers, roles};

use table::Figure;

/// A row's name, what it measures, and how.
type Row = (&'static str, &'static str, fn() -> Result<Vec<Figure>>);

const ROWS: &[Row] = &[
    ("cycle", "container cycle over the API, network none: ours natively, and dockerd", cycle::over_the_api),
    ("run", "`docker run --rm busybox true`, network none, and `docker version`", cycle::through_the_client),
    ("exec", "an exec of `true` over the API", containers::exec),
    ("twenty", "20 containers created and started at once", containers::twenty),
    ("logs", "200 MB of logs, written and read back", containers::logs),
    ("list", "the list of 200 containers over the API", containers::list),
    ("memory", "the engine and its helpers with 50 running containers", containers::memory),
    ("network", "throughput of usernet on a TAP interface, pasta and slirp4netns", network::throughput),
    ("idle-connections", "usernet with 10,000 idle connections", network::idle_connections),
    ("ports", "published ports: ours natively, dockerd's proxy and its rules", ports::published),
    ("machine-ports", "published ports of a machine, and QEMU's hostfwd", ports::of_a_machine),
    (
        "bridge",
        "a container's start in a network beyond one without; a network's making",
        containers::networks,
    ),
    ("files", "a folder of the host in a guest: ours, virtiofsd and 9p; and a volume", files::of_the_host),
    ("file-events", "an edit on the host, until a container has answered to its event", file_events::heard),
    (
        "start",
        "`coracle start` until `docker version` answers, and the bare boot of the same kernel",
        start::run,
    ),
    ("disk", "an image of 5 GiB removed from a machine, until the host has its blocks back", disk::freed),
    ("kills", "records lost of those synced to a volume, the machine process killed 50 times", disk::kills),
    ("idle", "all host processes of a machine without containers, for 30 s", idle::host),
    ("app", "the desktop app: from its launch until it shows what the engine has, and at rest", app::run),
    ("engine-memory", "the engine's memory in a machine and natively, and dockerd's", idle::engine_memory),
];

fn main() -> ExitCode {
    roles::dispatch();
    if let Some(code) = traffic::dispatch().or_else(files::dispatch).or_else(file_events::dispatch) {
        return code;
    }
    leftovers::sweep_dead_runs();
    let (mut names, mut json) = (Vec::new(), false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => json = true,
            // Cargo says so to every benchmark.
            "--bench" => {}
            name => names.push(name.to_owned()),
        }
    }
    match measure(&names, json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(names: &[String], json: bool) -> Result<()> {
    if let Some(unknown) = names.iter().find(|name| !ROWS.iter().any(|(row, ..)| row == name)) {
        let known: Vec<&str> = ROWS.iter().map(|(name, ..)| *name).collect();
        bail!("there is no row {unknown:?}; the rows are {}", known.join(", "));
    }
    let (mut figures, mut failed) = (Vec::new(), Vec::new());
    for (name, what, run) in ROWS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        complain(&format!("measuring {name}: {what} …"));
        match run() {
            Ok(row) => figures.extend(row),
            Err(error) => {
                let word = if error.downcast_ref::<Skip>().is_some() { "SKIP" } else { "failed" };
                complain(&format!("{word}: {name}: {error:#}"));
                failed.push(*name);
            }
        }
    }
    engine::end_shared();
    let text = if json { table::json(&figures) } else { table::text(&figures) };
    // Nowhere to say that standard output does not work.
    let _ = writeln!(std::io::stdout(), "{text}");
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

/// Ours natively and Docker's, each in namespaces of its own, with the same image.
fn engines() -> Result<[Engine; 2]> {
    let start = |kind| -> Result<Engine> {
        let engine = Engine::start(kind)?;
        engine.load_busybox()?;
        Ok(engine)
    };
    Ok([start(Kind::Native)?, start(Kind::Dockerd)?])
}

/// Progress goes where it does not mix with the table.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
