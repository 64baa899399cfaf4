use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use rustix::fs::{Mode, OFlags, open, syncfs};
use serde::{Deserialize, Serialize};

use super::{
    Digest, Keyed, Sha256, decompress, tree,
    unpack::{self, unpack},
};
use crate::{
    error::{Context, Error, Kind, Result},
    store::{self, Durability},
};

/// Bytes handed at once from the thread that decompresses to the one that unpacks, and how many of these
/// may wait.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;

/// A layer on top of the layers below it: the OCI image specification's chain ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(Digest);

impl LayerId {
    /// The chain ID of the layer `diff_id` on top of `parent`.
    pub fn new(parent: Option<LayerId>, diff_id: Digest) -> Self {
        match parent {
            None => Self(diff_id),
            Some(parent) => Self(Digest::of(format!("{parent} {diff_id}").as_bytes())),
        }
    }

    /// The chain IDs of an image's layers, bottom first.
    pub fn chain(diff_ids: &[Digest]) -> Vec<LayerId> {
        let mut parent = None;
        diff_ids.iter().map(|diff_id| *parent.insert(LayerId::new(parent, *diff_id))).collect()
    }

    /// The 64 digits, as the layer's directory is called.
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A layer's archive as it came here, in the content store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blob {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// An unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    pub id: LayerId,
    pub parent: Option<LayerId>,
    /// Of the uncompressed archive.
    pub diff_id: Digest,
    pub blob: Blob,
    /// Bytes of its files, unpacked.
    pub size: u64,
}

/// A layer about to be unpacked.
#[derive(Debug, Clone)]
pub(crate) struct NewLayer {
    /// The layers below, bottom first.
    pub(crate) below: Vec<LayerId>,
    pub(crate) diff_id: Digest,
    pub(crate) blob: Blob,
}

impl NewLayer {
    pub(crate) fn id(&self) -> LayerId {
        LayerId::new(self.below.last().copied(), self.diff_id)
    }
}

/// Why a layer's archive could not become a layer.
#[derive(Debug, thiserror::Error)]
enum UnpackError {
    #[error(transparent)]
    Unpack(#[from] unpack::Error),
    #[error("invalid diffID: expected \"{expected}\", got \"{got}\"")]
    Mismatch { expected: Digest, got: Digest },
}

/// The unpacked read-only layers. Clones share them.
#[derive(Debug, Clone)]
pub struct Layers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    state: Mutex<State>,
    /// One unpacking per layer at a time.
    unpacking: Keyed<LayerId>,
    counter: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<LayerId, Arc<Layer>>,
    /// Directories without a readable description: torn by a power cut before they were of use, or
    /// damaged later.
    damaged: HashSet<LayerId>,
    /// Work in progress counts on these.
    held: HashMap<LayerId, usize>,
    /// What containers stand on.
    owners: HashMap<String, Vec<LayerId>>,
}

