//! Volumes: directories that outlive the containers that use them.
//!
//! On disk, under the data root: `volumes/<name>/{_data/,volume.json}`. What is being made or removed lies
//! in `volumes/.tmp` and is swept when the engine starts; a volume is there when its directory has its
//! name.
//!
//! Which containers have a volume is theirs to tell: their records are on disk, and they say so again when
//! the engine starts (`Volumes::keep`). A volume that a container has is not removed.

/// `GET`, `HEAD` and `PUT /volumes/{name}/archive`, `GET /volumes/{name}/files`.
mod copy;
/// What `local`'s options mean.
mod driver_options;
/// The first content.
mod fill;
/// `GET /volumes`, `GET /volumes/{name}`.
mod list;
/// Volumes that containers run on.
mod mount;
/// Parts of volumes.
mod part;
/// `DELETE /volumes/{name}`, `POST /volumes/prune`.
mod remove;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

pub(crate) use list::LIST_FILTERS;
pub(crate) use part::{Parts, check as check_subpath};
pub(crate) use remove::PRUNE_FILTERS;

use crate::{
    container::random_id,
    error::{Context, Error, Kind, Result, errno_text},
    events::Events,
    snapshot::{self, Keyed},
    store::{self, Durability},
};

/// The only driver.
pub(crate) const DRIVER: &str = "local";
/// The label of volumes that nobody has given a name.
pub(crate) const ANONYMOUS: &str = "com.docker.volume.anonymous";
/// The directory of a volume's files in the volume's own.
const DATA: &str = "_data";
/// The longest name, in bytes: it is a directory's.
const MAX_NAME: usize = 255;

/// Labels, or a driver's options.
pub(crate) type Words = BTreeMap<String, String>;

/// The engine's volumes. Clones share them.
///
/// Functions that reach the disk block; they MUST NOT be called on the runtime's own threads.
#[derive(Debug, Clone)]
pub(crate) struct Volumes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    events: Events,
    state: Mutex<BTreeMap<String, Entry>>,
    /// Held by whoever makes, fills, mounts or removes the volume of a name.
    changing: Keyed<String>,
    counter: AtomicU64,
    pruning: AtomicBool,
}

/// A volume that is there.
#[derive(Debug)]
struct Entry {
    record: Arc<Record>,
    /// The containers that have it.
    users: BTreeSet<String>,
    /// Those that run on it.
    mounted: BTreeSet<String>,
}

/// `volume.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    #[serde(with = "time::serde::rfc3339")]
    created: OffsetDateTime,
    labels: Option<Words>,
    /// The driver's.
    options: Option<Words>,
}

impl Record {
    fn has_options(&self) -> bool {
        self.options.as_ref().is_some_and(|options| !options.is_empty())
    }
}

/// A volume that is asked for: one that is there, or one to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct New {
    /// Empty for one of its own, with a name made up.
    pub(crate) name: String,
    /// Empty for the default.
    pub(crate) driver: String,
    pub(crate) labels: Option<Words>,
    /// The driver's.
    pub(crate) options: Option<Words>,
}

