//! What a run makes on this machine outside its namespaces, folders and cgroups, and its removal. Their names carry
//! the pid of the run, so that what a killed one has left is found by the next.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;

use crate::wait;

const PREFIX: &str = "coracle-test-";
/// Folders are here whatever `TMPDIR` says: the path of a socket must be short.
const FOLDERS: &str = "/tmp";
const CGROUPS: &str = "/sys/fs/cgroup";

/// A new folder, removed when it is dropped.
pub fn folder() -> Result<tempfile::TempDir> {
    let prefix = format!("{PREFIX}{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(FOLDERS).context("making a temporary folder")
}

/// The cgroup below which dockerd makes those of its containers.
pub(crate) fn cgroup() -> String {
    format!("{PREFIX}{}", std::process::id())
}

/// Removes what runs that were killed have left.
pub fn sweep_dead_runs() {
    sweep(|owner| owner != Pid::as_raw(Some(rustix::process::getpid())) && is_dead(owner));
}

/// Removes the cgroups of this run. Its folders go with their owners.
pub(crate) fn sweep_own_cgroups() {
    let own = Pid::as_raw(Some(rustix::process::getpid()));
    for group in cgroups() {
        if owner(&group) == Some(own) {
            remove_cgroup(&group);
        }
    }
}

fn sweep(mut wanted: impl FnMut(i32) -> bool) {
    for folder in entries(Path::new(FOLDERS)).filter(|folder| owner(folder).is_some_and(&mut wanted)) {
        // What another user has made is not ours to remove.
        let _ = std::fs::remove_dir_all(folder);
    }
    for group in cgroups().into_iter().filter(|group| owner(group).is_some_and(&mut wanted)) {
        remove_cgroup(&group);
    }
}

/// Our cgroups in every hierarchy: one below each folder of version 1, or below the root of version 2.
fn cgroups() -> Vec<std::path::PathBuf> {
    let root = Path::new(CGROUPS);
    entries(root)
        .flat_map(|hierarchy| entries(&hierarchy))
        .chain(entries(root))
        .filter(|group| owner(group).is_some())
        .collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The pid in a name of ours.
fn owner(path: &Path) -> Option<i32> {
    path.file_name()?.to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Also true of a process that has ended and was not reaped, which has no program any more.
fn is_dead(pid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_err()
}

fn remove_cgroup(group: &Path) {
    for child in entries(group).filter(|child| child.is_dir()) {
        remove_cgroup(&child);
    }
    // A cgroup whose last process is still on its way out is busy; one left over is empty and harms nothing.
    if let Err(error) = std::fs::remove_dir(group)
        && error.kind() == ErrorKind::ResourceBusy
    {
        let gone = || Ok(std::fs::remove_dir(group).is_ok());
        let _ = wait::eventually_true("a cgroup is empty", Duration::from_secs(2), gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_their_owner() {
        let folder = folder().unwrap();
        let own = Pid::as_raw(Some(rustix::process::getpid()));
        assert_eq!(owner(folder.path()), Some(own));
        assert_eq!(owner(Path::new("/sys/fs/cgroup/pids").join(cgroup()).as_path()), Some(own));
        assert_eq!(owner(Path::new("/tmp/coracle-test-home")), None);
        assert!(!is_dead(own));
    }
}