impl Layers {
    /// Finds the layers under `data_root` and sweeps what a crash left of others.
    ///
    /// # Errors
    /// A directory that cannot be read or made.
    pub fn open(data_root: &Path) -> Result<Self> {
        let directory = data_root.join("layers");
        let making = directory.join(".tmp");
        fs::create_dir_all(&directory).context(|| format!("create {}", directory.display()))?;
        tree::sweep(&making).context(|| format!("sweep {}", making.display()))?;
        let (mut known, mut damaged) = (HashMap::new(), HashSet::new());
        let entries = fs::read_dir(&directory).context(|| format!("read {}", directory.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("read {}", directory.display()))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|name| Digest::from_hex(name).ok()) else {
                continue;
            };
            let path = entry.path().join("layer.json");
            match store::read_json::<Layer>(&path) {
                Ok(Some(layer)) if layer.id == LayerId(digest) => {
                    known.insert(layer.id, Arc::new(layer));
                }
                Ok(_) => {
                    tracing::warn!("{} does not describe its layer", path.display());
                    damaged.insert(LayerId(digest));
                }
                Err(error) => {
                    tracing::warn!("{error}");
                    damaged.insert(LayerId(digest));
                }
            }
        }
        Ok(Self(Arc::new(Inner {
            directory,
            state: Mutex::new(State { known, damaged, ..State::default() }),
            unpacking: Keyed::default(),
            counter: AtomicU64::new(0),
        })))
    }

    /// The layer, if it is here.
    pub fn get(&self, id: LayerId) -> Option<Arc<Layer>> {
        self.state().known.get(&id).cloned()
    }

    /// Where a layer's files are.
    pub fn path(&self, id: LayerId) -> PathBuf {
        self.0.directory.join(id.hex()).join("fs")
    }

    /// Keeps layers, those to come too, from being collected until the hold is dropped.
    pub(crate) fn hold(&self, ids: &[LayerId]) -> Hold {
        let mut state = self.state();
        for id in ids {
            *state.held.entry(*id).or_default() += 1;
        }
        Hold { layers: self.clone(), ids: ids.to_vec() }
    }

    /// Unpacks `source`, the layer's archive as in its blob, unless the layer is here already. Whoever
    /// wants the same layer meanwhile waits and gets the same one. The caller MUST hold the layer.
    ///
    /// Not on disk for sure before [`Layers::sync`]. Blocks.
    ///
    /// # Errors
    /// An archive that is damaged, hostile, or another one than `new` says; a full disk. Nothing is left
    /// behind.
    pub(crate) fn unpack(&self, new: &NewLayer, source: impl Read + Send) -> Result<Arc<Layer>> {
        let id = new.id();
        let unpacking = self.0.unpacking.of(id);
        let _one_at_a_time = unpacking.blocking_lock();
        if let Some(layer) = self.get(id) {
            return Ok(layer);
        }
        let making = Making::new(&self.0)?;
        let (files, spare) = (making.directory("fs")?, making.directory("spare")?);
        let mut lower = Vec::with_capacity(new.below.len());
        for below in new.below.iter().rev() {
            let path = self.path(*below);
            lower.push(open_directory(&path).context(|| format!("open {}", path.display()))?);
        }
        if let Some(top) = new.below.last() {
            // A layer that says nothing of the root directory leaves it as it is.
            copy_root_attributes(&self.path(*top), &making.path.join("fs"))?;
        }
        let size = decompress_and_unpack(source, new, &files, &spare, &lower).map_err(refuse)?;
        drop(spare);
        let spare = making.path.join("spare");
        tree::remove_tree(&spare).context(|| format!("remove {}", spare.display()))?;
        let parent = new.below.last().copied();
        let layer = Layer { id, parent, diff_id: new.diff_id, blob: new.blob.clone(), size };
        store::write_json(&making.path.join("layer.json"), &layer, Durability::Renamed)?;
        let layer = Arc::new(layer);
        let place = self.0.directory.join(id.hex());
        let mut state = self.state();
        // What stands there is not known, thus not whole.
        tree::remove_tree(&place).context(|| format!("remove {}", place.display()))?;
        fs::rename(&making.path, &place).context(|| format!("create {}", place.display()))?;
        state.damaged.remove(&id);
        state.known.insert(id, layer.clone());
        Ok(layer)
    }

    /// Has the disk take all that was written to the layers' file system.
    pub(crate) fn sync(&self) -> Result<()> {
        let directory = &self.0.directory;
        let sync = || -> io::Result<()> { Ok(syncfs(File::open(directory)?)?) };
        sync().context(|| format!("sync the file system of {}", directory.display()))
    }

    /// Notes that the container `owner` stands on `ids`.
    ///
    /// # Errors
    /// One of them is not here (any more).
    pub(super) fn own(&self, owner: &str, ids: &[LayerId]) -> Result<()> {
        let mut state = self.state();
        if let Some(missing) = ids.iter().find(|id| !state.known.contains_key(id)) {
            return Err(Error::new(Kind::NotFound, format!("layer {missing} does not exist")));
        }
        state.owners.insert(owner.to_owned(), ids.to_vec());
        Ok(())
    }

    /// Undoes [`Layers::own`]. What nothing refers to any more goes with the next collection.
    pub(super) fn disown(&self, owner: &str) {
        self.state().owners.remove(owner);
    }

    /// Removes what was taken out. Blocks.
    ///
    /// # Errors
    /// A directory that cannot be removed. Its layer is gone all the same; the rest is swept at the next
    /// start.
    pub(crate) fn remove_trash(&self, trash: &[PathBuf]) -> Result<()> {
        for path in trash {
            tree::remove_tree(path).context(|| format!("remove {}", path.display()))?;
        }
        Ok(())
    }

    /// Has the file system commit what was removed: with that, and not before, it gives the blocks back to a machine's disk, and the
    /// disk to the host.
    pub(crate) fn commit_removals(&self) -> Result<()> {
        let directory = &self.0.directory;
        store::sync_directory(directory).context(|| format!("sync {}", directory.display()))
    }

    #[cfg(test)]
    pub(super) fn collect(&self, live: &HashSet<LayerId>) -> Result<Vec<Arc<Layer>>> {
        let (removed, trash) = self.take_out(live)?;
        self.remove_trash(&trash)?;
        Ok(removed)
    }

    /// Removes the layers that are neither in `live` nor used nor held, without waiting for the disk.
    pub(crate) fn collect_later(&self, live: &HashSet<LayerId>) -> Result<()> {
        let (_, trash) = self.take_out(live)?;
        tree::remove_later(trash).context(|| "remove what is not used".to_owned())
    }

    /// Takes layers that are neither in `live` nor used nor held out of their places: what they were, topmost first, and
    /// where their files are.
    pub(crate) fn take_out(&self, live: &HashSet<LayerId>) -> Result<(Vec<Arc<Layer>>, Vec<PathBuf>)> {
        let mut removed = Vec::new();
        let mut trash = Vec::new();
        {
            let mut state = self.state();
            let mut kept: HashSet<LayerId> = live.clone();
            kept.extend(state.held.keys());
            kept.extend(state.owners.values().flatten());
            let gone: Vec<LayerId> =
                state.known.keys().chain(&state.damaged).filter(|id| !kept.contains(id)).copied().collect();
            for id in gone {
                let from = self.0.directory.join(id.hex());
                let to = self.0.fresh();
                fs::rename(&from, &to).context(|| format!("remove {}", from.display()))?;
                removed.extend(state.known.remove(&id));
                state.damaged.remove(&id);
                trash.push(to);
            }
        }
        Ok((top_first(removed), trash))
    }

    /// The digests of the archives of all layers here.
    pub(crate) fn blobs(&self) -> Vec<Digest> {
        self.state().known.values().map(|layer| layer.blob.digest).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A path in the directory that is swept at start.
    fn fresh(&self) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.directory.join(".tmp").join(number.to_string())
    }
}

