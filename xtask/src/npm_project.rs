//! A small real project of npm's, and a cache with all that it depends on: for measuring its installation without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::terminal::Stage;
use crate::{command, debian, paths};

/// A web server that many have, and the 64 packages that it needs.
const MANIFEST: &str = r#"{"name": "project", "version": "1.0.0", "dependencies": {"express": "5.1.0"}}"#;

/// Prepares the folder unless it is there: `project/` with `package.json` and `package-lock.json`, and `cache/`.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = paths::cache()?.join("npm-project");
    let made_from = folder.join(".made-from");
    if fs::read_to_string(&made_from).is_ok_and(|found| found == MANIFEST) {
        return Ok(folder);
    }
    let mut stage = Stage::begin("a project of npm's");
    paths::remove_folder(&folder)?;
    let project = folder.join("project");
    fs::create_dir_all(&project).with_context(|| format!("creating {}", project.display()))?;
    fs::write(project.join("package.json"), MANIFEST).context("writing package.json")?;
    let log = paths::cache()?.join("npm-project.log");
    debian::retry("the packages of a project of npm's", || {
        command::logged(&mut install(&project, &folder.join("cache")), &log, |line| stage.update(line))
    })?;
    paths::remove_folder(&project.join("node_modules"))?;
    paths::publish(&made_from, MANIFEST.as_bytes())?;
    stage.done("done");
    Ok(folder)
}

fn install(project: &Path, cache: &Path) -> Command {
    let mut npm = Command::new("npm");
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--cache"]).arg(cache);
    npm.current_dir(project);
    npm
}
