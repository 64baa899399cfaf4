//! The desktop app: its interface (`ui/`, built by npm and vite) and its shell (`src-tauri/`).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, cargo};
use crate::{command, paths};

/// The oldest major version of Node.js that vite runs on.
const NODE_MAJOR: u32 = 20;

fn interface() -> PathBuf {
    paths::root().join("ui")
}

/// Builds interface and shell, release mode, and returns where the app is. Expects `setup::ensure` to have run.
pub(crate) fn app() -> Result<PathBuf> {
    build_interface()?;
    command::run(cargo("build").args(["--release", "--package", "coracle-app"]))?;
    build::install(&paths::target().join("release/coracle-app"))
}

/// Builds `ui/dist`.
pub(crate) fn build_interface() -> Result<()> {
    packages()?;
    command::run(&mut npm(&["run", "--silent", "build"]))
}

/// Types and Svelte's own rules.
pub(crate) fn check_interface() -> Result<()> {
    packages()?;
    command::run(&mut npm(&["run", "--silent", "check"]))
}

/// Unit tests, and tests in a browser.
pub(crate) fn test_interface(filter: Option<&str>) -> Result<()> {
    packages()?;
    for tests in ["test:unit", "test:browser"] {
        let mut test = npm(&["run", "--silent", tests]);
        if let Some(filter) = filter {
            test.args(["--", "--testNamePattern", filter]);
        }
        command::run(&mut test)?;
    }
    Ok(())
}

/// Unit tests of the shell, which is a program without a library.
pub(crate) fn test_shell(filter: Option<&str>) -> Result<()> {
    let mut test = cargo("test");
    command::run(test.args(["--release", "--bins", "--package", "coracle-app", "--"]).args(filter))
}

/// Installs what `ui/package-lock.json` names, unless it is there.
fn packages() -> Result<()> {
    node()?;
    let lock = interface().join("package-lock.json");
    let wanted = fs::read(&lock).with_context(|| format!("reading {}", lock.display()))?;
    // npm writes no such file: it says which lock the folder came from.
    let installed = interface().join("node_modules/.coracle-lock");
    if fs::read(&installed).is_ok_and(|lock| lock == wanted) {
        return Ok(());
    }
    command::run(
        npm(&["ci", "--no-audit", "--no-fund", "--loglevel=error"])
            .env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1"),
    )?;
    paths::publish(&installed, &wanted)
}

fn npm(arguments: &[&str]) -> Command {
    let mut npm = Command::new("npm");
    npm.args(arguments).current_dir(interface());
    npm
}

/// Fails unless a Node.js is there that vite runs on. `cargo xtask setup` installs Debian's where there is none.
fn node() -> Result<()> {
    let Some(node) = command::find("node") else {
        bail!("there is no node on the PATH: install Node.js {NODE_MAJOR} or later");
    };
    let version = command::output(Command::new(&node).arg("--version"))?;
    if node_major(&version).is_none_or(|major| major < NODE_MAJOR) {
        bail!("{} is {version}, and the interface needs Node.js {NODE_MAJOR} or later", node.display());
    }
    Ok(())
}

/// Whether a Node.js of any version is on the `PATH`.
pub(crate) fn has_node() -> bool {
    command::find("node").is_some() && command::find("npm").is_some()
}

/// `v20.20.2` → 20.
fn node_major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_versions() {
        assert_eq!(node_major("v20.20.2\n"), Some(20));
        assert_eq!(node_major("20"), None);
    }
}
