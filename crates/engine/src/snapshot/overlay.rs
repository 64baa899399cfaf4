use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{Mode, OFlags, Stat, fstat, open, stat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen, mount,
    },
};
use serde::{Deserialize, Serialize};
use wire::docker::container::GraphDriver;

use super::{
    diff::{Change, Diff},
    layers::{LayerId, Layers, copy_root_attributes},
    tree,
    view::{View, bind},
};
use crate::{
    error::{Context, Error, Kind, Result},
    mounts, store,
    userns::{Owners, Userns},
};

/// The longest string that `fsconfig` takes, in bytes.
const MAX_PARAMETER: usize = 255;
/// As Docker's driver sets them up: the upper directory holds all that a container changed, in a form
/// that a layer can be made of.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

/// Containers' writable layers. Clones share them.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `containers-fs` under the data root.
    directory: PathBuf,
    /// Where roots are mounted.
    mounts: PathBuf,
    layers: Layers,
    /// Its lock also keeps mounts and unmounts apart.
    known: Mutex<HashMap<String, Known>>,
    counter: AtomicU64,
}

/// A snapshot that is there.
#[derive(Debug)]
struct Known {
    /// What it stands on, bottom first.
    layers: Vec<LayerId>,
    /// Its root is mounted for its container.
    used: bool,
    /// How many look at its root. They share the container's mount: the kernel does not say what becomes of
    /// files when two overlays have one upper directory.
    views: usize,
}

/// `snapshot.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Bottom first.
    layers: Vec<LayerId>,
    /// Those of images that are mounted in the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounted: Vec<LayerId>,
}

impl Record {
    /// Every layer that has to stay as long as the snapshot does.
    fn all(&self) -> Vec<LayerId> {
        [self.layers.as_slice(), &self.mounted].concat()
    }
}

impl Snapshots {
    /// Finds the snapshots under `data_root`. Mounts under `exec_root` that an engine before this one
    /// made are kept: containers may run on them; those without a snapshot go.
    ///
    /// # Errors
    /// A directory that cannot be read or made.
    pub fn open(data_root: &Path, exec_root: &Path, layers: Layers) -> Result<Self> {
        let directory = data_root.join("containers-fs");
        let mounts = exec_root.join("rootfs");
        let making = directory.join(".tmp");
        fs::create_dir_all(&directory).context(|| format!("create {}", directory.display()))?;
        tree::sweep(&making).context(|| format!("sweep {}", making.display()))?;
        for path in [&directory.join(".empty"), &mounts] {
            fs::create_dir_all(path).context(|| format!("create {}", path.display()))?;
        }
        let mut known = HashMap::new();
        for id in names(&directory)? {
            let path = directory.join(&id).join("snapshot.json");
            match store::read_json::<Record>(&path) {
                Ok(Some(record)) => {
                    if let Err(error) = layers.own(&id, &record.all()) {
                        tracing::error!("the container {id} cannot start any more: {error}");
                    }
                    let used = mounts::is_mount_point(&mounts.join(&id)).unwrap_or(false);
                    known.insert(id, Known { layers: record.layers, used, views: 0 });
                }
                Ok(None) => tracing::error!("{} is missing", path.display()),
                Err(error) => tracing::error!("{error}"),
            }
        }
        for id in names(&mounts)? {
            if !known.contains_key(&id) {
                let path = mounts.join(&id);
                detach(&path).context(|| format!("unmount {}", path.display()))?;
            }
        }
        Ok(Self(Arc::new(Inner {
            directory,
            mounts,
            layers,
            known: Mutex::new(known),
            counter: AtomicU64::new(0),
        })))
    }

    /// The containers that have a snapshot.
    pub fn ids(&self) -> Vec<String> {
        self.known().keys().cloned().collect()
    }

    /// Makes an empty writable layer on top of `image_layers` (bottom first) for the container `id`. The
    /// layers of images that are `mounted` in it stay as long as it does, too.
    ///
    /// It survives a power cut once something later was synced on the same file system, such as the
    /// container's own record.
    ///
    /// # Errors
    /// A layer that does not exist; a snapshot that does already.
    pub fn create(&self, id: &str, image_layers: &[LayerId], mounted: &[LayerId]) -> Result<()> {
        let inner = &self.0;
        let record = Record { layers: image_layers.to_vec(), mounted: mounted.to_vec() };
        let mut known = self.known();
        if known.contains_key(id) {
            return Err(Error::conflict(format!("the container {id} has a file system already")));
        }
        inner.layers.own(id, &record.all())?;
        let made = self.make(id, &record);
        match made {
            Ok(()) => {
                known.insert(id.to_owned(), Known { layers: record.layers, used: false, views: 0 });
            }
            Err(_) => inner.layers.disown(id),
        }
        made
    }

