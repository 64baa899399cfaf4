//! Containers: one `Container` each, found through the registry `Containers`.
//!
//! Who changes a container's state holds its `changing` lock; who only looks never waits for it. The
//! state itself is a watch value, so that waiting for a change is waiting for the value.

mod attach;
/// `diff` and `export`.
mod changes;
mod commit;
/// `docker cp`.
pub(crate) mod copy;
mod create;
mod detach_keys;
mod etc_files;
mod exec;
mod exit;
/// A container's root as files are copied from and to it.
mod files;
mod health;
mod health_check;
mod inspect;
mod kill;
/// Names that a container gives to others on the default bridge.
mod links;
mod list;
/// Log files, and reading them.
pub(crate) mod logs;
mod multiplex;
mod names;
/// What a container has of its networks, and what it wants.
mod networks;
mod open;
mod pause;
mod prune;
mod record;
mod remove;
mod rename;
mod resize;
mod restart_policy;
mod shutdown;
mod signals;
mod start;
mod state;
mod stats;
mod stop;
/// Standard streams of running processes.
mod streams;
#[cfg(test)]
mod testing;
mod top;
mod update;
mod volumes;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, watch};

pub(crate) use attach::AttachRequest;
pub(crate) use commit::Commit;
pub(crate) use copy::Extract;
pub(crate) use detach_keys::DetachKeys;
pub(crate) use exec::ExecStart;
pub(crate) use list::{LIST_FILTERS, ListQuery};
pub(crate) use logs::LogQuery;
pub(crate) use names::random_id;
pub(crate) use prune::{PRUNE_FILTERS, parse_until};
pub(crate) use remove::RemoveOptions;
pub(crate) use stop::StopOptions;
pub(crate) use wait::Condition;

use crate::{
    error::{Error, Result},
    events::Events,
    image::Images,
    network::Networks,
    runtime::{Runtime, spec::Machine},
    snapshot::Snapshots,
    store::Durability,
    userns::Userns,
    volume::{Parts, Volumes},
};
use exec::Exec;
use logs::LogFile;
use record::Record;
use restart_policy::Backoff;
use state::State;
use streams::Hub;

/// Every container. Clones share them.
#[derive(Clone)]
pub struct Containers(Arc<Inner>);

struct Inner {
    /// Holds all that the engine keeps.
    data_root: PathBuf,
    /// See [`Config::shares`](crate::Config::shares).
    shares: Option<Vec<PathBuf>>,
    /// Holds a directory per container.
    root: PathBuf,
    /// Holds what a reboot ends.
    exec_root: PathBuf,
    /// Variables that each new container has unless it, or its image, has them already.
    environment: Vec<String>,
    /// This program, for containers with an init.
    program: PathBuf,
    volumes: Volumes,
    networks: Networks,
    parts: Parts,
    images: Images,
    snapshots: Snapshots,
    runtime: Runtime,
    machine: Machine,
    /// For containers whose users are others outside of them.
    userns: Option<Userns>,
    events: Events,
    index: RwLock<Index>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    shutting_down: AtomicBool,
    pruning: AtomicBool,
}

#[derive(Default)]
struct Index {
    by_id: BTreeMap<String, Arc<Container>>,
    /// Id by name. A name is taken before its container is complete.
    names: HashMap<String, String>,
}

/// How many containers there are, for `GET /info`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub total: usize,
    pub running: usize,
    pub paused: usize,
    pub stopped: usize,
}

/// One container.
pub(crate) struct Container {
    id: String,
    directory: PathBuf,
    record: RwLock<Arc<Record>>,
    state: watch::Sender<State>,
    /// Held while the state is being changed.
    changing: tokio::sync::Mutex<()>,
    /// Held for each single change.
    noting: Mutex<()>,
    /// The streams of this run, or of the next one.
    hub: Mutex<Arc<Hub>>,
    log: Option<Arc<LogFile>>,
    restarts: Mutex<Restarts>,
    /// Wakes who waits to start it again.
    restart_cancelled: Notify,
    /// Its execs that have not ended.
    execs: Mutex<BTreeSet<String>>,
    /// Read by whoever looks at its files beside it, written by who removes them: nothing is removed that is
    /// being copied. Taken after `changing` if both are, and never the other way round.
    files: Arc<tokio::sync::RwLock<()>>,
    /// Ends the health checks of this run.
    health_check: Mutex<Option<tokio_util::sync::CancellationToken>>,
}

#[derive(Debug, Default)]
struct Restarts {
    backoff: Backoff,
    /// A user stopped it, or asked for it to end: it is not restarted, until a user starts it.
    cancelled: bool,
    /// A user restarts it: it is not removed at its end, even if it should be.
    keep_once: bool,
}

impl Restarts {
    /// A user starts the container.
    fn begin_anew(&mut self) {
        self.backoff = Backoff::default();
        self.cancelled = false;
    }
}