/// Layers that MUST NOT be collected yet.
#[derive(Debug)]
pub(crate) struct Hold {
    layers: Layers,
    ids: Vec<LayerId>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.layers.state();
        for id in &self.ids {
            if let Some(count) = state.held.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    state.held.remove(id);
                }
            }
        }
    }
}

/// A directory that becomes a layer, or goes.
struct Making {
    path: PathBuf,
}

impl Making {
    fn new(inner: &Inner) -> Result<Self> {
        let path = inner.fresh();
        fs::create_dir(&path).context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    fn directory(&self, name: &str) -> Result<OwnedFd> {
        let path = self.path.join(name);
        let make = || {
            fs::create_dir(&path)?;
            open_directory(&path)
        };
        make().context(|| format!("create {}", path.display()))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // Renamed, it is not there any more, and that is no error.
        if let Err(error) = tree::remove_tree(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Gives the directory `to` the owner, mode and times of `from`.
pub(super) fn copy_root_attributes(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> io::Result<()> {
        let stat = rustix::fs::stat(from)?;
        let to = open_directory(to)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(&to, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        Ok(())
    };
    copy().context(|| format!("copy the attributes of {}", from.display()))
}

/// The error a client sees: a bad archive is its sender's fault, the rest this machine's.
fn refuse(error: UnpackError) -> Error {
    let kind = match &error {
        UnpackError::Unpack(unpack::Error::Entry { .. } | unpack::Error::NoSpace) => Kind::System,
        _ => Kind::InvalidParameter,
    };
    let message = error.to_string();
    match error {
        UnpackError::Unpack(unpack::Error::Entry { source, .. }) => Error::new(kind, message).because(source),
        _ => Error::new(kind, message),
    }
}

/// Decompresses and hashes on one thread, unpacks on another.
fn decompress_and_unpack(
    source: impl Read + Send,
    new: &NewLayer,
    files: &OwnedFd,
    spare: &OwnedFd,
    lower: &[OwnedFd],
) -> Result<u64, UnpackError> {
    let archive = |error: io::Error| unpack::Error::Archive(error.into());
    // It is not compressed, whatever its first file is called; and its digest was checked when it came in.
    if new.blob.digest == new.diff_id {
        return Ok(unpack(source, files, spare, lower)?);
    }
    let (_, plain) = decompress(source).map_err(archive)?;
    let (sender, receiver) = sync_channel(CHUNKS);
    std::thread::scope(|scope| {
        let hashing = scope.spawn(|| hash_and_pass_on(plain, sender));
        let unpacked = unpack(Chunks::new(receiver), files, spare, lower);
        // It ends when the receiver is gone, or with its source.
        let digest = hashing.join().map_err(|_| archive(io::Error::other("decompression failed")))?;
        let size = unpacked?;
        match digest {
            Some(got) if got != new.diff_id => Err(UnpackError::Mismatch { expected: new.diff_id, got }),
            _ => Ok(size),
        }
    })
}

/// The digest of all that was passed on; `None` when the other side stopped early, for a reason of its own.
fn hash_and_pass_on(mut plain: impl Read, sender: SyncSender<io::Result<Vec<u8>>>) -> Option<Digest> {
    let mut hasher = Sha256::default();
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        match plain.by_ref().take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => return Some(hasher.finish()),
            Ok(_) => {
                hasher.update(&chunk);
                sender.send(Ok(chunk)).ok()?;
            }
            Err(error) => {
                // The receiver reports it, or has stopped already.
                let _ = sender.send(Err(error));
                return None;
            }
        }
    }
}

/// The receiving end as a stream of bytes.
struct Chunks {
    receiver: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    at: usize,
}

impl Chunks {
    fn new(receiver: Receiver<io::Result<Vec<u8>>>) -> Self {
        Self { receiver, chunk: Vec::new(), at: 0 }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() {
            match self.receiver.recv() {
                Ok(chunk) => (self.chunk, self.at) = (chunk?, 0),
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.chunk.len() - self.at);
        buffer[..count].copy_from_slice(&self.chunk[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Orders layers so that each comes before the one it stands on.
fn top_first(layers: Vec<Arc<Layer>>) -> Vec<Arc<Layer>> {
    let by_id: HashMap<LayerId, &Arc<Layer>> = layers.iter().map(|layer| (layer.id, layer)).collect();
    let depth = |layer: &Arc<Layer>| {
        let mut depth = 0_usize;
        let mut parent = layer.parent;
        while let Some(below) = parent.and_then(|id| by_id.get(&id)) {
            depth += 1;
            parent = below.parent;
        }
        depth
    };
    let mut ordered: Vec<(usize, Arc<Layer>)> =
        layers.iter().map(|layer| (depth(layer), layer.clone())).collect();
    ordered.sort_by_key(|(depth, layer)| (std::cmp::Reverse(*depth), layer.id));
    ordered.into_iter().map(|(_, layer)| layer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::{Archive, gzip};

    fn blob(bytes: &[u8]) -> Blob {
        Blob { media_type: "layer".to_owned(), digest: Digest::of(bytes), size: bytes.len() as u64 }
    }

    fn plain(path: &str) -> Vec<u8> {
        Archive::default().file(path, b"content").finish()
    }

    fn new(archive: &[u8], below: &[LayerId]) -> NewLayer {
        NewLayer { below: below.to_vec(), diff_id: Digest::of(archive), blob: blob(archive) }
    }

    fn left_in(root: &Path) -> Vec<String> {
        let mut left: Vec<String> = fs::read_dir(root.join("layers"))
            .unwrap()
            .chain(fs::read_dir(root.join("layers/.tmp")).unwrap())
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        left.sort();
        left
    }

    #[test]
    fn chain_ids_are_the_specifications() {
        let [one, two] = [Digest::of(b"1"), Digest::of(b"2")];
        let chain = LayerId::chain(&[one, two]);
        assert_eq!(chain[0].to_string(), one.to_string());
        let second = Digest::of(format!("{one} {two}").as_bytes());
        assert_eq!(chain[1].to_string(), second.to_string());
    }

    #[test]
    fn a_layer_is_unpacked_once_and_found_again() {
        let root = tempfile::tempdir().unwrap();
        let archive = plain("a");
        let packed = gzip(&archive);
        let new = NewLayer { below: Vec::new(), diff_id: Digest::of(&archive), blob: blob(&packed) };
        let layers = Layers::open(root.path()).unwrap();
        let _hold = layers.hold(&[new.id()]);
        let layer = layers.unpack(&new, &packed[..]).unwrap();
        assert_eq!(layer.size, 7);
        // The second time nothing is read.
        assert_eq!(layers.unpack(&new, &b"nonsense"[..]).unwrap(), layer);
        let again = Layers::open(root.path()).unwrap();
        assert_eq!(again.get(layer.id), Some(layer.clone()));
        assert_eq!(fs::read(again.path(layer.id).join("a")).unwrap(), b"content");
    }

    #[test]
    fn several_at_once_share_the_work() {
        let root = tempfile::tempdir().unwrap();
        let layers = Layers::open(root.path()).unwrap();
        let archive = plain("a");
        let new = new(&archive, &[]);
        let _hold = layers.hold(&[new.id()]);
        std::thread::scope(|scope| {
            let unpack = || layers.unpack(&new, &archive[..]).unwrap();
            let handles: Vec<_> = (0..8).map(|_| scope.spawn(unpack)).collect();
            for handle in handles {
                assert_eq!(handle.join().unwrap().id, new.id());
            }
        });
        assert_eq!(left_in(root.path()), [new.id().hex()]);
    }

    #[test]
    fn another_archive_than_promised_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let layers = Layers::open(root.path()).unwrap();
        let (promised, given) = (plain("a"), plain("b"));
        let packed = gzip(&given);
        let wrong = NewLayer { below: Vec::new(), diff_id: Digest::of(&promised), blob: blob(&packed) };
        let error = layers.unpack(&wrong, &packed[..]).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidParameter);
        assert!(error.to_string().starts_with("invalid diffID: expected"), "{error}");
        let cut = layers.unpack(&new(&promised, &[]), &promised[..600]).unwrap_err();
        assert_eq!(cut.to_string(), "unexpected EOF");
        let packed = gzip(&promised);
        let damaged = NewLayer { diff_id: Digest::of(&promised), ..wrong };
        assert!(layers.unpack(&damaged, &packed[..packed.len() - 9]).is_err());
        assert_eq!(left_in(root.path()), [""; 0]);
    }

    #[test]
    fn only_what_nobody_needs_is_collected_topmost_first() {
        let root = tempfile::tempdir().unwrap();
        let layers = Layers::open(root.path()).unwrap();
        let add = |path: &str, below: &[LayerId]| {
            let archive = plain(path);
            layers.unpack(&new(&archive, below), &archive[..]).unwrap().id
        };
        let bottom = add("bottom", &[]);
        let top = add("top", &[bottom]);
        let [live, held, owned] = [add("live", &[]), add("held", &[]), add("owned", &[])];
        let hold = layers.hold(&[held]);
        layers.own("container", &[owned]).unwrap();
        let collected = layers.collect(&HashSet::from([live])).unwrap();
        let ids: Vec<LayerId> = collected.iter().map(|layer| layer.id).collect();
        assert_eq!(ids, [top, bottom]);
        assert!(layers.own("other", &[bottom]).is_err());
        drop(hold);
        layers.disown("container");
        assert_eq!(layers.collect(&HashSet::from([live])).unwrap().len(), 2);
        assert_eq!(left_in(root.path()), [live.hex()]);
    }

    #[test]
    fn what_a_crash_left_is_swept_or_collected() {
        let root = tempfile::tempdir().unwrap();
        let archive = plain("a");
        let id = {
            let layers = Layers::open(root.path()).unwrap();
            layers.unpack(&new(&archive, &[]), &archive[..]).unwrap().id
        };
        // Half unpacked, and torn by a power cut.
        fs::create_dir_all(root.path().join("layers/.tmp/7/fs/deep")).unwrap();
        fs::write(root.path().join("layers").join(id.hex()).join("layer.json"), "").unwrap();
        let layers = Layers::open(root.path()).unwrap();
        assert_eq!(left_in(root.path()), [id.hex()]);
        assert_eq!(layers.get(id), None);
        // It can be had again, and goes if nobody wants it.
        layers.unpack(&new(&archive, &[]), &archive[..]).unwrap();
        fs::write(root.path().join("layers").join(id.hex()).join("layer.json"), "{}").unwrap();
        let layers = Layers::open(root.path()).unwrap();
        layers.collect(&HashSet::new()).unwrap();
        assert_eq!(left_in(root.path()), [""; 0]);
    }
}
