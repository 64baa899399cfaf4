//! `cargo xtask check`: formatting, lints, the project's own rules, and documentation. What a build server checks is
//! what a developer checks.

use anyhow::{Result, bail};

use crate::build::cargo;
use crate::terminal::{complain, say};
use crate::{app, command, setup};

mod api;
mod dependencies;
mod style;

/// Runs `cargo xtask check`. Every part runs, so that one report names everything.
pub(crate) fn run() -> Result<()> {
    setup::ensure()?;
    let mut failed = Vec::new();
    for (name, part) in PARTS {
        say(format_args!("check: {name}"));
        if let Err(error) = part() {
            complain(&format!("{error:#}"));
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        bail!("the check found problems in: {}", failed.join(", "));
    }
    say("check: everything is in order");
    Ok(())
}

type Part = fn() -> Result<()>;

const PARTS: &[(&str, Part)] = &[
    ("formatting", formatting),
    ("style rules", style::check),
    ("routes in docs/api.md", api::check),
    ("dependencies between crates", dependencies::check),
    ("lints", lints),
    ("documentation", documentation),
    ("the interface", app::check_interface),
];

fn formatting() -> Result<()> {
    command::run(cargo("fmt").args(["--all", "--check"]))
}

/// Host and guest crates at once: the guest's static flags change nothing that a lint looks at. In the profile of the product,
/// with which build scripts and procedural macros are shared.
fn lints() -> Result<()> {
    command::run(cargo("clippy").args([
        "--quiet",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}

fn documentation() -> Result<()> {
    let mut doc = cargo("doc");
    doc.args(["--quiet", "--release", "--workspace", "--no-deps", "--document-private-items"]);
    command::run(doc.env("RUSTDOCFLAGS", "--deny warnings"))
}

/// Turns a list of findings into the error of a part.
fn report(findings: &[String]) -> Result<()> {
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    Ok(())
}