impl fmt::Debug for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Containers").field("root", &self.0.root).finish_non_exhaustive()
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Container").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Containers {
    /// How many containers there are.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for container in self.index().by_id.values() {
            let state = container.state.borrow();
            counts.total += 1;
            match (state.is_running(), state.is_paused()) {
                (true, true) => counts.paused += 1,
                (true, false) => counts.running += 1,
                (false, _) => counts.stopped += 1,
            }
        }
        counts
    }

    /// A container by id, by name, or by the start of an id that fits one only.
    ///
    /// # Errors
    /// None fits, or several, in Docker's words.
    pub(crate) fn get(&self, name_or_id: &str) -> Result<Arc<Container>> {
        if name_or_id.is_empty() {
            return Err(Error::invalid("invalid name or ID supplied: \"\""));
        }
        let index = self.index();
        if let Some(container) = index.by_id.get(name_or_id) {
            return Ok(container.clone());
        }
        let name = name_or_id.strip_prefix('/').unwrap_or(name_or_id);
        if let Some(container) = index.names.get(name).and_then(|id| index.by_id.get(id)) {
            return Ok(container.clone());
        }
        if let Some(container) = links::linked(&index, name) {
            return Ok(container);
        }
        let mut fitting = index
            .by_id
            .range(name_or_id.to_owned()..)
            .take_while(|(id, _)| id.starts_with(name_or_id))
            .map(|(_, container)| container);
        match (fitting.next(), fitting.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("multiple IDs found with provided prefix: {name_or_id}")))
            }
            (None, _) => Err(no_such_container(name_or_id)),
        }
    }

    /// The user namespace of a container when it starts, if it is not the machine's.
    fn userns_of(&self, record: &Record) -> Option<&Userns> {
        self.0.userns.as_ref().filter(|_| record.host_config.userns_mode != "host")
    }

    /// Every container, in no order that means anything.
    fn all(&self) -> Vec<Arc<Container>> {
        self.index().by_id.values().cloned().collect()
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.0.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.0.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shutting_down(&self) -> bool {
        self.0.shutting_down.load(Ordering::Relaxed)
    }

    /// Takes `name` for the container `id`.
    ///
    /// # Errors
    /// Another container has it, in Docker's words.
    fn reserve_name(&self, name: &str, id: &str) -> Result<()> {
        let mut index = self.index_mut();
        if let Some(owner) = index.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \
                 \"{owner}\". You have to remove (or rename) that container to be able to reuse \
                 that name."
            )));
        }
        index.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    fn release_name(&self, name: &str) {
        self.index_mut().names.remove(name);
    }

    /// Tells what happened to a container, with `attributes` beside those that every event has.
    fn emit(&self, container: &Container, action: &str, attributes: &[(&str, &str)]) {
        let record = container.record();
        let mut all: BTreeMap<String, String> = record.config.labels.clone().unwrap_or_default();
        all.extend(attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        if !record.config.image.is_empty() {
            all.insert("image".to_owned(), record.config.image.clone());
        }
        all.insert("name".to_owned(), record.name.clone());
        self.0.events.emit("container", action, &container.id, all);
    }
}

impl Container {
    fn new(record: Record, state: State, directory: &Path) -> Result<Arc<Self>> {
        let log = logs::open(&record, directory)?.map(Arc::new);
        Ok(Arc::new(Self {
            id: record.id.clone(),
            directory: directory.to_owned(),
            hub: Mutex::new(Hub::new(log.clone())),
            log,
            record: RwLock::new(Arc::new(record)),
            state: watch::Sender::new(state),
            changing: tokio::sync::Mutex::default(),
            noting: Mutex::default(),
            restarts: Mutex::default(),
            restart_cancelled: Notify::new(),
            execs: Mutex::default(),
            health_check: Mutex::default(),
            files: Arc::default(),
        }))
    }

    fn record(&self) -> Arc<Record> {
        self.record.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a changed record, on disk first.
    fn set_record(&self, record: Record) -> Result<()> {
        record.save(&self.directory)?;
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(record);
        Ok(())
    }

    fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Changes the state, tells everyone who waits for it, and keeps it. The disk being full must not
    /// stop a container from ending, so that a failure to keep it is only logged.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        // The disk may be slow: whoever only looks at the state does not wait for it.
        let _alone = self.noting();
        let mut state = self.state();
        let result = change(&mut state);
        self.keep(&state);
        self.state.send_replace(state);
        result
    }

    /// Keeps a state.
    ///
    /// A power cut ends every container. Which of them run again after it, their restart policies tell from
    /// the states on the disk: those must be there. Of all others a power cut loses no more than how they
    /// ended, and their starts need not wait for the disk.
    fn keep(&self, state: &State) {
        let durability = match restart_policy::is_none(&self.record().host_config.restart_policy) {
            true => Durability::Renamed,
            false => Durability::Synced,
        };
        if let Err(error) = streams::blocking(|| record::save_state(&self.directory, state, durability)) {
            tracing::error!(container = self.id, "{error}");
        }
    }

    /// [`Container::change`] for what is not kept, or is already.
    fn note<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _alone = self.noting();
        let mut result = None;
        self.state.send_modify(|state| result = Some(change(state)));
        // `send_modify` calls its argument exactly once.
        result.unwrap_or_else(|| unreachable!())
    }

    fn noting(&self) -> MutexGuard<'_, ()> {
        self.noting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hub(&self) -> Arc<Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts the streams of the next run in the place of those of the run that ended.
    fn renew_hub(&self) -> Arc<Hub> {
        let new = Hub::new(self.log.clone());
        std::mem::replace(&mut *self.hub.lock().unwrap_or_else(PoisonError::into_inner), new)
    }

    fn restarts(&self) -> MutexGuard<'_, Restarts> {
        self.restarts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exec_ids(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_such_container(name: &str) -> Error {
    Error::not_found(format!("No such container: {name}"))
}
