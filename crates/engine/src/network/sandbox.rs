//! Network namespaces: made, entered and removed by path.

use std::{
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::Path,
    thread,
};

use rustix::{
    mount::mount_bind,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    error::{Context, Error, Result},
    mounts,
    userns::Remap,
};

/// The namespace of the thread that asks, not of its process.
const OWN: &str = "/proc/thread-self/ns/net";

/// Makes a network namespace that stays as long as it is mounted at `path`, and does `work` in it. It belongs to
/// the machine's users, or to a new namespace of those of `remap`.
pub(super) fn make<T: Send>(
    path: &Path,
    remap: Option<Remap>,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T> {
    let what = || format!("make the network namespace {}", path.display());
    // What a crash has left here is nobody's.
    remove(path)?;
    File::create(path).context(what)?;
    if let Some(remap) = remap {
        let mount = |namespaces: &Path| Ok(mount_bind(namespaces.join("net"), path)?);
        let made = remap.make_namespaces(libc::CLONE_NEWNET, mount).context(what);
        return made.and_then(|()| enter(path, work)).inspect_err(|_| drop(remove(path)));
    }
    let made = on_thread(|| {
        // SAFETY: the file descriptors of the process stay shared; only this thread changes its namespace,
        // and it ends without running anything else.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        mount_bind(OWN, path)?;
        work()
    });
    if made.is_err() {
        let _ = remove(path);
    }
    made.context(what)
}

/// Does `work` in the network namespace at `path`.
pub(super) fn enter<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
    let what = || format!("enter the network namespace {}", path.display());
    let namespace = File::open(path).context(what)?;
    on_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    })
    .context(what)
}

/// Removes the namespace at `path`, if there is one. It is gone when no process is in it any more.
pub(super) fn remove(path: &Path) -> Result<()> {
    let what = || format!("remove the network namespace {}", path.display());
    mounts::detach(path).context(what)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.context(what),
    }
}

/// Does `work` on a thread of its own: one that has changed its namespace must not go on with anything else.
fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("namespace".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("a thread of the engine panicked"))?
    })
}

/// The path of a namespace, open: to be given to the kernel.
pub(super) fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        Error::system(format!("open the network namespace {}", path.display())).because(error)
    })
}
