//! The process that holds running containers while the engine is away.
//!
//! One small synchronous process for each engine. It is the parent of every container's first process
//! and of every exec, keeps a copy of the descriptors that the engine has of them (so that no container
//! gets SIGPIPE or SIGHUP when the engine dies, and no output is lost), and remembers how they ended
//! until an engine has taken note. The engine starts it and connects by `shim.sock` in its exec root;
//! it lives in a session and a control group of its own.
//!
//! It must know nothing of containers: it starts helpers (`oci …`, see [`crate::runtime::oci`]), each of
//! which reports the process it made and ends, leaving that process to its nearest subreaper, the shim.

mod launch;
/// Messages between engine and shim.
pub mod protocol;
mod server;
mod table;

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    fs::{FlockOperation, Mode, flock},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
    process::{WaitOptions, umask, waitpid},
};

pub use launch::reset_signals;
use launch::{Program, child_signals};
use protocol::{LOCK, SOCKET};
use server::Server;

/// What the program calls the shim when it starts it, before the exec root.
pub const ROOT_OPTION: &str = "--root";
/// The control group of shims, beside those of engines and containers.
const CGROUP: &str = "coracle-shim";
const BACKLOG: i32 = 8;

/// `shim --root DIR`: returns when a shim serves that exec root, this one in the background or another.
/// To be called before the process has a second thread.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let root = match arguments.as_slice() {
        [option, root] if option == ROOT_OPTION => PathBuf::from(root),
        _ => return ExitCode::from(2),
    };
    match start(&root) {
        Ok(code) => code,
        Err(error) => {
            // The engine reads this from our standard error.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn start(root: &Path) -> io::Result<ExitCode> {
    // Whatever the engine has open, or had when it was started, is not ours to keep open.
    // SAFETY: nothing is open yet that this process uses.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(root.join(LOCK))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(error.into()),
    }
    // Everything that can fail is done before, where the engine hears of it.
    umask(Mode::from_raw_mode(0o077));
    let listener = listen_in(root)?;
    let program = Program::of_this_process()?;
    let (mut ready, tell) = io::pipe()?;
    match fork()? {
        Fork::Parent(child) => {
            drop(tell);
            let told = ready.read(&mut [0])? > 0;
            let status = waitpid(Some(child), WaitOptions::empty())?;
            Ok(if told && status.is_some_and(|(_, status)| status.exit_status() == Some(0)) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Fork::Child => {
            drop(ready);
            rustix::process::setsid()?;
            // The leader of a session could get a terminal; its child cannot.
            if let Fork::Parent(_) = fork()? {
                return Ok(ExitCode::SUCCESS);
            }
            serve(root, lock, listener, program, tell)
        }
    }
}

fn serve(
    root: &Path,
    lock: File,
    listener: OwnedFd,
    program: Program,
    mut tell: io::PipeWriter,
) -> io::Result<ExitCode> {
    let _lock = lock;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let children = child_signals()?;
    // Without these it works as well, only not as long.
    let _ = rustix::thread::set_name(c"coracle-shim");
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
    enter_own_cgroup();
    // SAFETY: no handler is replaced that anything relies on.
    unsafe {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
    let root = fs::canonicalize(root)?;
    std::env::set_current_dir("/")?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    drop(null);
    tell.write_all(b"1")?;
    drop(tell);
    Server::new(listener, children, program).run(&root.join(SOCKET))?;
    Ok(ExitCode::SUCCESS)
}

/// Binds the socket under its short name, since a socket's path may have no more than 107 bytes.
fn listen_in(root: &Path) -> io::Result<OwnedFd> {
    let before = std::env::current_dir()?;
    std::env::set_current_dir(root)?;
    let listener = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // Only the holder of the lock comes here, so a socket that is there is a dead shim's.
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(listener.as_fd(), &SocketAddrUnix::new(SOCKET)?)?;
    listen(&listener, BACKLOG)?;
    std::env::set_current_dir(before)?;
    Ok(listener)
}

/// Leaves the engine's control group, with which it would be ended by whoever supervises the engine.
/// The hierarchies that limit resources have no say in that and are left alone.
fn enter_own_cgroup() {
    for group in own_cgroups() {
        // Where this is not allowed, the engine's group has to do.
        let _ = fs::create_dir(&group);
        let _ = fs::write(group.join("cgroup.procs"), "0");
    }
}

fn own_cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = match root.join("cgroup.controllers").exists() {
        true => vec![root.to_owned()],
        false => vec![root.join("systemd"), root.join("unified")],
    };
    hierarchies.into_iter().map(|hierarchy| hierarchy.join(CGROUP)).collect()
}

/// Removes the control group of shims. Whether nobody is left in it.
pub(crate) fn remove_cgroup() -> bool {
    let gone = |group: &PathBuf| match fs::remove_dir(group) {
        Err(error) => error.kind() != io::ErrorKind::ResourceBusy,
        Ok(()) => true,
    };
    own_cgroups().iter().all(gone)
}

enum Fork {
    Parent(rustix::process::Pid),
    Child,
}

fn fork() -> io::Result<Fork> {
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => rustix::process::Pid::from_raw(pid).map(Fork::Parent).ok_or_else(|| io::Error::other("fork")),
    }
}
