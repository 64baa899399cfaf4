//! `cargo xtask build`: the product in release mode.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::{self, Image};
use crate::terminal::say;
use crate::{app, command, paths, setup};

/// The target that the guest's program is built for. Named even where it is the host's own: with `--target`, the
/// static flags reach the program and spare build scripts and procedural macros, which cannot be static.
pub(crate) const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The guest has one C library to link with: none at run time. Random numbers come from the system call, because the
/// default looks the function up in a shared C library and, finding none, opens `/dev/random` before there is a
/// `/dev`.
const GUEST_RUSTFLAGS: &str = r#"-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom""#;

/// The finished product.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    /// The host program.
    pub(crate) coracle: PathBuf,
    /// The guest program; also runs the engine on any Linux.
    pub(crate) agent: PathBuf,
    /// The guest's kernel and root file system.
    pub(crate) image: Image,
}

/// What may be said after `cargo xtask build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build the desktop app, too
    #[arg(long)]
    app: bool,
}

/// Runs `cargo xtask build`.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    let product = product()?;
    let app = if args.app { Some(app::app()?) } else { None };
    say(format_args!("host program:  {}", product.coracle.display()));
    say(format_args!("guest program: {}", product.agent.display()));
    say(format_args!("guest image:   {}", product.image.folder.display()));
    if let Some(app) = app {
        say(format_args!("desktop app:   {}", app.display()));
    }
    Ok(())
}

/// Builds host program, guest program and guest image into `target/coracle`. Expects [`setup::ensure`] to have run.
pub(crate) fn product() -> Result<Product> {
    let image = image::ensure()?;
    let agent = paths::product().join("bin/coracle-agent");
    command::run(cargo("build").args(["--release", "--package", "coracle"]))?;
    let coracle = install(&paths::target().join("release/coracle"))?;
    Ok(Product { coracle, agent, image })
}

/// Builds the guest program, static and in release mode, and returns where it is.
pub(crate) fn agent() -> Result<PathBuf> {
    command::run(guest_cargo("build").args(["--release", "--package", "coracle-agent"]))?;
    install(&paths::target().join(GUEST_TARGET).join("release/coracle-agent"))
}

/// `cargo <subcommand>` in the project's folder.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(subcommand).current_dir(paths::root());
    // Cargo sets these for us, its child; a nested cargo would take them for its user's wishes.
    cargo.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo
}

/// `cargo <subcommand>` with the flags of the guest's static programs. Everything that builds crates of the guest uses
/// it, so that nothing is compiled twice; the results are in `target/<GUEST_TARGET>/`.
pub(crate) fn guest_cargo(subcommand: &str) -> Command {
    let mut cargo = cargo(subcommand);
    cargo.args(["--target", GUEST_TARGET]);
    cargo.env("RUSTFLAGS", GUEST_RUSTFLAGS);
    cargo.env("LIBSECCOMP_LINK_TYPE", "static").env("LIBSECCOMP_LIB_PATH", "/usr/lib/x86_64-linux-gnu");
    cargo
}

/// Puts a finished program into `target/coracle/bin`; one that runs keeps its old file.
pub(crate) fn install(program: &std::path::Path) -> Result<PathBuf> {
    let folder = paths::product().join("bin");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let name = program.file_name().with_context(|| format!("{} has no name", program.display()))?;
    let installed = folder.join(name);
    paths::publish_copy(program, &installed)?;
    Ok(installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_cargo_names_its_target_and_links_statically() {
        let cargo = guest_cargo("build");
        let words: Vec<&str> = cargo.get_args().filter_map(|word| word.to_str()).collect();
        assert_eq!(words, ["build", "--target", GUEST_TARGET]);
        let flags = cargo.get_envs().find(|(name, _)| *name == "RUSTFLAGS").and_then(|(_, value)| value);
        assert!(flags.is_some_and(|flags| flags.to_string_lossy().contains("+crt-static")));
    }
}
