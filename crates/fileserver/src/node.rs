//! Files that the guest knows, by the numbers that it knows them by.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use virtiofsd::filesystem::ROOT_ID;

use crate::events::Own;
use crate::opened::{Descriptor, Found, Opened, Place, Seen};
use crate::owner::Owner;

/// What makes two names the same file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn of(stat: &Stat) -> FileId {
        FileId { device: stat.st_dev, inode: stat.st_ino }
    }

    /// Whether this is what events call the file if it was made without a name (`d_tmpfile` of the host's kernel).
    pub(crate) fn is_nameless(self, name: &CStr) -> bool {
        name.to_bytes() == format!("#{}", self.inode).as_bytes()
    }
}

/// A file that the guest knows.
pub(crate) struct Node {
    pub(crate) this: Weak<Node>,
    pub(crate) id: FileId,
    /// Its place in the list of shares.
    pub(crate) share: usize,
    pub(crate) kind: FileType,
    pub(crate) found: Found,
    pub(crate) opened: Arc<Opened>,
    /// Where requests say what they change.
    pub(crate) own: Arc<Own>,
    /// Its mode had set-user-id or set-group-id when it was last looked at.
    pub(crate) has_set_id: AtomicBool,
    /// The owner of what cannot keep one.
    pub(crate) owner: Mutex<Option<Owner>>,
}

impl Node {
    /// Opens the file. Only regular files and folders: whatever else there is does something when it is opened.
    pub(crate) fn open(&self, flags: OFlags) -> Result<File, Errno> {
        if !matches!(self.kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::NXIO);
        }
        let path = self.file()?.path();
        rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map(File::from)
    }

    /// Which file is in the folder by this name.
    pub(crate) fn file_at(&self, name: &CStr) -> Option<FileId> {
        let stat = rustix::fs::statat(self.file().ok()?, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(FileId::of(&stat))
    }

    pub(crate) fn is_removed(&self) -> bool {
        // Where it was it is not any more, if it cannot be opened there.
        self.stat().map_or_else(|error| error == Errno::STALE, |stat| stat.st_nlink == 0)
    }
}

/// What makes two nodes the same file. A share is part of it: two of them may show the same file, one read-only.
type Key = (usize, FileId);

/// All files that the guest knows.
pub(crate) struct Nodes {
    table: Mutex<Table>,
    opened: Arc<Opened>,
    own: Arc<Own>,
}

#[derive(Default)]
struct Table {
    known: HashMap<u64, Known>,
    by_key: HashMap<Key, u64>,
    /// How many numbers were given out: none is used twice.
    given: u64,
}

struct Known {
    node: Arc<Node>,
    /// How often the guest was told of it, less how often it forgot.
    lookups: u64,
}

impl Nodes {
    /// At most so many of them have a descriptor at a time.
    pub(crate) fn new(descriptors: usize, own: Arc<Own>) -> Nodes {
        Nodes { table: Mutex::default(), opened: Arc::new(Opened::new(descriptors)), own }
    }

    pub(crate) fn get(&self, number: u64) -> io::Result<Arc<Node>> {
        // The root is none of the host's: what is to be done to it, it cannot do.
        let missing = if number == ROOT_ID { Errno::ROFS } else { Errno::BADF };
        Ok(self.find(number).ok_or(missing)?)
    }

    pub(crate) fn find(&self, number: u64) -> Option<Arc<Node>> {
        self.lock().known.get(&number).map(|known| Arc::clone(&known.node))
    }

    /// The file if the guest knows it.
    pub(crate) fn known(&self, share: usize, id: FileId) -> Option<Arc<Node>> {
        let table = self.lock();
        let known = table.known.get(table.by_key.get(&(share, id))?)?;
        Some(Arc::clone(&known.node))
    }

    /// The number of a file of which the guest is told now.
    pub(crate) fn tell(
        &self,
        seen: &Seen,
        file: Option<OwnedFd>,
        share: usize,
        place: Place,
    ) -> (u64, Arc<Node>) {
        let id = FileId::of(&seen.stat);
        let descriptor = file.map(Descriptor::new);
        let mut table = self.lock();
        if let Some(number) = table.by_key.get(&(share, id)).copied()
            && let Some(known) = table.known.get_mut(&number)
            && known.node.found(seen, descriptor.as_ref(), &place)
        {
            known.lookups = known.lookups.saturating_add(1);
            return (number, Arc::clone(&known.node));
        }
        let is_open = descriptor.is_some();
        let node = Arc::new_cyclic(|this| Node {
            this: Weak::clone(this),
            id,
            share,
            kind: FileType::from_raw_mode(seen.stat.st_mode),
            found: Found::new(descriptor, seen.born, place),
            opened: Arc::clone(&self.opened),
            own: Arc::clone(&self.own),
            has_set_id: AtomicBool::new(false),
            owner: Mutex::default(),
        });
        if is_open {
            self.opened.add(Arc::downgrade(&node));
        }
        table.given += 1;
        let number = ROOT_ID + table.given;
        table.by_key.insert((share, id), number);
        table.known.insert(number, Known { node: Arc::clone(&node), lookups: 1 });
        (number, node)
    }

    /// The guest has forgotten what it was told `count` times. True if that was all.
    pub(crate) fn forget(&self, number: u64, count: u64) -> bool {
        let mut table = self.lock();
        let Some(known) = table.known.get_mut(&number) else { return false };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups > 0 {
            return false;
        }
        if let Some(known) = table.known.remove(&number) {
            let key = (known.node.share, known.node.id);
            // Another file may have the same number on the host by now.
            if table.by_key.get(&key) == Some(&number) {
                table.by_key.remove(&key);
            }
            known.node.forgotten();
        }
        true
    }

    /// The guest starts anew.
    pub(crate) fn clear(&self) {
        let mut table = self.lock();
        table.known.values().for_each(|known| known.node.forgotten());
        table.known.clear();
        table.by_key.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change is whole before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file that the guest has open.
pub(crate) struct Handle {
    pub(crate) file: File,
    node: u64,
}

/// All files that the guest has open.
#[derive(Default)]
pub(crate) struct Handles(Mutex<(HashMap<u64, Arc<Handle>>, u64)>);

impl Handles {
    pub(crate) fn add(&self, node: u64, file: File) -> u64 {
        let (handles, given) = &mut *self.lock();
        *given += 1;
        handles.insert(*given, Arc::new(Handle { file, node }));
        *given
    }

    /// The handle, if it is one of that file.
    pub(crate) fn get(&self, node: u64, handle: u64) -> io::Result<Arc<Handle>> {
        let found = self.lock().0.get(&handle).filter(|handle| handle.node == node).cloned();
        Ok(found.ok_or(Errno::BADF)?)
    }

    pub(crate) fn remove(&self, node: u64, handle: u64) -> io::Result<()> {
        self.get(node, handle)?;
        self.lock().0.remove(&handle);
        Ok(())
    }

    pub(crate) fn clear(&self) {
        self.lock().0.clear();
    }

    fn lock(&self) -> MutexGuard<'_, (HashMap<u64, Arc<Handle>>, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
