//! docker-py's own integration tests, to be run against the engine: somebody else's idea of what Docker does.
//!
//! Only the source package of the version below has them. It lies beside a virtual environment with what they need,
//! in versions that this docker-py still works with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::terminal::Stage;
use crate::{command, debian, paths};

const VERSION: &str = "7.0.0";

/// What the tests import. docker-py 7.0 does not work with later requests and urllib3.
const REQUIREMENTS: &[&str] = &[
    "packaging==24.2",
    "paramiko==3.5.1",
    "pytest==8.3.5",
    "pytest-timeout==2.3.1",
    "requests==2.31.0",
    "urllib3==2.2.3",
    "websocket-client==1.8.0",
];

/// Downloads docker-py's source and makes the environment for its tests, unless both are there. The folder holds
/// `source/` and `python/`.
pub(crate) fn ensure() -> Result<PathBuf> {
    let home = paths::cache()?.join("docker-py");
    let folder = home.join(VERSION);
    let stamp = folder.join(".made-from");
    let made_from = REQUIREMENTS.join("\n");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == made_from) {
        return Ok(folder);
    }
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    let mut stage = Stage::begin(format!("docker-py {VERSION}"));
    let draft = home.join(format!(".draft.{}", std::process::id()));
    paths::remove_folder(&draft)?;
    assemble(&draft, &mut stage).context("preparing docker-py's tests")?;
    paths::publish(&draft.join(".made-from"), made_from.as_bytes())?;
    paths::remove_folder(&folder)?;
    fs::rename(&draft, &folder).with_context(|| format!("moving {} into place", folder.display()))?;
    stage.done("done");
    Ok(folder)
}

fn assemble(folder: &Path, stage: &mut Stage) -> Result<()> {
    let log = paths::cache()?.join("docker-py.log");
    let python = folder.join("python");
    command::logged(Command::new("python3").args(["-m", "venv"]).arg(&python), &log, |_| ())?;
    let pip = || {
        let mut pip = Command::new(python.join("bin/python"));
        pip.args(["-m", "pip", "--no-input", "--disable-pip-version-check"]);
        pip
    };
    debian::retry("the Python packages of docker-py's tests", || {
        command::logged(pip().arg("install").args(REQUIREMENTS), &log, |line| stage.update(line))
    })?;
    let archive = format!("docker=={VERSION}");
    debian::retry("docker-py's source", || {
        let mut download = pip();
        download.args(["download", "--no-deps", "--no-binary", "docker", &archive, "--dest"]).arg(folder);
        command::logged(&mut download, &log, |line| stage.update(line))
    })?;
    let archive = folder.join(format!("docker-{VERSION}.tar.gz"));
    let source = folder.join("source");
    fs::create_dir(&source).with_context(|| format!("creating {}", source.display()))?;
    command::output(
        Command::new("tar").args(["-x", "--strip-components=1", "-f"]).arg(&archive).arg("-C").arg(&source),
    )?;
    let tests = source.join("tests/integration");
    anyhow::ensure!(tests.is_dir(), "the source of docker-py {VERSION} has no {}", tests.display());
    Ok(())
}
