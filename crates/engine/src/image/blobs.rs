use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{Advice, fadvise};

use crate::{
    error::{Context, Error, Result},
    snapshot::{Digest, Room, Sha256},
};

/// The content store: files called by their digest, `blobs/sha256/<hex>`. Clones share it.
///
/// A blob is whole when it has its name. Whether it survives a power cut is up to who refers to it: see
/// [`crate::snapshot::Layers::sync`], which covers this directory as well, being on one file system.
#[derive(Debug, Clone)]
pub(crate) struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// What is still being written; swept at start.
    making: PathBuf,
    /// Blobs that work in progress counts on, whether they are here yet or not.
    held: Mutex<HashMap<Digest, usize>>,
    counter: AtomicU64,
}

impl Blobs {
    /// # Errors
    /// A directory that cannot be read or made.
    pub(crate) fn open(data_root: &Path) -> Result<Self> {
        let directory = data_root.join("blobs").join("sha256");
        let making = data_root.join("blobs").join(".tmp");
        crate::snapshot::remove_tree(&making).context(|| format!("sweep {}", making.display()))?;
        for path in [&directory, &making] {
            fs::create_dir_all(path).context(|| format!("create {}", path.display()))?;
        }
        let (held, counter) = (Mutex::default(), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { directory, making, held, counter })))
    }

    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.0.directory.join(digest.hex())
    }

    /// Bytes of the blob; `None` if it is not here.
    pub(crate) fn size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    /// # Errors
    /// It is not here, or cannot be read.
    pub(crate) fn open_blob(&self, digest: Digest) -> Result<File> {
        File::open(self.path(digest)).context(|| format!("open the blob {digest}"))
    }

    /// The whole of a small blob.
    ///
    /// # Errors
    /// It is not here, cannot be read, is longer than `limit` bytes, or was changed.
    pub(crate) fn read(&self, digest: Digest, limit: u64) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut file = self.open_blob(digest)?.take(limit + 1);
        file.read_to_end(&mut content).context(|| format!("read the blob {digest}"))?;
        if content.len() as u64 > limit {
            return Err(Error::invalid(format!("the blob {digest} is longer than {limit} bytes")));
        }
        if Digest::of(&content) != digest {
            return Err(Error::system(format!("the blob {digest} is damaged")));
        }
        Ok(content)
    }

    /// Begins a blob.
    ///
    /// # Errors
    /// No file can be made.
    pub(crate) fn writer(&self) -> Result<BlobWriter> {
        let number = self.0.counter.fetch_add(1, Ordering::Relaxed);
        let path = self.0.making.join(number.to_string());
        let file = File::create_new(&path).context(|| format!("create {}", path.display()))?;
        Ok(BlobWriter {
            blobs: self.clone(),
            file,
            unnamed: Unnamed(path),
            hasher: Sha256::default(),
            room: Room::default(),
            size: 0,
        })
    }

    /// Writes a small blob.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, content: &[u8]) -> Result<Digest> {
        let mut writer = self.writer()?;
        writer.write_all(content).context(|| "write a blob".to_owned())?;
        let staged = writer.finish();
        let digest = staged.digest();
        staged.commit()?;
        Ok(digest)
    }

    /// Keeps blobs, those to come too, from being collected until the hold is dropped.
    pub(crate) fn hold(&self, digests: impl IntoIterator<Item = Digest>) -> BlobHold {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut held = self.held();
        for digest in &digests {
            *held.entry(*digest).or_default() += 1;
        }
        drop(held);
        BlobHold { blobs: self.clone(), digests }
    }

    /// Has the kernel forget the contents of blobs, as far as the disk has them: once they are unpacked they are seldom
    /// read again, and what is cached of them takes memory, and time when they are removed.
    pub(crate) fn forget_contents(&self, digests: impl IntoIterator<Item = Digest>) {
        for digest in digests {
            // One that is missing is missed by whoever reads it.
            if let Ok(file) = File::open(self.path(digest)) {
                let _ = fadvise(&file, 0, None, Advice::DontNeed);
            }
        }
    }

    /// Removes all blobs that are neither in `live` nor held.
    ///
    /// # Errors
    /// The directory cannot be read, or a file not be removed.
    pub(crate) fn collect(&self, live: &HashSet<Digest>) -> Result<()> {
        let directory = &self.0.directory;
        let collect = || -> io::Result<()> {
            let held = self.held();
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                let name = entry.file_name();
                let kept = name
                    .to_str()
                    .and_then(|name| Digest::from_hex(name).ok())
                    .is_some_and(|digest| live.contains(&digest) || held.contains_key(&digest));
                if !kept {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        collect().context(|| format!("collect what is not used in {}", directory.display()))
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blobs that MUST NOT be collected yet.
#[derive(Debug)]
pub(crate) struct BlobHold {
    blobs: Blobs,
    digests: Vec<Digest>,
}

impl Drop for BlobHold {
    fn drop(&mut self) {
        let mut held = self.blobs.held();
        for digest in &self.digests {
            if let Some(count) = held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    held.remove(digest);
                }
            }
        }
    }
}

/// A file that goes unless it gets another name.
#[derive(Debug)]
struct Unnamed(PathBuf);

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("remove {}: {error}", self.0.display());
        }
    }
}

