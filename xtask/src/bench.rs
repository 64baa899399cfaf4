//! `cargo xtask bench`: measures the product against its peers.

use anyhow::bail;

/// What may be said after `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Runs the measurements.
pub(crate) fn run(_args: Args) -> anyhow::Result<()> {
    bail!("`cargo xtask bench` is not built yet")
}
