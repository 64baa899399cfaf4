//! Serves folders of the host to a guest.
//!
//! The guest mounts one virtio-fs device, whose root holds the shares by their numbers: `0`, `1`, … ([`Share`]). Behind
//! it are the host's own files; what a guest wants to be different of them, their owners, is kept beside them
//! (`owner`). This runs in a process of its own, which can open nothing but the shares ([`jail`]): the requests it
//! reads are those of a guest that may be hostile.
//!
//! To add a kind of request: a method of [`virtiofsd::filesystem::FileSystem`] in `file_system`. One that changes something
//! says what, or the guest hears of it twice (`events`).

mod attributes;
mod device;
mod directory;
mod events;
mod file_system;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod hostile;
pub mod jail;
mod nameless;
mod node;
mod opened;
mod owner;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm::devices::transport::vhost_user::{self, ServeError};

/// A folder of the host that the guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    pub path: PathBuf,
    pub read_only: bool,
}

/// Why files are not served, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {}", path.display())]
    Share { path: PathBuf, source: io::Error },
    #[error("cannot lock itself up")]
    Jail(#[from] jail::JailError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Serves `shares` to the emulator at the other end of `socket`, by the vhost-user protocol, until it hangs up. It takes the
/// whole process for that: its umask, its limit of open files, and its access to everything that is no share.
pub fn serve(shares: &[Share], socket: UnixStream) -> Result<(), Error> {
    rustix::process::umask(Mode::empty());
    // Those that the guest knows, and those that it has open.
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| usize::try_from(limit).ok());
    let known = limit.unwrap_or(usize::MAX) / 4 * 3;
    let files = file_system::SharedFiles::open(shares, known)
        .map_err(|(place, error)| Error::Share { path: shares[place].path.clone(), source: error.into() })?;
    jail::enter(shares)?;
    Ok(vhost_user::serve(Box::new(device::Fs::new(files)), socket, vhost_user::Config::Known)?)
}