/// A blob in the making; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    blobs: Blobs,
    file: File,
    unnamed: Unnamed,
    hasher: Sha256,
    room: Room,
    size: u64,
}

impl BlobWriter {
    /// Ends the writing.
    pub(crate) fn finish(self) -> Staged {
        let Self { blobs, unnamed, hasher, size, .. } = self;
        Staged { blobs, unnamed, digest: hasher.finish(), size }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room.take(&self.file, bytes.len())?;
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A whole blob that is not yet in the store; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Staged {
    blobs: Blobs,
    unnamed: Unnamed,
    digest: Digest,
    size: u64,
}

impl Staged {
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// # Errors
    /// It cannot be opened.
    pub(crate) fn open(&self) -> Result<File> {
        let path = &self.unnamed.0;
        File::open(path).context(|| format!("open {}", path.display()))
    }

    /// Puts the blob into the store under its digest.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub(crate) fn commit(self) -> Result<()> {
        let place = self.blobs.path(self.digest);
        // One that is here already has the same content.
        fs::rename(&self.unnamed.0, &place).context(|| format!("create {}", place.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &Path) -> usize {
        fs::read_dir(path).unwrap().count()
    }

    #[test]
    fn a_blob_has_its_name_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let mut writer = blobs.writer().unwrap();
        writer.write_all(b"half").unwrap();
        drop(writer);
        assert_eq!(count(&root.path().join("blobs/.tmp")), 0);
        let digest = blobs.write(b"content").unwrap();
        assert_eq!(digest, Digest::of(b"content"));
        assert_eq!(blobs.read(digest, 7).unwrap(), b"content");
        assert!(blobs.read(digest, 6).is_err());
        assert_eq!(blobs.size(digest), Some(7));
    }

    #[test]
    fn a_changed_blob_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let digest = blobs.write(b"content").unwrap();
        fs::write(blobs.path(digest), "c0ntent").unwrap();
        let error = blobs.read(digest, 100).unwrap_err().to_string();
        assert!(error.ends_with("is damaged"), "{error}");
    }

    #[test]
    fn what_is_live_or_held_stays() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let [live, held, gone] =
            [&b"live"[..], b"held", b"gone"].map(|content| blobs.write(content).unwrap());
        let hold = blobs.hold([held, held]);
        blobs.collect(&HashSet::from([live])).unwrap();
        assert_eq!(blobs.size(gone), None);
        assert!(blobs.size(live).is_some() && blobs.size(held).is_some());
        drop(hold);
        blobs.collect(&HashSet::from([live])).unwrap();
        assert_eq!(blobs.size(held), None);
    }

    #[test]
    fn what_a_crash_left_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        std::mem::forget(blobs.writer().unwrap());
        assert_eq!(count(&root.path().join("blobs/.tmp")), 1);
        Blobs::open(root.path()).unwrap();
        assert_eq!(count(&root.path().join("blobs/.tmp")), 0);
    }
}
