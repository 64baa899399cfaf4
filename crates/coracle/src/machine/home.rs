//! Where machines live on the host: `CORACLE_HOME` and what is in a machine's directory.

use std::{
    env, fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::name::MachineName;

/// The environment variable that moves all state.
pub(crate) const HOME_VARIABLE: &str = "CORACLE_HOME";

/// Longest path of a socket, in bytes. macOS has room for 104 with the final NUL, Linux for 108; the
/// shorter one holds everywhere, so that a home directory can move between systems.
pub(crate) const MAX_SOCKET_PATH: usize = 103;

/// The directory that holds all machines.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// `$CORACLE_HOME`, or `~/.coracle`. Always absolute: the machine process does not stay in the
    /// directory that the command was called in.
    pub(crate) fn from_environment() -> Result<Home> {
        if let Some(set) = env::var_os(HOME_VARIABLE).filter(|value| !value.is_empty()) {
            let path = std::path::absolute(&set)
                .with_context(|| format!("{HOME_VARIABLE} is no path: {}", set.display()))?;
            return Ok(Home(path));
        }
        match env::var_os("HOME").filter(|value| !value.is_empty()) {
            Some(home) => Ok(Home(Path::new(&home).join(".coracle"))),
            None => {
                bail!("neither {HOME_VARIABLE} nor HOME is set; set {HOME_VARIABLE} to a directory of yours")
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Home {
        Home(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn machine(&self, name: &MachineName) -> MachineDir {
        MachineDir { path: self.0.join(name.as_str()), name: name.clone() }
    }

    /// The machines that exist, by name. A directory counts when a start has left its lock file there.
    pub(crate) fn machines(&self) -> Result<Vec<MachineDir>> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot list {}", self.0.display()));
            }
        };
        let mut names: Vec<MachineName> =
            entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
        names.sort();
        Ok(names.iter().map(|name| self.machine(name)).filter(MachineDir::exists).collect())
    }
}

/// A machine's directory. It may not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct MachineDir {
    name: MachineName,
    path: PathBuf,
}

impl MachineDir {
    pub(crate) fn name(&self) -> &MachineName {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The Docker Engine API, for `docker`.
    pub(crate) fn docker_socket(&self) -> PathBuf {
        self.path.join("docker.sock")
    }

    /// [`wire::app`], for `coracle` and the app.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The data disk, raw and sparse.
    pub(crate) fn disk_image(&self) -> PathBuf {
        self.path.join("disk.raw")
    }

    /// What the guest's kernel says on its serial port.
    pub(crate) fn console_log(&self) -> PathBuf {
        self.path.join("console.log")
    }

    /// What the machine process says.
    pub(crate) fn machine_log(&self) -> PathBuf {
        self.path.join("machine.log")
    }

    /// See [`crate::machine::lock`].
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// How the machine ended last: [`wire::app::LastExit`].
    pub(crate) fn last_exit_file(&self) -> PathBuf {
        self.path.join("last-exit.json")
    }

    /// The choices with which the machine that runs was started, as in `config.toml`.
    pub(crate) fn started_config_file(&self) -> PathBuf {
        self.runtime_dir().join("config.toml")
    }

    /// Files that live as long as the VM.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.path.join("run")
    }

    /// Whether this machine was ever started and not deleted since.
    pub(crate) fn exists(&self) -> bool {
        self.lock_file().exists()
    }

    /// Creates the directory for its owner alone.
    pub(crate) fn create(&self) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .with_context(|| format!("cannot create the machine's directory {}", self.path.display()))
    }

    /// Fails when a socket of this machine could not be bound or reached because its path is too long.
    pub(crate) fn check_socket_paths(&self) -> Result<()> {
        // The longer name of the two, and as long as that of the VM's only socket with a path, `run/net.sock`.
        let longest = self.control_socket();
        let length = longest.as_os_str().as_bytes().len();
        if length > MAX_SOCKET_PATH {
            bail!(
                "{} is too long a path: a socket path ends at {MAX_SOCKET_PATH} bytes and control.sock would have {length}; set {HOME_VARIABLE} to a path at least {} shorter",
                self.path.display(),
                match length - MAX_SOCKET_PATH {
                    1 => "1 byte".to_owned(),
                    n => format!("{n} bytes"),
                },
            );
        }
        Ok(())
    }
}

/// Replaces a file so that a reader, or the next start after a crash, finds either the old or the new
/// content whole.
pub(crate) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};

    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    // The process id keeps two writers apart; the leading dot keeps the file out of listings.
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = directory.join(name);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What failed is told; a left-over temporary file must not add to it.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine_under(path: &str) -> MachineDir {
        Home::at(Path::new(path)).machine(&"default".parse().unwrap())
    }

    #[test]
    fn a_home_is_refused_exactly_when_a_socket_in_it_would_not_fit() {
        let rest = "/default/control.sock".len();
        let fits = format!("/{}", "h".repeat(MAX_SOCKET_PATH - rest - 1));
        machine_under(&fits).check_socket_paths().unwrap();
        let error = machine_under(&format!("{fits}h")).check_socket_paths().unwrap_err();
        assert!(error.to_string().ends_with("1 byte shorter"), "{error}");
    }

    #[test]
    fn the_longest_socket_is_the_one_that_is_checked() {
        let machine = machine_under("/home");
        assert!(machine.docker_socket().as_os_str().len() <= machine.control_socket().as_os_str().len());
    }

    #[test]
    fn only_directories_with_a_lock_are_machines() {
        let home = tempfile::tempdir().unwrap();
        for directory in ["web", "Not-A-Name", "empty"] {
            fs::create_dir(home.path().join(directory)).unwrap();
        }
        for directory in ["web", "Not-A-Name"] {
            fs::write(home.path().join(directory).join("lock"), "").unwrap();
        }
        let found = Home::at(home.path()).machines().unwrap();
        assert_eq!(found.iter().map(|m| m.name().as_str()).collect::<Vec<_>>(), ["web"]);
        assert!(Home::at(&home.path().join("absent")).machines().unwrap().is_empty());
    }

    #[test]
    fn an_atomic_write_leaves_one_file_and_the_old_one_when_it_fails() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config.toml");
        write_atomically(&file, b"old", 0o600).unwrap();
        write_atomically(&file, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        // A directory in the way makes the rename fail.
        let taken = home.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("inside"), "").unwrap();
        assert!(write_atomically(&taken, b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
    }
}
