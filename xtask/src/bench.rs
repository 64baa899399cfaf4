//! `cargo xtask bench`: measures the product beside its peers. The measurements themselves are a benchmark of the
//! package `tests`, whose harness they use; here is what they need.

use anyhow::Result;

use crate::terminal::say;
use crate::{app, build, command, file_servers, networks, npm_project, paths, peer, setup};

/// What may be said after `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows to measure: cycle, run, exec, twenty, logs, list, memory, network, idle-connections, ports, machine-ports,
    /// bridge, files, file-events, start, disk, kills, idle, app, engine-memory [default: all]
    #[arg(value_name = "ROW")]
    rows: Vec<String>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs the measurements.
pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure()?;
    build::product()?;
    if args.rows.is_empty() || args.rows.iter().any(|row| row == "app") {
        app::app()?;
    }
    let peer = peer::ensure()?;
    let networks = networks::ensure()?;
    let file_servers = file_servers::ensure()?;
    let npm_project = npm_project::ensure()?;
    command::run(build::cargo("build").args([
        "--quiet",
        "--release",
        "--package",
        "usernet",
        "--example",
        "tap",
    ]))?;
    if !args.json {
        say("The machine should have nothing else to do now.");
    }
    let mut bench = build::cargo("bench");
    bench.args(["--quiet", "--package", "tests", "--bench", "measure", "--"]).args(&args.rows);
    if args.json {
        bench.arg("--json");
    }
    let tap = paths::target().join("release/examples/tap");
    let variables = [
        ("CORACLE_PEER", &peer.folder),
        ("CORACLE_NETWORKS", &networks),
        ("CORACLE_FILE_SERVERS", &file_servers),
        ("CORACLE_NPM_PROJECT", &npm_project),
        ("CORACLE_TAP", &tap),
    ];
    command::run(bench.envs(variables))
}
