//! Where the machine and the app keep their files; as `coracle` has it.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// The machine that the app shows.
pub(crate) const MACHINE: &str = "default";

/// `$CORACLE_HOME`, or `~/.coracle`.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    pub(crate) fn from_environment() -> Result<Home> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty());
        if let Some(home) = set("CORACLE_HOME") {
            let absolute = std::path::absolute(&home).map_err(|error| {
                Error::host(format!("CORACLE_HOME is no path: {}: {error}", home.display()))
            })?;
            return Ok(Home(absolute));
        }
        match set("HOME") {
            Some(home) => Ok(Home(Path::new(&home).join(".coracle"))),
            None => Err(Error::host(
                "neither CORACLE_HOME nor HOME is set; set CORACLE_HOME to a directory of yours",
            )),
        }
    }

    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Home {
        Home(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn machine(&self) -> PathBuf {
        self.0.join(MACHINE)
    }

    pub(crate) fn docker_socket(&self) -> PathBuf {
        self.machine().join("docker.sock")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.machine().join("control.sock")
    }

    pub(crate) fn preferences(&self) -> PathBuf {
        self.0.join("app.json")
    }

    /// Where and how large the window was.
    pub(crate) fn window_state(&self) -> PathBuf {
        self.0.join("app-window.json")
    }

    /// The app's own log.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("app.log")
    }

    /// Creates the directory for its owner alone.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }
}

/// Replaces a file so that a reader finds either the old or the new content whole.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let draft = path.with_file_name(name);
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // What failed is told; a left-over draft must not add to it.
        let _ = fs::remove_file(&draft);
    }
    written
}
