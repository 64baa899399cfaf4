//! The machine process's log: its standard error, in a file that does not grow from start to start.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::home::MachineDir;

/// A log larger than this is put aside at the next start, in place of the one put aside before.
const MAX_LENGTH: u64 = 1 << 20;

/// Sends what this process writes to its standard output and error to the machine's log. Only the
/// owner of the machine may do so: the log of a running machine is not to be moved away.
pub(crate) fn open(dir: &MachineDir) -> Result<()> {
    let path = dir.machine_log();
    let context = || format!("cannot write to {}", path.display());
    rotate(&path, MAX_LENGTH).with_context(context)?;
    // Each start has a console of its own; the one before often says why there is a new start.
    rotate(&dir.console_log(), 0)
        .with_context(|| format!("cannot put {} aside", dir.console_log().display()))?;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).with_context(context)?;
    rustix::stdio::dup2_stdout(&file).with_context(context)?;
    rustix::stdio::dup2_stderr(&file).with_context(context)
}

/// Where an old log is put aside.
pub(crate) fn previous(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn rotate(path: &Path, max_length: u64) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.len() > max_length => fs::rename(path, previous(path)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("machine.log");
        rotate(&log, 4).unwrap();
        fs::write(&log, "1234").unwrap();
        rotate(&log, 4).unwrap();
        assert!(log.exists());
        fs::write(&log, "12345").unwrap();
        rotate(&log, 4).unwrap();
        assert!(!log.exists());
        assert_eq!(fs::read(previous(&log)).unwrap(), b"12345");
    }
}