    fn make(&self, id: &str, record: &Record) -> Result<()> {
        let inner = &self.0;
        let making = inner.fresh();
        for directory in [making.clone(), making.join("upper"), making.join("work")] {
            fs::create_dir(&directory).context(|| format!("create {}", directory.display()))?;
        }
        if let Some(top) = record.layers.last() {
            copy_root_attributes(&inner.layers.path(*top), &making.join("upper"))?;
        }
        let path = making.join("snapshot.json");
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            // The name is synced later, by whoever syncs the container's record; content would not be.
            file.sync_data()
        };
        write().context(|| format!("write {}", path.display()))?;
        let place = inner.directory.join(id);
        fs::rename(&making, &place).context(|| format!("create {}", place.display()))
    }

    /// Mounts the container's root, unless it is, and says where: with the owners that are on disk, or
    /// those of `userns`.
    ///
    /// # Errors
    /// No such snapshot; the kernel refuses.
    pub(crate) fn mount(&self, id: &str, userns: Option<&Userns>) -> Result<PathBuf> {
        self.mount_for(id, userns, |known| known.used = true)
    }

    /// [`Snapshots::mount`] for whoever `note` notes.
    fn mount_for(&self, id: &str, userns: Option<&Userns>, note: impl FnOnce(&mut Known)) -> Result<PathBuf> {
        let mut known = self.known();
        let known = known.get_mut(id).ok_or_else(|| no_snapshot(id))?;
        let target = self.0.mounts.join(id);
        let prepared = || -> io::Result<bool> {
            match fs::create_dir(&target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            mounts::is_mount_point(&target)
        };
        if !prepared().context(|| format!("prepare {}", target.display()))? {
            let overlay = self.overlay(id, &known.layers);
            mount_in(userns, overlay, &target).context(|| format!("mount the root of the container {id}"))?;
        }
        note(known);
        Ok(target)
    }

    /// The root of a container whose image has `layers`.
    fn overlay(&self, id: &str, layers: &[LayerId]) -> Overlay {
        let mut lower = self.lower(layers);
        if lower.is_empty() {
            lower.push(self.0.directory.join(".empty"));
        }
        let upper = Upper { directory: self.upper(id), work: self.0.directory.join(id).join("work") };
        Overlay { lower, upper: Some(upper) }
    }

    /// Where layers are, topmost first.
    fn lower(&self, layers: &[LayerId]) -> Vec<PathBuf> {
        layers.iter().rev().map(|layer| self.0.layers.path(*layer)).collect()
    }

    /// The container's root as it is mounted, or would be in `userns`, with what `inside` mounts in it, who
    /// is told whose files its are; nobody else sees these mounts. The container may be started and end
    /// meanwhile, but MUST NOT be removed. Blocks.
    ///
    /// # Errors
    /// No such snapshot, those of `inside`, and what the kernel refuses.
    pub(crate) fn view(
        &self,
        id: &str,
        userns: Option<&Userns>,
        inside: impl FnOnce(BorrowedFd<'_>, Owners) -> Result<()> + Send,
    ) -> Result<RootView> {
        let path = self.mount_for(id, userns, |known| known.views += 1)?;
        let mounted = Mounted { snapshots: self.clone(), id: id.to_owned() };
        let mut owners = Owners::default();
        let view = View::of_mounts(|| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = open(&path, flags, Mode::empty()).context(|| format!("open {}", path.display()))?;
            let owner_of = |stat: Stat| (stat.st_uid, stat.st_gid);
            let stored = stat(self.upper(id)).context(|| format!("look at the root of {id}"))?;
            let shown = fstat(&root).context(|| format!("look at {}", path.display()))?;
            owners = Owners::between(owner_of(stored), owner_of(shown));
            inside(root.as_fd(), owners)?;
            Ok(path)
        })?;
        Ok(RootView { view, owners, _mounted: mounted })
    }

    /// Where the files of an image of `layers` (bottom first) would be mounted by Docker's driver.
    pub(crate) fn image_place(&self, layers: &[LayerId]) -> PathBuf {
        let top = layers.last().map(|top| self.0.layers.path(*top).with_file_name("merged"));
        top.unwrap_or_else(|| self.0.directory.join(".empty"))
    }

    /// Mounts the files of an image of `layers` (bottom first) at `target`, not to be written to by anyone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn mount_image(
        &self,
        layers: &[LayerId],
        userns: Option<&Userns>,
        target: &Path,
    ) -> Result<()> {
        let mut lower = self.lower(layers);
        let empty = self.0.directory.join(".empty");
        let mount = || match lower.len() {
            0 => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                bind(&empty, open(target, flags, Mode::empty())?.as_fd(), true, false)
            }
            count => {
                // The kernel wants two at least.
                lower.extend((count == 1).then_some(empty));
                mount_in(userns, Overlay { lower, upper: None }, target)
            }
        };
        mount().context(|| format!("mount an image at {}", target.display()))
    }

    /// The root of the container's image, not to be written to. Blocks.
    fn image_view(&self, id: &str) -> Result<View> {
        let layers = self.layers_of(id)?;
        let lower = self.lower(&layers);
        let empty = self.0.directory.join(".empty");
        match lower.as_slice() {
            [] => View::of_directory(&empty),
            [one] => View::of_directory(one),
            _ => View::of_mounts(|| {
                let overlay = Overlay { lower, upper: None };
                overlay.mount(&empty).context(|| format!("mount the image of the container {id}"))?;
                Ok(empty)
            }),
        }
    }

    /// What the container changed: absolute paths, each directory before what is in it. Blocks.
    ///
    /// # Errors
    /// No such snapshot; files that cannot be read; more changes than fit in memory.
    pub(crate) fn changes(&self, id: &str) -> Result<Vec<(Vec<u8>, Change)>> {
        self.diff(id, |diff| diff.changes())
    }

    /// Writes what the container changed as a layer on top of its image's; returns whether that is
    /// anything. Blocks.
    ///
    /// # Errors
    /// No such snapshot; files that cannot be read; `sink` cannot be written.
    pub(crate) fn write_layer(&self, id: &str, sink: impl Write) -> Result<bool> {
        self.diff(id, |diff| diff.write_layer(sink))
    }

    fn diff<T>(&self, id: &str, run: impl FnOnce(&Diff<'_>) -> io::Result<T>) -> Result<T> {
        let image = self.image_view(id)?;
        let upper = View::of_directory(&self.upper(id))?;
        let diff = Diff { upper: upper.root(), image: image.root() };
        run(&diff).context(|| format!("look for what the container {id} changed"))
    }

    fn layers_of(&self, id: &str) -> Result<Vec<LayerId>> {
        self.known().get(id).map(|known| known.layers.clone()).ok_or_else(|| no_snapshot(id))
    }

    /// Unmounts the container's root, if it is mounted: at once, or when nobody looks at it any more.
    /// Processes that still use it keep it alive.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn unmount(&self, id: &str) -> Result<()> {
        self.unmount_for(id, |known| known.used = false)
    }

    fn unmount_for(&self, id: &str, note: impl FnOnce(&mut Known)) -> Result<()> {
        let mut known = self.known();
        if let Some(known) = known.get_mut(id) {
            note(known);
            if known.used || known.views > 0 {
                return Ok(());
            }
        }
        let target = self.0.mounts.join(id);
        detach(&target).context(|| format!("unmount {}", target.display()))
    }

    /// Removes the container's writable layer and its mount, if there is any. Done half, it is finished
    /// when the engine starts again. Blocks as long as the files are many.
    ///
    /// # Errors
    /// The kernel refuses to unmount or to remove.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.unmount(id)?;
        let inner = &self.0;
        let place = inner.directory.join(id);
        let trash = inner.fresh();
        {
            let mut known = self.known();
            match fs::rename(&place, &trash) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.context(|| format!("remove {}", place.display()))?,
            }
            known.remove(id);
            inner.layers.disown(id);
        }
        tree::remove_tree(&trash).context(|| format!("remove {}", trash.display()))
    }

    /// The directory that holds what the container changed.
    pub fn upper(&self, id: &str) -> PathBuf {
        self.0.directory.join(id).join("upper")
    }

    /// Bytes of files that the container changed, and of all its files. Blocks as long as they are many.
    ///
    /// # Errors
    /// No such snapshot; files that cannot be read.
    pub fn size(&self, id: &str) -> Result<(u64, u64)> {
        let layers = self.layers_of(id)?;
        let upper = self.upper(id);
        let changed = tree::disk_usage(&upper).context(|| format!("measure {}", upper.display()))?;
        let below: u64 =
            layers.iter().filter_map(|layer| self.0.layers.get(*layer)).map(|layer| layer.size).sum();
        Ok((changed, changed.saturating_add(below)))
    }

    /// Where the container's file system is, in the words of Docker's driver.
    pub fn graph_driver(&self, id: &str) -> GraphDriver {
        let layers = self.layers_of(id).unwrap_or_default();
        let place = self.0.directory.join(id);
        let mut data = driver_data(
            &self.0.layers,
            &layers,
            &self.0.mounts.join(id),
            &place.join("upper"),
            &place.join("work"),
        );
        data.insert("ID".to_owned(), id.to_owned());
        GraphDriver { data: Some(data), name: DRIVER.to_owned() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Snapshots::view`] shows.
#[derive(Debug)]
pub(crate) struct RootView {
    view: View,
    owners: Owners,
    _mounted: Mounted,
}

impl RootView {
    /// The root directory, open as a place.
    pub(crate) fn root(&self) -> &OwnedFd {
        self.view.root()
    }

    /// Whose files are whose.
    pub(crate) fn owners(&self) -> Owners {
        self.owners
    }
}

/// Keeps a container's root mounted for a view.
#[derive(Debug)]
struct Mounted {
    snapshots: Snapshots,
    id: String,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = self.snapshots.unmount_for(&self.id, |known| known.views -= 1);
        if let Err(error) = unmounted {
            tracing::warn!(container = self.id, "{error}");
        }
    }
}

/// What Docker calls a driver that keeps layers as these are kept.
const DRIVER: &str = "overlay2";

impl Layers {
    /// Where an image's layers (bottom first) are, in the words of Docker's driver.
    pub fn graph_driver(&self, layers: &[LayerId]) -> GraphDriver {
        let Some((top, below)) = layers.split_last() else {
            return GraphDriver { data: None, name: DRIVER.to_owned() };
        };
        let place = self.path(*top);
        let beside = |name| place.with_file_name(name);
        let data = driver_data(self, below, &beside("merged"), &place, &beside("work"));
        GraphDriver { data: Some(data), name: DRIVER.to_owned() }
    }
}

fn driver_data(
    layers: &Layers,
    below: &[LayerId],
    merged: &Path,
    upper: &Path,
    work: &Path,
) -> BTreeMap<String, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut data = BTreeMap::from([
        ("MergedDir".to_owned(), text(merged)),
        ("UpperDir".to_owned(), text(upper)),
        ("WorkDir".to_owned(), text(work)),
    ]);
    if !below.is_empty() {
        let lower: Vec<String> = below.iter().rev().map(|layer| text(&layers.path(*layer))).collect();
        data.insert("LowerDir".to_owned(), lower.join(":"));
    }
    data
}

impl Inner {
    fn fresh(&self) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.directory.join(".tmp").join(number.to_string())
    }
}

/// An overlay about to be mounted.
struct Overlay {
    /// Topmost first.
    lower: Vec<PathBuf>,
    /// None for what is only read.
    upper: Option<Upper>,
}

struct Upper {
    directory: PathBuf,
    work: PathBuf,
}

/// Mounts an overlay with the owners that are on disk, or those of `userns`.
fn mount_in(userns: Option<&Userns>, mut overlay: Overlay, target: &Path) -> io::Result<()> {
    let Some(userns) = userns else { return overlay.mount(target) };
    overlay.remap(userns);
    // What the kernel makes for the overlay, it makes as whoever mounts it.
    userns.remap.owners().as_root(|| overlay.mount(target))?
}

impl Overlay {
    fn remap(&mut self, userns: &Userns) {
        let upper = self.upper.iter_mut().flat_map(|upper| [&mut upper.directory, &mut upper.work]);
        for path in self.lower.iter_mut().chain(upper) {
            *path = userns.path(path);
        }
    }

    fn mount(&self, target: &Path) -> io::Result<()> {
        match self.mount_by_steps(target) {
            // Linux before 6.7 does not know `lowerdir+`, before 5.2 nothing of this.
            Err(Errno::INVAL | Errno::NOSYS) => self.mount_at_once(target),
            result => Ok(result?),
        }
    }

    /// One parameter per layer, so that their number has no other limit than the kernel's own 500.
    fn mount_by_steps(&self, target: &Path) -> Result<(), Errno> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", "overlay")?;
        for lower in &self.lower {
            if lower.as_os_str().len() > MAX_PARAMETER {
                return Err(Errno::INVAL);
            }
            fsconfig_set_string(&context, "lowerdir+", lower)?;
        }
        if let Some(upper) = &self.upper {
            fsconfig_set_string(&context, "upperdir", &upper.directory)?;
            fsconfig_set_string(&context, "workdir", &upper.work)?;
        }
        for (name, value) in OPTIONS {
            fsconfig_set_string(&context, name, value)?;
        }
        fsconfig_create(&context)?;
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        mounts::attach_at(&mounted, target)
    }

    /// Everything in one page of options; open directories make short names.
    fn mount_at_once(&self, target: &Path) -> io::Result<()> {
        let opened = |path: &PathBuf| -> io::Result<_> {
            Ok(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
        };
        let lower = self.lower.iter().map(opened).collect::<io::Result<Vec<_>>>()?;
        let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
        let names: Vec<String> = lower.iter().map(name).collect();
        let mut data = format!("lowerdir={}", names.join(":"));
        let upper = match &self.upper {
            Some(upper) => Some((opened(&upper.directory)?, opened(&upper.work)?)),
            None => None,
        };
        if let Some((upper, work)) = &upper {
            data.push_str(&format!(",upperdir={},workdir={}", name(upper), name(work)));
        }
        for (name, value) in OPTIONS {
            data.push_str(&format!(",{name}={value}"));
        }
        let data = std::ffi::CString::new(data)?;
        Ok(mount("overlay", target, "overlay", MountFlags::empty(), Some(data.as_c_str()))?)
    }
}

/// Takes away whatever is mounted on `target`, and `target`.
fn detach(target: &Path) -> io::Result<()> {
    mounts::detach(target)?;
    match fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn no_snapshot(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("the container {id} has no file system"))
}

/// The names in a directory, without those that begin with a dot.
fn names(directory: &Path) -> Result<Vec<String>> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            if let Ok(name) = entry?.file_name().into_string()
                && !name.starts_with('.')
            {
                names.push(name);
            }
        }
        Ok(names)
    };
    read().context(|| format!("read {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};

    use rustix::{
        mount::{MountPropagationFlags, mount_change},
        thread::{UnshareFlags, unshare_unsafe},
    };

    use super::*;
    use crate::snapshot::{
        Digest, NewLayer,
        layers::Blob,
        testing::{Archive, is_root},
    };

    /// Runs `test` on a thread with mounts of its own, which end with it.
    fn with_own_mounts(name: &str, test: impl FnOnce() + Send + 'static) {
        if !is_root(name) {
            return;
        }
        let run = move || {
            // SAFETY: the thread shares no state that a mount namespace of its own could surprise: it
            // uses absolute paths only.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            test();
        };
        std::thread::spawn(run).join().unwrap();
    }

    fn unpack(layers: &Layers, below: &[LayerId], archive: Archive) -> LayerId {
        let archive = archive.finish();
        let (diff_id, size) = (Digest::of(&archive), archive.len() as u64);
        let blob = Blob { media_type: "layer".to_owned(), digest: diff_id, size };
        let new = NewLayer { below: below.to_vec(), diff_id, blob };
        layers.unpack(&new, &archive[..]).unwrap().id
    }

    fn open_all(root: &Path) -> (Layers, Snapshots) {
        let layers = Layers::open(root).unwrap();
        let snapshots = Snapshots::open(root, &root.join("exec"), layers.clone()).unwrap();
        (layers, snapshots)
    }

    #[test]
    fn a_container_sees_its_layers_merged() {
        with_own_mounts("a_container_sees_its_layers_merged", || {
            let root = tempfile::tempdir().unwrap();
            let (layers, snapshots) = open_all(root.path());
            let bottom = Archive::default()
                .directory("./")
                .file("etc/kept", b"kept")
                .file("etc/gone", b"gone")
                .file("dir/old", b"old");
            let top = Archive::default()
                .file("etc/.wh.gone", b"")
                .directory("dir/")
                .file("dir/.wh..wh..opq", b"")
                .file("dir/new", b"new!");
            let bottom = unpack(&layers, &[], bottom);
            let top = unpack(&layers, &[bottom], top);
            let name = |path: &Path| path.to_string_lossy().into_owned();
            fs::set_permissions(layers.path(top), fs::Permissions::from_mode(0o711)).unwrap();
            snapshots.create("c1", &[bottom, top], &[]).unwrap();
            let merged = snapshots.mount("c1", None).unwrap();
            assert_eq!(snapshots.mount("c1", None).unwrap(), merged);
            assert_eq!(fs::read_to_string(merged.join("etc/kept")).unwrap(), "kept");
            assert!(!merged.join("etc/gone").exists());
            let listed: Vec<_> =
                fs::read_dir(merged.join("dir")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(listed, ["new"]);
            assert_eq!(fs::metadata(&merged).unwrap().permissions().mode() & 0o7777, 0o711);
            fs::write(merged.join("written"), "12345").unwrap();
            fs::remove_file(merged.join("etc/kept")).unwrap();
            assert!(
                snapshots
                    .upper("c1")
                    .join("etc/kept")
                    .symlink_metadata()
                    .unwrap()
                    .file_type()
                    .is_char_device()
            );
            assert_eq!(snapshots.size("c1").unwrap(), (5, 5 + 11 + 4));
            let data = snapshots.graph_driver("c1").data.unwrap();
            assert_eq!(
                data["LowerDir"],
                format!("{}:{}", name(&layers.path(top)), name(&layers.path(bottom)))
            );
            assert_eq!(data["MergedDir"], name(&merged));
            snapshots.unmount("c1").unwrap();
            snapshots.unmount("c1").unwrap();
            assert!(!merged.exists());
            // What was written is there the next time.
            let merged = snapshots.mount("c1", None).unwrap();
            assert_eq!(fs::read_to_string(merged.join("written")).unwrap(), "12345");
            snapshots.remove("c1").unwrap();
            snapshots.remove("c1").unwrap();
            assert!(snapshots.mount("c1", None).is_err());
        });
    }

    #[test]
    fn many_layers_and_none_can_be_mounted() {
        with_own_mounts("many_layers_and_none_can_be_mounted", || {
            let root = tempfile::tempdir().unwrap();
            let (layers, snapshots) = open_all(root.path());
            let mut chain = Vec::new();
            for number in 0..130 {
                let name = format!("layer{number}");
                let id = unpack(&layers, &chain, Archive::default().file(&name, b""));
                chain.push(id);
            }
            snapshots.create("many", &chain, &[]).unwrap();
            let merged = snapshots.mount("many", None).unwrap();
            assert_eq!(fs::read_dir(merged).unwrap().count(), 130);
            snapshots.remove("many").unwrap();
            // The same by the older system call, of which fewer fit.
            let target = root.path().join("target");
            fs::create_dir(&target).unwrap();
            for directory in ["upper", "work"] {
                fs::create_dir(root.path().join(directory)).unwrap();
            }
            let overlay = Overlay {
                lower: chain.iter().map(|id| layers.path(*id)).collect(),
                upper: Some(Upper { directory: root.path().join("upper"), work: root.path().join("work") }),
            };
            overlay.mount_at_once(&target).unwrap();
            assert_eq!(fs::read_dir(&target).unwrap().count(), 130);
            detach(&target).unwrap();
            snapshots.create("none", &[], &[]).unwrap();
            let merged = snapshots.mount("none", None).unwrap();
            fs::write(merged.join("first"), "").unwrap();
            snapshots.remove("none").unwrap();
        });
    }

    #[test]
    fn an_engine_that_comes_back_takes_its_mounts_over() {
        with_own_mounts("an_engine_that_comes_back_takes_its_mounts_over", || {
            let root = tempfile::tempdir().unwrap();
            let (layers, snapshots) = open_all(root.path());
            let layer = unpack(&layers, &[], Archive::default().file("a", b"a"));
            for id in ["kept", "lost"] {
                snapshots.create(id, &[layer], &[]).unwrap();
                let merged = snapshots.mount(id, None).unwrap();
                fs::write(merged.join("state"), id).unwrap();
            }
            drop((layers, snapshots));
            // The second one was being removed when the engine was killed.
            let fs_root = root.path().join("containers-fs");
            fs::rename(fs_root.join("lost"), fs_root.join(".tmp/9")).unwrap();
            let (layers, snapshots) = open_all(root.path());
            assert_eq!(snapshots.ids(), ["kept"]);
            let mounts = root.path().join("exec/rootfs");
            assert!(mounts::is_mount_point(&mounts.join("kept")).unwrap());
            assert!(!mounts.join("lost").exists());
            assert_eq!(fs::read_dir(fs_root.join(".tmp")).unwrap().count(), 0);
            // The layer is known to be used.
            assert_eq!(layers.collect(&std::collections::HashSet::new()).unwrap().len(), 0);
            snapshots.remove("kept").unwrap();
            assert_eq!(layers.collect(&std::collections::HashSet::new()).unwrap().len(), 1);
        });
    }

    #[test]
    fn a_view_is_seen_by_its_holder_only() {
        with_own_mounts("a_view_is_seen_by_its_holder_only", || {
            let root = tempfile::tempdir().unwrap();
            let (layers, snapshots) = open_all(root.path());
            let bottom = unpack(&layers, &[], Archive::default().file("a", b"a").directory("vol/"));
            let top = unpack(&layers, &[bottom], Archive::default().file("b", b"b"));
            snapshots.create("c1", &[bottom, top], &[]).unwrap();
            let volume = tempfile::tempdir().unwrap();
            fs::write(volume.path().join("file"), "volume").unwrap();
            let mounts = || fs::read_to_string("/proc/thread-self/mounts").unwrap();
            let before = mounts();
            let view = snapshots
                .view("c1", None, |root, _| {
                    let place = rustix::fs::openat(root, "vol", OFlags::PATH, Mode::empty()).unwrap();
                    super::super::bind(volume.path(), place.as_fd(), true, true).unwrap();
                    Ok(())
                })
                .unwrap();
            // What is mounted in it is the holder's alone.
            assert_eq!(mounts().lines().count(), before.lines().count() + 1);
            assert!(!root.path().join("exec/rootfs/c1/vol/file").exists());
            let path = PathBuf::from(format!("/proc/self/fd/{}", view.root().as_raw_fd()));
            assert_eq!(fs::read_to_string(path.join("b")).unwrap(), "b");
            assert_eq!(fs::read_to_string(path.join("vol/file")).unwrap(), "volume");
            let refused = fs::write(path.join("vol/new"), "").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
            fs::write(path.join("new"), "new").unwrap();
            fs::remove_file(path.join("a")).unwrap();
            drop(view);
            assert_eq!(mounts(), before);
            assert_eq!(fs::read_to_string(snapshots.upper("c1").join("new")).unwrap(), "new");
            let changes = snapshots.changes("c1").unwrap();
            assert_eq!(changes, [(b"/a".to_vec(), Change::Deleted), (b"/new".to_vec(), Change::Added)]);
            // The same through the mount of a container that runs.
            let merged = snapshots.mount("c1", None).unwrap();
            let view = snapshots.view("c1", None, |_, _| Ok(())).unwrap();
            let path = PathBuf::from(format!("/proc/self/fd/{}", view.root().as_raw_fd()));
            fs::write(path.join("live"), "").unwrap();
            assert!(merged.join("live").exists());
            // It may end, and start again on the same mount, as long as there is a view.
            snapshots.unmount("c1").unwrap();
            assert!(merged.join("live").exists());
            snapshots.mount("c1", None).unwrap();
            drop(view);
            assert!(merged.join("live").exists());
            let view = snapshots.view("c1", None, |_, _| Ok(())).unwrap();
            snapshots.unmount("c1").unwrap();
            drop(view);
            assert_eq!(mounts(), before);
            snapshots.mount("c1", None).unwrap();
            snapshots.remove("c1").unwrap();
            assert_eq!(mounts(), before);
            assert!(snapshots.view("c1", None, |_, _| Ok(())).is_err());
        });
    }

    #[test]
    fn a_snapshot_needs_its_layers() {
        let root = tempfile::tempdir().unwrap();
        let (_, snapshots) = open_all(root.path());
        let missing = LayerId::new(None, Digest::of(b"missing"));
        let error = snapshots.create("c1", &[missing], &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        snapshots.create("c1", &[], &[]).unwrap();
        assert_eq!(snapshots.create("c1", &[], &[]).unwrap_err().kind(), Kind::Conflict);
    }
}
