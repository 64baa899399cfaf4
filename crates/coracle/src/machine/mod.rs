//! A machine: its directory on the host, and the process that owns it while it runs.

/// From settings to a running VM.
pub(crate) mod assemble;
/// What is going on, for those who watch.
pub(crate) mod board;
/// From a started VM to a Docker that answers.
pub(crate) mod boot;
/// `config.toml`.
pub(crate) mod config;
/// The data disk.
pub(crate) mod disk;
/// The process that serves the shares.
pub(crate) mod file_server;
/// Requests to the guest's PID 1.
pub(crate) mod guest_link;
/// `CORACLE_HOME` and a machine's directory.
pub(crate) mod home;
/// Kernel and root of the guest.
pub(crate) mod image;
/// How the starter runs the machine process.
pub(crate) mod launch;
/// The event loop of the machine process.
pub(crate) mod life;
/// One owner per machine.
pub(crate) mod lock;
/// The machine process's log file.
pub(crate) mod log;
/// Machine names.
pub(crate) mod name;
/// The guest's network card.
pub(crate) mod network;
/// The machine process.
pub(crate) mod process;
/// Proxies of the host's.
pub(crate) mod proxy;
/// Folders of the host that a machine has.
pub(crate) mod shares;
/// Sizes as people write them.
pub(crate) mod size;
/// The virtual machine as seen from here.
pub(crate) mod vm;