impl Volumes {
    /// Finds the volumes under `data_root`. No container has any of them yet.
    ///
    /// # Errors
    /// A directory that cannot be read or made. A damaged volume is logged and left alone.
    pub(crate) fn open(data_root: &Path, events: Events) -> Result<Self> {
        let root = data_root.join("volumes");
        fs::create_dir_all(&root).context(|| format!("create {}", root.display()))?;
        let making = root.join(".tmp");
        snapshot::sweep(&making).context(|| format!("sweep {}", making.display()))?;
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&root).context(|| format!("read {}", root.display()))? {
            let entry = entry.context(|| format!("read {}", root.display()))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if check_name(&name).is_err() {
                continue;
            }
            match load(&entry.path()) {
                Ok(Some(record)) => {
                    let record = Arc::new(record);
                    found.insert(name, Entry { record, users: BTreeSet::new(), mounted: BTreeSet::new() });
                }
                Ok(None) => tracing::warn!("{} is no volume, and left alone", entry.path().display()),
                Err(error) => tracing::error!("a volume is damaged, and left alone: {error}"),
            }
        }
        Ok(Self(Arc::new(Inner {
            root,
            events,
            state: Mutex::new(found),
            changing: Keyed::default(),
            counter: AtomicU64::new(0),
            pruning: AtomicBool::new(false),
        })))
    }

    /// Where a volume's files are.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.root.join(name).join(DATA)
    }

    /// Makes a volume unless it is there, and returns its name. It is on the disk then.
    ///
    /// # Errors
    /// Names, drivers and options that make no sense, in Docker's words.
    pub(crate) fn create(&self, new: New) -> Result<String> {
        self.make(new, None)
    }

    /// [`Volumes::create`] for a container, which has it from then on.
    ///
    /// # Errors
    /// As [`Volumes::create`].
    pub(crate) fn acquire(&self, new: New, container: &str) -> Result<String> {
        self.make(new, Some(container))
    }

    fn make(&self, new: New, user: Option<&str>) -> Result<String> {
        let New { mut name, driver, mut labels, options } = new;
        if name.is_empty() {
            name = random_id();
            labels.get_or_insert_default().insert(ANONYMOUS.to_owned(), String::new());
        }
        let refuse = |error: Error| Error::new(error.kind(), format!("create {name}")).because(error);
        check_driver(&driver).map_err(refuse)?;
        let lock = self.0.changing.of(name.clone());
        let _changing = lock.blocking_lock();
        if let Some(entry) = self.state().get_mut(&name) {
            entry.users.extend(user.map(str::to_owned));
            return Ok(name);
        }
        check_name(&name).and_then(|()| driver_options::check(options.as_ref())).map_err(refuse)?;
        let record = Record { created: OffsetDateTime::now_utc(), labels, options };
        self.write(&name, &record).map_err(refuse)?;
        let users = user.map(str::to_owned).into_iter().collect();
        let entry = Entry { record: Arc::new(record), users, mounted: BTreeSet::new() };
        self.state().insert(name.clone(), entry);
        self.emit(&name, "create", []);
        Ok(name)
    }

    /// Makes the directories, and gives them the volume's name when they are whole.
    fn write(&self, name: &str, record: &Record) -> Result<()> {
        let making = self.fresh();
        let data = making.join(DATA);
        let place = self.0.root.join(name);
        let made = fs::create_dir_all(&data)
            .context(|| format!("create {}", data.display()))
            .and_then(|()| store::write_json(&making.join("volume.json"), record, Durability::Synced))
            .and_then(|()| fs::rename(&making, &place).context(|| format!("create {}", place.display())));
        if made.is_err() {
            self.discard(&making);
        }
        made?;
        store::sync_directory(&self.0.root).context(|| format!("sync {}", self.0.root.display()))
    }

    /// Fills a volume that is empty, or the part of it that `subpath` names, with what `root`, a container's
    /// root, has at `destination`.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when there is something else than a directory; no
    /// such volume; a part that is not in it; the disk's.
    pub(crate) fn fill(
        &self,
        name: &str,
        subpath: &str,
        container: &str,
        root: &Path,
        destination: &str,
    ) -> Result<()> {
        let source = match fill::source(root, destination) {
            // The volume stays as it is.
            Ok(None) => return Ok(()),
            Ok(Some(source)) => source,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                let place = root.join(destination.trim_start_matches('/'));
                return Err(Error::conflict(format!("source {} is not directory", place.display())));
            }
            Err(error) => return Err(error).context(|| format!("look at {destination} in the image")),
        };
        let lock = self.0.changing.of(name.to_owned());
        let _changing = lock.blocking_lock();
        let path = self.mount_locked(name, container)?;
        let what = || format!("fill the volume for {destination}");
        let filled = if subpath.is_empty() {
            self.fill_locked(name, &path, &source).context(what)
        } else {
            fill_part(&path, subpath, &source)
        };
        self.unmount_locked(name, container);
        filled
    }

    fn fill_locked(&self, name: &str, path: &Path, source: &OwnedFd) -> io::Result<()> {
        if fs::read_dir(path)?.next().is_some() {
            return Ok(());
        }
        // Whoever runs on it holds the directory itself; otherwise it is replaced by one that is whole,
        // so that a crash leaves no half of it.
        let alone = self
            .state()
            .get(name)
            .is_some_and(|entry| entry.mounted.len() <= 1 && !entry.record.has_options());
        if !alone {
            return fill::fill(source, path);
        }
        let to = self.fresh();
        let filled = fs::create_dir_all(&to)
            .and_then(|()| fill::fill(source, &to))
            .and_then(|()| fs::rename(&to, path));
        if filled.is_err() {
            self.discard(&to);
        }
        filled
    }

    /// Removes what was not finished, or is not needed any more. What cannot be removed goes with the
    /// engine's next start.
    fn discard(&self, path: &Path) {
        if let Err(error) = snapshot::remove_tree(path) {
            tracing::warn!("remove {}: {error}", path.display());
        }
    }

    /// A container has a volume that is there.
    ///
    /// # Errors
    /// No such volume.
    pub(crate) fn keep(&self, name: &str, container: &str) -> Result<()> {
        let mut state = self.state();
        let entry = state.get_mut(name).ok_or_else(|| remove::no_such_volume(name))?;
        entry.users.insert(container.to_owned());
        Ok(())
    }

    /// A container has its volumes no longer.
    pub(crate) fn release(&self, container: &str) {
        for entry in self.state().values_mut() {
            entry.users.remove(container);
        }
    }

    /// A path for what is being made or removed.
    fn fresh(&self) -> PathBuf {
        let number = self.0.counter.fetch_add(1, Ordering::Relaxed);
        self.0.root.join(".tmp").join(number.to_string())
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happened to a volume, with `attributes` beside its driver.
    pub(crate) fn emit<const N: usize>(&self, name: &str, action: &str, attributes: [(&str, &str); N]) {
        let all = [("driver", DRIVER)].into_iter().chain(attributes);
        self.0.events.emit("volume", action, name, all);
    }
}

