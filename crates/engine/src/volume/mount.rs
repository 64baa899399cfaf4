//! Volumes that containers run on. Most are directories and nothing else; one with driver options is
//! mounted on its directory as long as a container runs on it.

use std::path::PathBuf;

use super::{Entry, Volumes, driver_options, remove::no_such_volume};
use crate::{
    error::{Context, Error, Result},
    mounts,
};

impl Volumes {
    /// Makes a volume ready for a container that is about to run on it, and says where its files are.
    ///
    /// # Errors
    /// No such volume; the kernel refuses to mount what the driver's options name.
    pub(crate) fn mount(&self, name: &str, container: &str) -> Result<PathBuf> {
        let lock = self.0.changing.of(name.to_owned());
        let _changing = lock.blocking_lock();
        self.mount_locked(name, container)
    }

    pub(super) fn mount_locked(&self, name: &str, container: &str) -> Result<PathBuf> {
        let record = self.state().get(name).map(|entry| entry.record.clone());
        let record = record.ok_or_else(|| no_such_volume(name))?;
        let path = self.path(name);
        if let Some(options) = &record.options
            && record.has_options()
            && !mounts::is_mount_point(&path).context(|| format!("look at {}", path.display()))?
        {
            driver_options::mount(options, &path).map_err(|error| {
                Error::system(format!("error while mounting volume '{}'", path.display())).because(error)
            })?;
        }
        if let Some(entry) = self.state().get_mut(name) {
            entry.mounted.insert(container.to_owned());
        }
        Ok(path)
    }

    /// A container that an engine before this one started runs on a volume.
    pub(crate) fn adopt(&self, name: &str, container: &str) {
        if let Some(entry) = self.state().get_mut(name) {
            entry.mounted.insert(container.to_owned());
        }
    }

    /// A container runs on its volumes no longer. Returns those that it did run on.
    pub(crate) fn unmount(&self, container: &str) -> Vec<String> {
        let names: Vec<String> = self
            .state()
            .iter()
            .filter(|(_, entry)| entry.mounted.contains(container))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &names {
            let lock = self.0.changing.of(name.clone());
            let _changing = lock.blocking_lock();
            self.unmount_locked(name, container);
        }
        names
    }

    pub(super) fn unmount_locked(&self, name: &str, container: &str) {
        if let Some(entry) = self.state().get_mut(name) {
            entry.mounted.remove(container);
        }
        self.detach_unused(name);
    }

    /// Takes away what an engine before this one mounted and no container runs on. To be called once every
    /// container that runs has said so.
    pub(crate) fn settle(&self) {
        let names: Vec<String> = self.state().keys().cloned().collect();
        for name in names {
            let lock = self.0.changing.of(name.clone());
            let _changing = lock.blocking_lock();
            self.detach_unused(&name);
        }
    }

    fn detach_unused(&self, name: &str) {
        let unused = |entry: &Entry| entry.mounted.is_empty() && entry.record.has_options();
        if !self.state().get(name).is_some_and(unused) {
            return;
        }
        let path = self.path(name);
        if let Err(error) = mounts::detach(&path) {
            tracing::warn!("unmount {}: {error}", path.display());
        }
    }
}
