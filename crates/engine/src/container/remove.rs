//! `rm`.

use std::{fs, path::Path, sync::Arc};

use super::{Container, Containers, StopOptions, no_such_container, record::Record, state::State};
use crate::error::{Context, Error, Kind, Result};

/// How to remove.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RemoveOptions {
    /// Kill it if it runs.
    pub(crate) force: bool,
    /// Its volumes without names, too.
    pub(crate) volumes: bool,
    /// Only a link: the name is `parent/alias`.
    pub(crate) link: bool,
}

/// The end of the name of a directory whose container is being removed: whatever happens, the next
/// engine finishes it.
const REMOVED: &str = ".removed";
/// The same, of one whose volumes without names go with it.
const REMOVED_WITH_VOLUMES: &str = ".removed-with-volumes";

/// The container whose removal a directory's name tells of, and whether its volumes go with it.
pub(super) fn begun_removal(name: &str) -> Option<(&str, bool)> {
    let with = name.strip_suffix(REMOVED_WITH_VOLUMES).map(|id| (id, true));
    with.or_else(|| Some((name.strip_suffix(REMOVED)?, false)))
}

/// Seconds that a container has to stop that is being removed and still runs.
const STOP_TIMEOUT: i64 = 3;

impl Containers {
    /// Removes a container.
    ///
    /// # Errors
    /// One that runs (without `force`), and one whose removal is under way, in Docker's words.
    pub(crate) async fn remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        if options.link {
            return self.remove_link(name).await;
        }
        let container = self.get(name)?;
        if !container.note(State::begin_removal) {
            return Err(Error::conflict(format!("removal of container {name} is already in progress")));
        }
        let removed = self.remove_begun(&container, options).await;
        if removed.is_err() && !container.state().is_dead() {
            container.note(State::removal_refused);
        }
        removed.map_err(|error| {
            Error::new(error.kind(), format!("cannot remove container {name:?}")).because(error)
        })
    }

    /// Removes a container that was made to be removed at its end, with its volumes; or one whose removal
    /// failed, of which nobody knows whether its volumes were to go, too.
    pub(super) async fn remove_automatically(&self, container: &Arc<Container>) {
        let volumes = container.record().host_config.auto_remove;
        let options = RemoveOptions { force: true, volumes, link: false };
        match self.remove(&container.id, options).await {
            Ok(()) => {}
            // Somebody was faster.
            Err(_) if container.state().is_leaving() || self.get(&container.id).is_err() => {}
            Err(error) => tracing::error!(container = container.id, "{error}"),
        }
    }

    async fn remove_begun(&self, container: &Arc<Container>, options: RemoveOptions) -> Result<()> {
        if self.get(&container.id).is_err() {
            return Err(no_such_container(&container.id));
        }
        let state = container.state();
        if state.is_running() {
            if !options.force {
                return Err(Error::conflict(if state.is_paused() {
                    "container is paused and must be unpaused first".to_owned()
                } else {
                    let word = state.word();
                    format!("container is {word}: stop the container before removing or force remove")
                }));
            }
            let killed = self.kill_and_wait(container).await;
            if container.state().is_running() {
                killed.map_err(|error| Error::system("could not kill container").because(error))?;
                let options = StopOptions { timeout: Some(STOP_TIMEOUT), ..StopOptions::default() };
                self.stop_now(container, &options).await?;
            }
        }
        let _changing = container.changing.lock().await;
        container.change(State::dead);
        let _no_copies = container.files.write().await;
        let record = container.record();
        let (containers, removing) = (self.clone(), container.clone());
        let removed = crate::blocking(move || containers.erase(&removing, options.volumes)).await;
        if let Err(error) = &removed {
            container.change(|state| state.removal_failed(error.to_string()));
            return removed;
        }
        {
            let mut index = self.index_mut();
            index.by_id.remove(&container.id);
            if index.names.get(&record.name) == Some(&container.id) {
                index.names.remove(&record.name);
            }
        }
        self.execs().retain(|_, exec| exec.container_id() != container.id);
        container.hub().close();
        container.note(State::removed);
        self.emit(container, "destroy", &[]);
        Ok(())
    }

    /// Removes everything of a container from the disk.
    fn erase(&self, container: &Container, volumes: bool) -> Result<()> {
        let record = container.record();
        let end = if volumes { REMOVED_WITH_VOLUMES } else { REMOVED };
        let gone = self.0.root.join(format!("{}{end}", record.id));
        let what = || format!("remove {}", container.directory.display());
        match fs::rename(&container.directory, &gone) {
            // A removal that failed before has come this far.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.context(what)?,
        }
        // From here on it is gone, also after a power cut.
        crate::store::sync_directory(&self.0.root).context(what)?;
        self.0.volumes.release(&record.id);
        if volumes {
            self.remove_volumes(own_volumes(&record));
        }
        self.finish_removal(&record.id, &gone)
    }

    /// Removes volumes that go with a container. Those that another container has stay, and what cannot be
    /// removed harms nobody.
    pub(super) fn remove_volumes<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            match self.0.volumes.remove(name, true) {
                Err(error) if error.kind() != Kind::Conflict => tracing::warn!("{error}"),
                _ => {}
            }
        }
    }

    /// Goes on with a removal that an engine before this one has begun. Every other container has said
    /// which volumes it has.
    pub(super) fn resume_removal(&self, id: &str, volumes: bool, directory: &Path) -> Result<()> {
        if volumes && let Some(record) = Record::load(directory)? {
            self.remove_volumes(own_volumes(&record));
        }
        self.finish_removal(id, directory)
    }

    /// Removes what is left of the container `id`, its directory last.
    pub(super) fn finish_removal(&self, id: &str, directory: &Path) -> Result<()> {
        self.0.snapshots.unmount(id)?;
        self.0.snapshots.remove(id)?;
        crate::snapshot::remove_tree(directory)
            .context(|| format!("unable to remove filesystem: {}", directory.display()))
    }
}

/// The volumes that go with a container: those without a name of their own.
fn own_volumes(record: &Record) -> impl Iterator<Item = &String> {
    record.mounts.iter().filter(|mount| mount.anonymous).map(|mount| &mount.point.name)
}
