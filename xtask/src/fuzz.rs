//! `cargo xtask fuzz`: gives parsers of a guest's bytes inputs that nobody has thought of, for as long as one likes. The
//! targets are tests, which `cargo xtask test` runs with a few inputs each; here they are built with coverage
//! counters, overflow checks and debug assertions.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{build, command, paths};

/// Names of targets, each of which is a module and a test, and the crates that they are in.
const TARGETS: [(&str, &str); 4] =
    [("frames", "usernet"), ("connections", "usernet"), ("names", "usernet"), ("requests", "fileserver")];

/// What may be said after `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is given inputs [default: each in turn]
    #[arg(value_parser = TARGETS.map(|(name, _)| name))]
    target: Option<String>,
    /// How long each takes
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// The number that the inputs follow from [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Repeat one input, which failed
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

/// LLVM counts how often each place is reached. These flags are stable, those of its sanitizers are not.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cdebug-assertions=on -Coverflow-checks=on";

/// Inputs make connections to this machine: to one without programs.
const RUNNER: &str =
    r#"["unshare", "--map-root-user", "--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]"#;

/// Runs the targets.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = paths::target().join("fuzz");
    let seed = args.seed.map_or_else(from_the_clock, Ok)?;
    let wanted = |name: &str| args.target.as_deref().is_none_or(|wanted| wanted == name);
    for (target, package) in TARGETS.iter().filter(|(name, _)| wanted(name)) {
        let mut cargo = build::cargo("test");
        // Flags must not reach build scripts and procedural macros, and do not where a target is named.
        cargo.args(["--quiet", "--release", "--package", package, "--lib", "--target", build::GUEST_TARGET]);
        cargo.arg("--target-dir").arg(&folder);
        cargo.args(["--config", &format!("target.{}.runner={RUNNER}", build::GUEST_TARGET)]);
        cargo.args(["--", "--exact", &format!("fuzz::{target}::{target}"), "--nocapture"]);
        cargo.env("RUSTFLAGS", RUSTFLAGS).env("CORACLE_FUZZ_FOLDER", folder.join("failed"));
        cargo
            .env("CORACLE_FUZZ_SECONDS", args.seconds.to_string())
            .env("CORACLE_FUZZ_SEED", seed.to_string());
        if let Some(input) = &args.input {
            let input = input.canonicalize().with_context(|| format!("there is no {}", input.display()))?;
            cargo.env("CORACLE_FUZZ_INPUT", input);
        }
        command::run(&mut cargo)?;
    }
    Ok(())
}

fn from_the_clock() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map(|now| now.as_secs()).context("the clock stands before 1970")
}
