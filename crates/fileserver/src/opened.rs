//! Descriptors of the files that the guest knows. It may know millions, and a process may have some thousands open: a file is
//! opened by the folder and the name when its descriptor is needed, for a look at it none is, and those that were not used for
//! long are closed.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, StatxFlags};
use rustix::io::Errno;
use rustix::thread::UnshareFlags;

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
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A look at a file.
pub(crate) struct Seen {
    pub(crate) stat: Stat,
    /// When the file was made, if its file system keeps that: the number of a removed one may be another file's by now.
    pub(crate) born: Option<(i64, u32)>,
}

impl Seen {
    /// The file that an open one is.
    pub(crate) fn of(file: impl AsFd) -> Result<Seen, Errno> {
        Seen::look(file, c"", AtFlags::EMPTY_PATH)
    }

    /// What is in a folder by this name; a link is not followed.
    pub(crate) fn at(folder: impl AsFd, name: &CStr) -> Result<Seen, Errno> {
        Seen::look(folder, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn look(folder: impl AsFd, name: &CStr, flags: AtFlags) -> Result<Seen, Errno> {
        let seen = rustix::fs::statx(folder, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut stat: Stat = unsafe { std::mem::zeroed() };
        stat.st_dev = rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor);
        stat.st_rdev = rustix::fs::makedev(seen.stx_rdev_major, seen.stx_rdev_minor);
        stat.st_ino = seen.stx_ino;
        stat.st_mode = seen.stx_mode.into();
        stat.st_nlink = seen.stx_nlink.into();
        stat.st_uid = seen.stx_uid;
        stat.st_gid = seen.stx_gid;
        stat.st_size = seen.stx_size.cast_signed();
        stat.st_blocks = seen.stx_blocks.cast_signed();
        stat.st_blksize = seen.stx_blksize.into();
        (stat.st_atime, stat.st_atime_nsec) = (seen.stx_atime.tv_sec, seen.stx_atime.tv_nsec.into());
        (stat.st_mtime, stat.st_mtime_nsec) = (seen.stx_mtime.tv_sec, seen.stx_mtime.tv_nsec.into());
        (stat.st_ctime, stat.st_ctime_nsec) = (seen.stx_ctime.tv_sec, seen.stx_ctime.tv_nsec.into());
        let is_kept = StatxFlags::from_bits_retain(seen.stx_mask).contains(StatxFlags::BTIME);
        let born = is_kept.then_some((seen.stx_btime.tv_sec, seen.stx_btime.tv_nsec));
        Ok(Seen { stat, born })
    }
}

thread_local! {
    /// Whether this thread's working directory is its own.
    static OWN_FOLDER: bool = {
        // SAFETY: no descriptors are unshared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.is_ok()
    };
}

/// Reads an attribute of what is in a folder by this name; a link is not followed.
///
/// Before getxattrat(2) (Linux 6.13) no system call does that by a descriptor, and by way of `/proc/self/fd` it takes three
/// times as long. So the thread goes there.
fn attribute_at(
    folder: &Descriptor,
    name: &CStr,
    attribute: &CStr,
    value: &mut [u8],
) -> Result<usize, Errno> {
    if !OWN_FOLDER.with(|is_own| *is_own) {
        let path = [folder.path().as_bytes(), name.to_bytes()].join(&b'/');
        return rustix::fs::lgetxattr(path, attribute, value);
    }
    rustix::process::fchdir(folder)?;
    rustix::fs::lgetxattr(name, attribute, value)
}

/// Where a file was when it was last looked for. None: it is a share itself.
pub(crate) type Place = Option<(Arc<Node>, Box<CStr>)>;

/// What a node has to be found by.
pub(crate) struct Found {
    descriptor: Mutex<Option<Descriptor>>,
    born: Option<(i64, u32)>,
    place: Mutex<Place>,
    was_used: AtomicBool,
}

impl Found {
    pub(crate) fn new(descriptor: Option<Descriptor>, born: Option<(i64, u32)>, place: Place) -> Found {
        Found {
            descriptor: Mutex::new(descriptor),
            born,
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
        let file = open(&folder.file_within(depth)?).map_err(gone)?;
        self.check(&Seen::of(&file)?)?;
        let descriptor = Descriptor::new(file);
        self.has(descriptor.clone());
        Ok(descriptor)
    }

    /// That it is this file that was seen, and not another one in its place.
    fn check(&self, seen: &Seen) -> Result<(), Errno> {
        let is_same = FileId::of(&seen.stat) == self.id && seen.born == self.found.born;
        if is_same { Ok(()) } else { Err(Errno::STALE) }
    }

    /// A look at the file.
    pub(crate) fn stat(&self) -> Result<Stat, Errno> {
        if let Some(descriptor) = &*lock(&self.found.descriptor) {
            return rustix::fs::fstat(descriptor);
        }
        let (folder, name) = lock(&self.found.place).clone().ok_or(Errno::STALE)?;
        let seen = Seen::at(folder.file()?, &name).map_err(gone)?;
        self.check(&seen)?;
        Ok(seen.stat)
    }

    /// Reads an attribute of the file; returns its length (xattr(7)).
    pub(crate) fn attribute(&self, attribute: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
        if let Some(descriptor) = &*lock(&self.found.descriptor) {
            if self.kind == FileType::Directory {
                match attribute_at(descriptor, c".", attribute, value) {
                    // It may be read and not be entered.
                    Err(Errno::ACCESS) => {}
                    result => return result,
                }
            }
            return rustix::fs::getxattr(descriptor.path(), attribute, value);
        }
        let (folder, name) = lock(&self.found.place).clone().ok_or(Errno::STALE)?;
        attribute_at(&folder.file()?, &name, attribute, value)
    }

    /// A descriptor of the file, which had none.
    fn has(&self, descriptor: Descriptor) {
        *lock(&self.found.descriptor) = Some(descriptor);
        self.opened.add(Weak::clone(&self.this));
    }

    /// A file of the same number was found, perhaps elsewhere. False if it is not the same file.
    pub(crate) fn found(&self, seen: &Seen, descriptor: Option<&Descriptor>, place: &Place) -> bool {
        // One that is open keeps its number.
        let is_open = lock(&self.found.descriptor).is_some();
        if !is_open && self.check(seen).is_err() {
            return false;
        }
        if let Some(descriptor) = descriptor.filter(|_| !is_open) {
            self.has(descriptor.clone());
        }
        *lock(&self.found.place) = place.clone();
        true
    }

    /// Whether it is a share itself.
    pub(crate) fn is_share(&self) -> bool {
        lock(&self.found.place).is_none()
    }

    /// It was moved there.
    pub(crate) fn moved(&self, folder: &Arc<Node>, name: &CStr) {
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
        *lock(&self.found.descriptor) = None;
        true
    }
}

/// What is not where it was is gone, for all that is known.
fn gone(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::NOTDIR => Errno::STALE,
        error => error,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is whole before anything can panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
