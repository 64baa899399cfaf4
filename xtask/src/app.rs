//! The desktop app: its interface (`ui/`, built by npm and vite) and its shell (`src-tauri/`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{self, cargo};
use crate::terminal::say;
use crate::{command, paths};

/// The oldest major version of Node.js that vite runs on.
const NODE_MAJOR: u32 = 20;
/// The interface's bundle must not grow beyond this, compressed, in bytes: the window would wait for it.
const MAX_BUNDLE: usize = 400 * 1000;

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
    command::run(&mut npm(&["run", "--silent", "build"]))?;
    let size = bundle_size(&interface().join("dist"))?;
    if size > MAX_BUNDLE {
        bail!("the interface's bundle has {size} bytes compressed, and may have {MAX_BUNDLE}");
    }
    say(format_args!("interface: {} kB compressed", size / 1000));
    Ok(())
}

/// Types and Svelte's own rules.
pub(crate) fn check_interface() -> Result<()> {
    packages()?;
    command::run(&mut npm(&["run", "--silent", "check"]))
}

/// Unit tests, and tests in a browser.
pub(crate) fn test_interface(filter: Option<&str>) -> Result<()> {
    packages()?;
    let mut test = npm(&["test"]);
    if let Some(filter) = filter {
        test.args(["--", "-t", filter]);
    }
    command::run(&mut test)
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

/// What the interface has of scripts, styles and pages, compressed as a server would.
fn bundle_size(dist: &Path) -> Result<usize> {
    let mut size = 0;
    for entry in fs::read_dir(dist).with_context(|| format!("listing {}", dist.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            size += bundle_size(&path)?;
        } else if path
            .extension()
            .is_some_and(|kind| ["js", "css", "html"].iter().any(|counted| kind == *counted))
        {
            size += compressed_size(&path)?;
        }
    }
    Ok(size)
}

fn compressed_size(path: &Path) -> Result<usize> {
    let output = Command::new("gzip")
        .args(["--best", "--stdout"])
        .arg(path)
        .output()
        .with_context(|| format!("compressing {}", path.display()))?;
    if !output.status.success() {
        bail!("compressing {} failed: {}", path.display(), output.status);
    }
    Ok(output.stdout.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_versions() {
        assert_eq!(node_major("v20.20.2\n"), Some(20));
        assert_eq!(node_major("20"), None);
    }

    #[test]
    fn a_bundle_is_what_a_window_has_to_load() {
        let dist = tempfile::tempdir().unwrap();
        assert_eq!(bundle_size(dist.path()).unwrap(), 0);
        fs::create_dir(dist.path().join("assets")).unwrap();
        fs::write(dist.path().join("assets/a.js"), "x".repeat(100_000)).unwrap();
        fs::write(dist.path().join("logo.svg"), "x").unwrap();
        let size = bundle_size(dist.path()).unwrap();
        assert!((20..1000).contains(&size), "{size}");
    }
}