/// Fills a part of the volume at `path`, if it is there and empty.
fn fill_part(path: &Path, subpath: &str, source: &OwnedFd) -> Result<()> {
    let failed = |error: Error| Error::new(error.kind(), "failed to populate volume").because(error);
    let part = match part::open(path, subpath) {
        // The start tells.
        Err(error) if error.kind() == Kind::NotFound => return Ok(()),
        part => part.map_err(failed)?,
    };
    let place = PathBuf::from(format!("/proc/self/fd/{}", part.as_raw_fd()));
    // Whoever runs on the volume may hold the directory itself, so that it cannot be replaced by one that is
    // whole: as in Docker, a crash may leave a half of it.
    let fill = || match fs::read_dir(&place)?.next() {
        Some(_) => Ok(()),
        None => fill::fill(source, &place),
    };
    fill().map_err(|error| {
        let why = Errno::from_io_error(&error).map_or_else(|| error.to_string(), errno_text);
        failed(Error::system(format!("fill {}: {why}", path.join(subpath).display())))
    })
}

/// Reads a volume's record; `None` when the directory is none's.
fn load(directory: &Path) -> Result<Option<Record>> {
    if let Some(record) = store::read_json(&directory.join("volume.json"))? {
        return Ok(Some(record));
    }
    let what = || format!("look at {}", directory.display());
    let data = directory.join(DATA);
    if !data.is_dir() {
        return Ok(None);
    }
    // Its files are there: the rest matters less.
    let created: SystemTime = fs::metadata(&data).and_then(|data| data.modified()).context(what)?;
    Ok(Some(Record { created: created.into(), labels: None, options: None }))
}

