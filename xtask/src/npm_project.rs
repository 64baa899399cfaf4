//! A small real project of npm's, and a cache with all that it depends on: for measuring its installation without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::terminal::Stage;
use crate::{command, debian, paths};

/// A web server that many have, and what it needs.
const MANIFEST: &str = r#"{"name": "project", "version": "1.0.0", "dependencies": {"express": "5.1.0"}}"#;

/// The lock file holds the packages' addresses: then they are installed from the cache without asking which versions of each
/// there are, which the cache does not know.
const OPTIONS: &[&str] =
    &["--ignore-scripts", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved=false"];

/// Prepares the folder unless it is there: `project/` with `package.json` and `package-lock.json`, and `cache/`.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = paths::cache()?.join("npm-project");
    let made_from = folder.join(".made-from");
    let wanted = format!("{MANIFEST}\n{OPTIONS:?}");
    if fs::read_to_string(&made_from).is_ok_and(|found| found == wanted) {
        return Ok(folder);
    }
    let mut stage = Stage::begin("a project of npm's");
    paths::remove_folder(&folder)?;
    let project = folder.join("project");
    fs::create_dir_all(&project).with_context(|| format!("creating {}", project.display()))?;
    fs::write(project.join("package.json"), MANIFEST).context("writing package.json")?;
    let log = paths::cache()?.join("npm-project.log");
    debian::retry("the packages of a project of npm's", || {
        let mut npm = npm(&["install"], &project, &folder.join("cache"));
        command::logged(&mut npm, &log, |line| stage.update(line))
    })?;
    // As it is measured. If the cache lacks something, this fails and not the measurement.
    let mut npm = npm(&["ci", "--offline"], &project, &folder.join("cache"));
    command::logged(&mut npm, &log, |line| stage.update(line))?;
    paths::remove_folder(&project.join("node_modules"))?;
    paths::publish(&made_from, wanted.as_bytes())?;
    stage.done("done");
    Ok(folder)
}

fn npm(act: &[&str], project: &Path, cache: &Path) -> Command {
    let mut npm = Command::new("npm");
    npm.args(act).args(OPTIONS).arg("--cache").arg(cache).current_dir(project);
    npm
}
