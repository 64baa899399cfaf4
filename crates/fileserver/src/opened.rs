//! Descriptors of the files that the guest knows. It may know millions, and a process may have some thousands open: of those
//! that were not used for long the descriptor is closed, and opened again by the folder and the name if the file is asked for.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::node::{FileId, Node};

/// More than a process needs to be quick, and what the host's kernel keeps of each (a kilobyte, about) is not lost for long.
const MOST: usize = 32 << 10;

/// Of so many a descriptor is looked for that can be closed.
const TRIES: usize = 8;

/// Folders in folders, at most (`PATH_MAX` allows no more).
const DEPTH: usize = 2048;

/// An open file, which names it and reads nothing (`O_PATH`).
#[derive(Clone)]
pub(crate) struct Descriptor(Arc<OwnedFd>);

impl Descriptor {
    pub(crate) fn new(file: OwnedFd) -> Descriptor {
        Descriptor(Arc::new(file))
    }

    /// A path that leads to the file, for system calls that take no such descriptor. It does as long as this is there.
    pub(crate) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// When the file was made, if the file system keeps that: the number of a removed one may be another file's by now.
    fn born(&self) -> Option<(i64, u32)> {
        let flags = StatxFlags::BTIME;
        let stat = rustix::fs::statx(self, c"", AtFlags::EMPTY_PATH, flags).ok()?;
        let is_kept = StatxFlags::from_bits_retain(stat.stx_mask).contains(flags);
        is_kept.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where a file was when it was last looked for. None: it is a share itself.
pub(crate) type Place = Option<(Arc<Node>, Box<std::ffi::CStr>)>;

/// What a node has to be found by.
pub(crate) struct Found {
    descriptor: Mutex<Option<Descriptor>>,
    /// When the file was made, once its descriptor has been closed.
    born: Mutex<Option<(i64, u32)>>,
    place: Mutex<Place>,
    was_used: AtomicBool,
}

impl Found {
    pub(crate) fn new(descriptor: Descriptor, place: Place) -> Found {
        Found {
            descriptor: Mutex::new(Some(descriptor)),
            born: Mutex::default(),
            place: Mutex::new(place),
            was_used: AtomicBool::new(true),
        }
    }
}

/// All nodes that have a descriptor.
pub(crate) struct Opened {
    most: usize,
    /// The one that was opened first or spared last is the first one.
    nodes: Mutex<VecDeque<Weak<Node>>>,
    /// Somebody closes descriptors, for which others may have to be opened.
    is_closing: AtomicBool,
}

impl Opened {
    /// At most so many of them, as far as those that must stay open leave the choice.
    pub(crate) fn new(most: usize) -> Opened {
        Opened { most: most.min(MOST), nodes: Mutex::default(), is_closing: AtomicBool::new(false) }
    }

    /// Notes that a node has a descriptor, and closes others if there are too many.
    pub(crate) fn add(&self, node: Weak<Node>) {
        lock(&self.nodes).push_back(node);
        if self.is_closing.swap(true, Ordering::Relaxed) {
            return;
        }
        for _ in 0..TRIES {
            let oldest = {
                let mut nodes = lock(&self.nodes);
                if nodes.len() <= self.most { None } else { nodes.pop_front() }
            };
            let Some(oldest) = oldest else { break };
            // The guest may have forgotten it.
            if let Some(node) = oldest.upgrade()
                && !node.close_if_unused()
            {
                lock(&self.nodes).push_back(oldest);
            }
        }
        self.is_closing.store(false, Ordering::Relaxed);
    }
}

impl Node {
    /// A descriptor of the file. [`Errno::STALE`] if somebody on the host has taken it away from where it was last found;
    /// the guest's kernel then looks for it anew.
    pub(crate) fn file(&self) -> Result<Descriptor, Errno> {
        self.file_within(DEPTH)
    }

    fn file_within(&self, depth: usize) -> Result<Descriptor, Errno> {
        let found = &self.found;
        found.was_used.store(true, Ordering::Relaxed);
        if let Some(descriptor) = &*lock(&found.descriptor) {
            return Ok(descriptor.clone());
        }
        // Folders of the host that changed places may seem to be in each other.
        let depth = depth.checked_sub(1).ok_or(Errno::STALE)?;
        let (folder, name) = lock(&found.place).clone().ok_or(Errno::STALE)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |folder: &Descriptor| rustix::fs::openat(folder, &*name, flags, Mode::empty());
        let file = open(&folder.file_within(depth)?).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR => Errno::STALE,
            error => error,
        })?;
        let is_same = FileId::of(&rustix::fs::fstat(&file)?) == self.id;
        let descriptor = Descriptor::new(file);
        if !is_same || descriptor.born() != *lock(&found.born) {
            return Err(Errno::STALE);
        }
        self.has(descriptor.clone());
        Ok(descriptor)
    }

    /// A descriptor of the file, which had none.
    fn has(&self, descriptor: Descriptor) {
        *lock(&self.found.descriptor) = Some(descriptor);
        self.opened.add(Weak::clone(&self.this));
    }

    /// A file of the same number was found, perhaps elsewhere. False if it is not the same file.
    pub(crate) fn found(&self, descriptor: Descriptor, place: Place) -> bool {
        let is_open = lock(&self.found.descriptor).is_some();
        if !is_open {
            if descriptor.born() != *lock(&self.found.born) {
                return false;
            }
            self.has(descriptor);
        }
        *lock(&self.found.place) = place;
        true
    }

    /// Whether it is a share itself.
    pub(crate) fn is_share(&self) -> bool {
        lock(&self.found.place).is_none()
    }

    /// It was moved there.
    pub(crate) fn moved(&self, folder: &Arc<Node>, name: &std::ffi::CStr) {
        *lock(&self.found.place) = Some((Arc::clone(folder), name.into()));
    }

    /// The guest has forgotten it.
    pub(crate) fn forgotten(&self) {
        *lock(&self.found.place) = None;
    }

    /// Closes the descriptor unless it was used since the last time. False if it stays, also because there is no way back:
    /// the file has no name any more, or another one than was last heard of.
    fn close_if_unused(&self) -> bool {
        if self.found.was_used.swap(false, Ordering::Relaxed) {
            return false;
        }
        let place = lock(&self.found.place).clone();
        let Some((folder, name)) = place else { return false };
        if folder.file_at(&name) != Some(self.id) {
            return false;
        }
        if let Some(descriptor) = lock(&self.found.descriptor).take() {
            *lock(&self.found.born) = descriptor.born();
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