fn check_driver(driver: &str) -> Result<()> {
    if matches!(driver, "" | DRIVER) {
        return Ok(());
    }
    Err(Error::not_found(format!("error looking up volume plugin {driver}: plugin {driver:?} not found")))
}

fn check_name(name: &str) -> Result<()> {
    if name.chars().count() == 1 {
        return Err(Error::invalid(
            "volume name is too short, names should be at least two alphanumeric characters",
        ));
    }
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.bytes().all(fits) {
        return Err(Error::invalid(format!(
            "{name:?} includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
             absolute path"
        )));
    }
    if name.len() > MAX_NAME {
        return Err(Error::invalid(format!("a volume's name has at most {MAX_NAME} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> New {
        New { name: name.to_owned(), ..New::default() }
    }

    #[test]
    fn volumes_are_there_again_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let labels = Some(Words::from([("tier".to_owned(), "db".to_owned())]));
        let made = {
            let volumes = Volumes::open(root.path(), Events::default()).unwrap();
            volumes.create(New { labels: labels.clone(), ..named("data") }).unwrap();
            // Once more is no error, and changes nothing.
            volumes.create(named("data")).unwrap();
            let made = volumes.create(New::default()).unwrap();
            // What a crash leaves of one that was being made or removed.
            fs::create_dir_all(root.path().join("volumes/.tmp/77/_data/deep")).unwrap();
            made
        };
        fs::create_dir_all(root.path().join("volumes/found/_data")).unwrap();
        fs::create_dir_all(root.path().join("volumes/junk")).unwrap();
        let volumes = Volumes::open(root.path(), Events::default()).unwrap();
        let state = volumes.state();
        let names: BTreeSet<&str> = state.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["data", "found", made.as_str()]));
        assert_eq!(state["data"].record.labels, labels);
        assert!(state[&made].record.labels.as_ref().unwrap().contains_key(ANONYMOUS));
        assert!(!root.path().join("volumes/.tmp/77").exists());
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(root.path(), Events::default()).unwrap();
        let error = volumes.create(named("../x")).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidParameter);
        assert!(
            error.to_string().starts_with(
                "create ../x: \"../x\" includes invalid characters for a local volume name, only \
                 \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed."
            ),
            "{error}"
        );
        assert!(volumes.create(named("x")).unwrap_err().to_string().contains("is too short"));
        assert!(volumes.create(named(&"x".repeat(300))).is_err());
        let other = New { driver: "nfs".to_owned(), ..named("data") };
        assert_eq!(volumes.create(other).unwrap_err().kind(), Kind::NotFound);
        assert_eq!(fs::read_dir(root.path().join("volumes/.tmp")).unwrap().count(), 0);
    }

    #[test]
    fn only_an_empty_volume_is_filled() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("srv")).unwrap();
        fs::write(root.join("srv/file"), "from the image").unwrap();
        fs::write(root.join("file"), "").unwrap();
        let volumes = Volumes::open(directory.path(), Events::default()).unwrap();
        let name = volumes.acquire(named("data"), "c1").unwrap();
        volumes.fill(&name, "", "c1", &root, "/srv").unwrap();
        assert_eq!(fs::read(volumes.path(&name).join("file")).unwrap(), b"from the image");
        fs::write(volumes.path(&name).join("file"), "changed").unwrap();
        volumes.fill(&name, "", "c1", &root, "/srv").unwrap();
        assert_eq!(fs::read(volumes.path(&name).join("file")).unwrap(), b"changed");
        volumes.acquire(named("other"), "c1").unwrap();
        let error = volumes.fill("other", "", "c1", &root, "/file").unwrap_err().to_string();
        assert_eq!(error, format!("source {}/file is not directory", root.display()));
    }
}
