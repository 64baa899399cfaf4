use std::{fs, sync::atomic::Ordering};

use wire::docker::volume::PruneReport;

use super::{ANONYMOUS, Volumes};
use crate::{
    api::filters::Filters,
    error::{Context, Error, Kind, Result},
    mounts, snapshot, store,
};

/// The filters that prune knows.
pub(crate) const PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

impl Volumes {
    /// Removes a volume. With `force`, one that is not there is no error.
    ///
    /// # Errors
    /// No such volume, and containers that have it, in Docker's words.
    pub(crate) fn remove(&self, name: &str, force: bool) -> Result<()> {
        let lock = self.0.changing.of(name.to_owned());
        let changing = lock.blocking_lock();
        let entry = {
            let mut state = self.state();
            match state.get(name) {
                None if force => return Ok(()),
                None => return Err(no_such_volume(name)),
                Some(entry) if !entry.users.is_empty() => {
                    let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
                    let users = users.join(", ");
                    return Err(Error::conflict(format!("remove {name}: volume is in use - [{users}]")));
                }
                Some(_) => {}
            }
            // Nobody finds it from here on; who asks for one of this name waits for `changing`.
            state.remove(name)
        };
        let trash = self.fresh();
        let place = self.0.root.join(name);
        let removed = mounts::detach(&self.path(name))
            .and_then(|()| match fs::rename(&place, &trash) {
                // Somebody has removed the directory by hand.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                renamed => renamed,
            })
            .and_then(|()| store::sync_directory(&self.0.root))
            .context(|| format!("remove {name}"));
        if let Err(error) = removed {
            if let Some(entry) = entry {
                self.state().insert(name.to_owned(), entry);
            }
            return Err(error);
        }
        self.emit(name, "destroy", []);
        drop(changing);
        self.discard(&trash);
        Ok(())
    }

    /// Removes the volumes that no container has: those without a name of their own, or with the filter
    /// `all` every one. One with driver options holds nothing that could be reclaimed, and stays.
    ///
    /// # Errors
    /// A prune that is under way, and filters that make no sense, in Docker's words.
    pub(crate) fn prune(&self, filters: &Filters, all: bool) -> Result<PruneReport> {
        if self.0.pruning.swap(true, Ordering::Acquire) {
            return Err(Error::conflict("a prune operation is already running"));
        }
        let report = self.prune_now(filters, all);
        self.0.pruning.store(false, Ordering::Release);
        report
    }

    fn prune_now(&self, filters: &Filters, all: bool) -> Result<PruneReport> {
        let all = all || filters.flag("all")?.unwrap_or(false);
        let candidates: Vec<String> = self
            .state()
            .iter()
            .filter(|(_, entry)| entry.users.is_empty() && !entry.record.has_options())
            .filter(|(_, entry)| {
                let labels = entry.record.labels.clone().unwrap_or_default();
                let kept = filters.has("label!") && filters.labels("label!", &labels);
                (all || labels.contains_key(ANONYMOUS)) && filters.labels("label", &labels) && !kept
            })
            .map(|(name, _)| name.clone())
            .collect();
        let mut report = PruneReport::default();
        for name in candidates {
            let size = snapshot::disk_usage(&self.path(&name)).unwrap_or_else(|error| {
                tracing::warn!("measure the volume {name}: {error}");
                0
            });
            match self.remove(&name, false) {
                Ok(()) => {
                    report.space_reclaimed = report.space_reclaimed.saturating_add(size);
                    report.volumes_deleted.push(name);
                }
                // Used, or gone meanwhile.
                Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => {}
                Err(error) => tracing::warn!("prune: {error}"),
            }
        }
        let reclaimed = report.space_reclaimed.to_string();
        self.0.events.emit("volume", "prune", "", [("reclaimed", reclaimed)]);
        Ok(report)
    }
}

pub(super) fn no_such_volume(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events::Events, volume::New};

    fn named(name: &str) -> New {
        New { name: name.to_owned(), ..New::default() }
    }

    #[test]
    fn what_a_container_has_stays() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(root.path(), Events::default()).unwrap();
        volumes.acquire(named("data"), "c1").unwrap();
        volumes.acquire(named("data"), "c2").unwrap();
        let error = volumes.remove("data", true).unwrap_err();
        assert_eq!(error.to_string(), "remove data: volume is in use - [c1, c2]");
        volumes.release("c1");
        assert_eq!(volumes.remove("data", false).unwrap_err().kind(), Kind::Conflict);
        volumes.release("c2");
        volumes.remove("data", false).unwrap();
        assert!(!root.path().join("volumes/data").exists());
        assert_eq!(volumes.remove("data", false).unwrap_err().to_string(), "get data: no such volume");
        volumes.remove("data", true).unwrap();
    }

    #[test]
    fn prune_takes_what_nobody_named_or_has() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(root.path(), Events::default()).unwrap();
        let used = volumes.acquire(New::default(), "c1").unwrap();
        let unused = volumes.create(New::default()).unwrap();
        std::fs::write(volumes.path(&unused).join("file"), "12345").unwrap();
        volumes.create(named("data")).unwrap();
        let report = volumes.prune(&Filters::default(), false).unwrap();
        assert_eq!((report.volumes_deleted, report.space_reclaimed), (vec![unused], 5));
        let filters = Filters::parse(Some(r#"{"all":["true"],"label!":["x"]}"#), PRUNE_FILTERS).unwrap();
        assert_eq!(volumes.prune(&filters, false).unwrap().volumes_deleted, ["data"]);
        assert_eq!(volumes.state().keys().collect::<Vec<_>>(), [&used]);
    }
}
