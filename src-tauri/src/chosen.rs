//! Files that the user has chosen: the only ones that the interface may have read or written.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;

use crate::error::{Error, Result};

/// For what a file is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Choice {
    Open,
    Save,
    Folder,
}

/// What was chosen since the app was started.
#[derive(Debug, Default)]
pub(crate) struct Chosen(Mutex<HashSet<(Choice, PathBuf)>>);

impl Chosen {
    pub(crate) fn add(&self, choice: Choice, path: PathBuf) {
        self.lock().insert((choice, path));
    }

    /// # Errors
    /// The user has not chosen this file to be read.
    pub(crate) fn may_read(&self, path: &Path) -> Result<()> {
        self.check(Choice::Open, path, "read")
    }

    /// # Errors
    /// The user has not chosen this file to be written.
    pub(crate) fn may_write(&self, path: &Path) -> Result<()> {
        self.check(Choice::Save, path, "written")
    }

    fn check(&self, choice: Choice, path: &Path, what: &str) -> Result<()> {
        if self.lock().contains(&(choice, path.to_owned())) {
            return Ok(());
        }
        Err(Error::host(format!("{} was not chosen to be {what}; choose it first", path.display())))
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<(Choice, PathBuf)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_touched_only_for_what_it_was_chosen() {
        let chosen = Chosen::default();
        let path = Path::new("/home/me/x.tar");
        assert!(chosen.may_write(path).is_err());
        chosen.add(Choice::Save, path.to_owned());
        chosen.may_write(path).unwrap();
        for other in ["/home/me/x.tar/../../.bashrc", "/home/me", "/home/me/y.tar"] {
            assert!(chosen.may_write(Path::new(other)).is_err(), "{other}");
        }
        assert!(chosen.may_read(path).is_err());
    }
}
