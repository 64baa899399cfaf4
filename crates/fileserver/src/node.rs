//! Files that the guest knows: a number each, and a descriptor by which it is found again whatever it is called by then.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use virtiofsd::filesystem::ROOT_ID;

use crate::owner::Owner;

/// A file that the guest knows.
pub(crate) struct Node {
    /// Opened with `O_PATH`: it names the file and reads nothing.
    pub(crate) file: OwnedFd,
    /// Its place in the list of shares.
    pub(crate) share: usize,
    pub(crate) kind: FileType,
    pub(crate) device: u64,
    inode: u64,
    /// Its mode had set-user-id or set-group-id when it was last looked at.
    pub(crate) has_set_id: AtomicBool,
    /// The owner of what cannot keep one.
    pub(crate) owner: Mutex<Option<Owner>>,
}

impl Node {
    pub(crate) fn new(file: OwnedFd, share: usize, stat: &Stat) -> Node {
        Node {
            file,
            share,
            kind: FileType::from_raw_mode(stat.st_mode),
            device: stat.st_dev,
            inode: stat.st_ino,
            has_set_id: AtomicBool::new(false),
            owner: Mutex::default(),
        }
    }

    /// A path that leads to the file by its descriptor, for system calls that take no `O_PATH` descriptor.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// Opens the file. Only regular files and folders: whatever else there is does something when it is opened.
    pub(crate) fn open(&self, flags: OFlags) -> Result<File, Errno> {
        if !matches!(self.kind, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::NXIO);
        }
        rustix::fs::open(self.path(), flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map(File::from)
    }
}

/// What makes two nodes the same file. A share is part of it: two of them may show the same file, one read-only.
type Key = (usize, u64, u64);

/// All files that the guest knows.
#[derive(Default)]
pub(crate) struct Nodes(Mutex<Table>);

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
    pub(crate) fn get(&self, number: u64) -> io::Result<Arc<Node>> {
        let table = self.lock();
        // The root is none of the host's: what is to be done to it, it cannot do.
        let missing = if number == ROOT_ID { Errno::ROFS } else { Errno::BADF };
        Ok(table.known.get(&number).map(|known| Arc::clone(&known.node)).ok_or(missing)?)
    }

    /// The number of a file of which the guest is told now.
    pub(crate) fn tell(&self, node: Node) -> (u64, Arc<Node>) {
        let mut table = self.lock();
        let table = &mut *table;
        let key = (node.share, node.device, node.inode);
        let number = *table.by_key.entry(key).or_insert_with(|| {
            table.given += 1;
            ROOT_ID + table.given
        });
        let known = table.known.entry(number).or_insert_with(|| Known { node: Arc::new(node), lookups: 0 });
        known.lookups = known.lookups.saturating_add(1);
        (number, Arc::clone(&known.node))
    }

    /// The guest has forgotten what it was told `count` times.
    pub(crate) fn forget(&self, number: u64, count: u64) {
        let mut table = self.lock();
        let Some(known) = table.known.get_mut(&number) else { return };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0
            && let Some(known) = table.known.remove(&number)
        {
            table.by_key.remove(&(known.node.share, known.node.device, known.node.inode));
        }
    }

    /// The guest starts anew.
    pub(crate) fn clear(&self) {
        let mut table = self.lock();
        table.known.clear();
        table.by_key.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
