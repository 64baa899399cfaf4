//! Other programs of the host.

use std::{env, fs, os::unix::fs::MetadataExt, path::Path, path::PathBuf};

/// Where a program is in `PATH`, if anywhere.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| is_executable(path))
}

pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}
