//! `cargo xtask test`: every test, from a cold clone.

use anyhow::bail;

/// What may be said after `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the tests.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    bail!("`cargo xtask test` is not built yet")
}
