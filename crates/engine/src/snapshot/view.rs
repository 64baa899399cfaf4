//! Roots that only their holder sees: mounts in a namespace that no process is in. The kernel takes them
//! away when the last descriptor is closed, so that a killed engine leaves nothing behind.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, open},
    mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount},
    process::{chdir, pivot_root},
    thread::{UnshareFlags, unshare_unsafe},
};

use crate::{
    error::{Context, Error, Result},
    mounts,
};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A root directory with what is mounted in it.
#[derive(Debug)]
pub(crate) struct View {
    root: OwnedFd,
    /// Keeps the mounts.
    _namespace: Option<OwnedFd>,
}

impl View {
    /// A directory as it is.
    pub(super) fn of_directory(path: &Path) -> Result<Self> {
        let root = open(path, DIRECTORY, Mode::empty()).context(|| format!("open {}", path.display()))?;
        Ok(Self { root, _namespace: None })
    }

    /// What `mount` mounts and returns the mount point of, with all that is mounted below it. Nobody else
    /// sees what `mount` mounts. Blocks.
    ///
    /// # Errors
    /// Those of `mount`, and what the kernel refuses.
    pub(super) fn of_mounts(mount: impl FnOnce() -> Result<PathBuf> + Send) -> Result<Self> {
        let made = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("view".to_owned());
            let run = || {
                leave_the_others().context(|| "make a mount namespace".to_owned())?;
                let path = mount()?;
                enter(&path).context(|| format!("enter {}", path.display()))
            };
            let running = thread.spawn_scoped(scope, run).context(|| "start a thread".to_owned())?;
            running.join().map_err(|_| Error::system("a thread of the engine panicked"))?
        });
        let (root, namespace) = made?;
        Ok(Self { root, _namespace: Some(namespace) })
    }

    /// The root directory, open as a place.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }
}

/// Gives this thread mounts of its own.
fn leave_the_others() -> io::Result<()> {
    // SAFETY: the thread lives for this alone, and what it shares with others (memory, descriptors) means
    // the same in every mount namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Makes the mount at `path` this thread's root and lets go of all others, of other containers among
/// them; returns the root and the namespace.
fn enter(path: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let namespace = open("/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    chdir(path)?;
    // The old root comes to lie on the new one (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok((open("/", DIRECTORY, Mode::empty())?, namespace))
}

/// Mounts `source` on `target`, by descriptors alone: no path in between can be exchanged.
///
/// # Errors
/// There is no such source; the kernel refuses.
pub(crate) fn bind(
    source: &Path,
    target: BorrowedFd<'_>,
    read_only: bool,
    recursive: bool,
) -> io::Result<()> {
    let tree = mounts::copy(CWD, source, recursive)?;
    mounts::Changes {
        set: if read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() },
        // None that comes or goes elsewhere comes or goes here, nor the other way round.
        propagation: MountPropagationFlags::PRIVATE,
        ids: None,
        recursive: true,
    }
    .apply(&tree)?;
    Ok(mounts::attach(&tree, target)?)
}
