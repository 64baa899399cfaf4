//! What the cases are written with: engines in private namespaces, the real `docker` command line, a small HTTP
//! client, hand-made images, a registry. It knows binaries and sockets, and nothing of how Coracle is written.

/// The desktop app on a desktop.
pub mod app;
/// Tar archives: root file systems, images, hostile ones.
pub mod archive;
/// What a case is, and how it is run.
pub mod case;
/// A display's windows.
pub mod display;
/// The engines under test: ours on this Linux, ours in a machine, and dockerd.
pub mod engine;
/// A program in a container that looks at files, and changes them, when it is told to.
pub mod follower;
/// HTTP by hand.
pub mod http;
/// Which fields a JSON answer has.
pub mod keys;
/// What a run leaves behind, and its removal.
pub mod leftovers;
/// A whole Coracle with a home of its own.
pub mod machine;
/// Private namespaces.
pub mod namespace;
/// Where programs under test are.
pub mod places;
/// What system calls do to files.
pub mod probes;
/// Programs that run.
pub mod process;
/// Programs of this machine in containers.
pub mod programs;
/// An HTTP proxy.
pub mod proxy;
/// Records that are written while a machine is killed.
pub mod records;
/// Registries to pull from.
pub mod registry;
/// This binary in other roles.
pub mod roles;
/// What a case gets: an engine, a client for it, names of its own.
pub mod target;
/// A desktop's tray.
pub mod tray;
/// Waiting.
pub mod wait;
