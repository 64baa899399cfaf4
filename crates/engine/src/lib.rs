//! A container engine that speaks the Docker Engine API.
//!
//! It owns images, containers and networks on one Linux machine: their state on disk, the processes
//! that run, and the API that shows them. It must not know whether that machine is a VM, nor who its
//! host is: what comes from outside comes through its API and its [`Config`].

/// The Docker Engine API: routes, decoding, encoding. No decisions.
pub mod api;
/// Containers and what runs in them: states, verbs, logs, attached clients.
pub mod container;
/// What an error means to a client.
pub mod error;
/// What happens, told to whoever listens.
pub mod events;
/// Images: the content store, references, and the ways in and out.
pub mod image;
/// Opening what is at a path that somebody else chose.
mod lookup;
/// Mounts by descriptor.
mod mounts;
/// Networks a container can be in.
pub mod network;
/// How a container's processes come to be: OCI configuration and the helper that applies it.
pub mod runtime;
/// The process that holds running containers while the engine is away.
pub mod shim;
/// Layers unpacked on disk, and a container's file system on top of them.
pub mod snapshot;
/// Small JSON files that survive a crash.
pub mod store;
/// The engine as a whole: what it is made of, its start and its end.
pub mod system;
/// Containers whose users are others outside of them.
pub mod userns;
/// Volumes: directories that outlive the containers that use them.
mod volume;

use error::{Error, Result};

/// Runs what blocks on the disk, on mounts or on other processes. It comes to its end even if nobody waits
/// for it any more.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(run).await {
        Ok(result) => result,
        Err(error) => Err(Error::system("a task of the engine panicked").because(error)),
    }
}

pub use system::{Config, Engine, Host, STOP_TIMEOUT_FILE, serve};
