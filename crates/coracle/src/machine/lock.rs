//! One owner per machine: an advisory lock on a file that only `delete` removes.
//!
//! The kernel drops the lock when its holder ends, however it ends, so a lock is never stale. The
//! file's content, the holder's process id, is for messages alone.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::PathBuf,
};

use super::home::MachineDir;

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process owns the machine. Its id, when it has written it already.
    #[error("machine '{name}' is owned by another process{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Held { name: String, pid: Option<u32> },
    #[error("cannot lock {path}")]
    Io { path: PathBuf, source: io::Error },
}

/// A machine's directory whose lock this process holds. Everything that changes a machine on disk
/// takes one as proof.
#[derive(Debug)]
pub(crate) struct LockedHome {
    dir: MachineDir,
    /// Held open: closing it gives the lock up.
    _lock: File,
}

impl LockedHome {
    /// Takes the lock, or says who holds it. The directory MUST exist.
    pub(crate) fn take(dir: MachineDir) -> Result<LockedHome, LockError> {
        let path = dir.lock_file();
        let failed = |source| LockError::Io { path: path.clone(), source };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut content = String::new();
                    let pid =
                        file.read_to_string(&mut content).ok().and_then(|_| content.trim().parse().ok());
                    return Err(LockError::Held { name: dir.name().to_string(), pid });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // Between our open and our lock a `delete` may have removed the file; a lock on a file
            // without a name excludes nobody.
            let ours = file.metadata().map_err(failed)?;
            match fs::metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => {}
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(failed(source)),
            }
            write_pid(&mut file).map_err(failed)?;
            return Ok(LockedHome { dir, _lock: file });
        }
    }

    pub(crate) fn dir(&self) -> &MachineDir {
        &self.dir
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        path::Path,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::machine::home::Home;

    fn machine(home: &Path) -> MachineDir {
        let dir = Home::at(home).machine(&"default".parse().unwrap());
        dir.create().unwrap();
        dir
    }

    #[test]
    fn a_second_owner_is_refused_and_told_who_the_first_is() {
        let home = tempfile::tempdir().unwrap();
        let dir = machine(home.path());
        let first = LockedHome::take(dir.clone()).unwrap();
        // A lock of this kind belongs to the open file, so this stands for another process.
        match LockedHome::take(dir.clone()) {
            Err(LockError::Held { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(first);
        LockedHome::take(dir).unwrap();
    }

    /// Holds the lock named by the environment until it is killed. Run by
    /// [`a_killed_owner_leaves_no_lock`] in a process of its own; does nothing otherwise.
    #[test]
    fn owner_process() {
        let Some(home) = std::env::var_os("CORACLE_TEST_LOCK_HOME") else { return };
        let _held = LockedHome::take(machine(Path::new(&home))).unwrap();
        let mut out = io::stdout();
        writeln!(out, "\nheld").unwrap();
        out.flush().unwrap();
        // Blocks until the parent closes the pipe or kills this process.
        let _ = io::stdin().read(&mut [0]);
    }

    #[test]
    fn a_killed_owner_leaves_no_lock() {
        let home = tempfile::tempdir().unwrap();
        let mut owner = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "machine::lock::tests::owner_process", "--nocapture"])
            .env("CORACLE_TEST_LOCK_HOME", home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "held"), "the owner never took the lock");
        match LockedHome::take(machine(home.path())) {
            Err(LockError::Held { pid, .. }) => assert_eq!(pid, Some(owner.id())),
            other => panic!("{other:?}"),
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        LockedHome::take(machine(home.path())).unwrap();
    }

    #[test]
    fn a_lock_whose_file_was_removed_does_not_exclude() {
        let home = tempfile::tempdir().unwrap();
        let dir = machine(home.path());
        let _deleted = LockedHome::take(dir.clone()).unwrap();
        fs::remove_file(dir.lock_file()).unwrap();
        LockedHome::take(dir).unwrap();
    }
}
