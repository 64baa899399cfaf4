//! `cargo xtask test`: every test, from a cold clone. Levels, each a command of its own:
//!
//! 1. unit tests, beside the code that they test;
//! 2. the engine on this Linux, in private namespaces, without a VM;
//! 3. the whole product: a machine, and the real `docker` client;
//! 5. the desktop app: its interface in a browser, its shell, and both together in front of a real engine.
//!
//! The cases of levels 2 and 3 also run against Docker's own engine, which proves the cases.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::terminal::{complain, duration, say};
use crate::{app, build, check, command, dist, docker_py, peer, setup};

/// What may be said after `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this level: 1 unit tests, 2 the engine on this Linux, 3 the product with a machine, 5 the desktop app
    #[arg(long, value_parser = level)]
    level: Option<u8>,
    /// Run the cases of levels 2 and 3 against another engine instead
    #[arg(long, value_enum, conflicts_with = "level")]
    against: Option<Peer>,
    /// Only tests whose name contains this
    filter: Option<String>,
}

fn level(text: &str) -> Result<u8, String> {
    let level = text.parse().ok().filter(|level| [1, 2, 3, 5].contains(level));
    level.ok_or_else(|| "the levels are 1, 2, 3 and 5".to_owned())
}

/// An engine that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    Dockerd,
}

/// Crates whose unit tests run with the host's flags.
const HOST_CRATES: &[&str] = &["wire", "vmm", "usernet", "fileserver", "coracle", "xtask", "tests"];
/// Crates of the guest, which are tested as they are shipped: with its flags, in its target folder.
const GUEST_CRATES: &[&str] = &["engine", "coracle-agent"];

/// Runs the tests.
pub(crate) fn run(args: Args) -> Result<()> {
    let filter = args.filter.as_deref();
    let mut stages: Vec<Stage<'_>> = vec![("setup", Box::new(setup::ensure))];
    if args.against.is_some() {
        stages.push(("other people's programs", Box::new(others_programs)));
        stages.push(("cases against dockerd", Box::new(move || cases("dockerd", Whose::Engines, filter))));
        return run_all(&stages);
    }
    if args.level.is_none() && filter.is_none() {
        stages.push(("check", Box::new(check::run)));
    }
    if args.level.is_none_or(|level| level == 1) {
        stages
            .push(("level 1, host", Box::new(move || unit_tests(build::cargo("test"), HOST_CRATES, filter))));
        stages.push((
            "level 1, guest",
            Box::new(move || unit_tests(build::guest_cargo("test"), GUEST_CRATES, filter)),
        ));
    }
    if args.level.is_none_or(|level| level > 1) {
        stages.push(("build", Box::new(|| build::product().map(drop))));
        stages.push(("other people's programs", Box::new(others_programs)));
    }
    if args.level.is_none_or(|level| level == 2) {
        stages.push(("level 2, the container runtime", Box::new(move || runtime(filter))));
        stages.push((
            "level 2, the engine on this Linux",
            Box::new(move || cases("native", Whose::Engines, filter)),
        ));
    }
    if args.level.is_none_or(|level| level == 3) {
        stages.push((
            "level 3, the product with a machine",
            Box::new(move || cases("machine", Whose::Engines, filter)),
        ));
    }
    if args.level.is_none_or(|level| level == 5) {
        stages.push(("level 5, the interface", Box::new(move || app::test_interface(filter))));
        stages.push((
            "level 5, the app and its package",
            Box::new(move || match filter {
                None => dist::package(None),
                Some(_) => app::app().map(drop),
            }),
        ));
        stages.push(("level 5, the shell", Box::new(move || app::test_shell(filter))));
        stages.push((
            "level 5, the app in front of engines",
            Box::new(move || cases("native,machine", Whose::Apps, filter)),
        ));
    }
    run_all(&stages)
}

type Stage<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);

/// Runs the stages up to the first that fails, and says how long each took.
fn run_all(stages: &[Stage<'_>]) -> Result<()> {
    let begun = Instant::now();
    let mut done: Vec<(&str, Duration, bool)> = Vec::new();
    let mut failure = None;
    for (name, stage) in stages {
        say(format_args!("\n==> {name}"));
        let stage_begun = Instant::now();
        let result = stage();
        done.push((name, stage_begun.elapsed(), result.is_ok()));
        if let Err(error) = result {
            complain(&format!("{name}: {error:#}"));
            failure = Some(*name);
            break;
        }
    }
    say("");
    for (name, time, passed) in &done {
        say(format_args!("{:<6} {:>12}  {name}", if *passed { "passed" } else { "FAILED" }, duration(*time)));
    }
    for (name, _) in &stages[done.len()..] {
        say(format_args!("{:<6} {:>12}  {name}", "not run", ""));
    }
    say(format_args!("{:<6} {:>12}  in all", "", duration(begun.elapsed())));
    match failure {
        Some(name) => bail!("the tests failed in the stage: {name}"),
        None => Ok(()),
    }
}

/// Runs the unit tests of crates in release mode, which shares what is compiled with the product.
fn unit_tests(mut cargo: Command, crates: &[&str], filter: Option<&str>) -> Result<()> {
    cargo.args(["--release", "--lib", "--bins"]);
    for name in crates {
        cargo.args(["--package", name]);
    }
    cargo.arg("--").args(filter);
    command::run(&mut cargo)
}

/// Runs the runtime's own cases, against the helper and the shim without the engine around them.
fn runtime(filter: Option<&str>) -> Result<()> {
    let mut cargo = build::guest_cargo("test");
    cargo.args(["--release", "--package", "engine", "--test", "runtime", "--"]).args(filter);
    command::run(&mut cargo)
}

/// Docker's own programs and docker-py's tests.
fn others_programs() -> Result<()> {
    peer::ensure().context("fetching the docker client and dockerd")?;
    docker_py::ensure().context("fetching docker-py")?;
    Ok(())
}

/// What is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Engines,
    Apps,
}

/// Runs the cases of engines (`CORACLE_ENGINES`), which must be there.
fn cases(engines: &str, whose: Whose, filter: Option<&str>) -> Result<()> {
    let peer = peer::ensure()?;
    let mut cargo = build::cargo("test");
    cargo.args(["--release", "--package", "tests", "--test", "coracle", "--"]);
    let part = match whose {
        Whose::Engines => "engines",
        Whose::Apps => "app",
    };
    cargo.args(filter).env("CORACLE_PART", part);
    cargo.env("CORACLE_PEER", &peer.folder).env("CORACLE_DOCKER_PY", docker_py::ensure()?);
    command::run(cargo.env("CORACLE_ENGINES", engines))
}
