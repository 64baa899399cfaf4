//! `oci create ID ROOT` and `oci exec ID EXEC ROOT`: a short process with one thread that makes a
//! container or a process in one, starts it, reports it on descriptor 3 and ends. Its own 0, 1 and 2 are
//! the new process's. What it reads is written by `super::bundle`.
//!
//! Making a container's namespaces, mounts and control groups is libcontainer's work. Joining them is
//! `join`'s, and the last steps before the program are `last_steps`'.

/// The socket on which a terminal's master comes.
mod console;
/// A process in a container that runs already.
mod join;
/// What the new process does before it becomes the container's program.
mod last_steps;
/// The loopback interface of a new network namespace.
mod loopback;
/// How failures get from the new process to the helper.
mod messages;
/// Which file a command is.
mod program;

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use oci_spec::runtime::{Process, Spec};
use rustix::{
    fs::{FileType, Mode},
    process::{Pid, PidfdFlags, pidfd_open},
};

use self::{console::Console, last_steps::LastSteps, messages::Messages};
use super::{
    bundle::{Layout, read},
    filter,
    in_root::Root,
    workload::Workload,
};
use crate::{
    error::{Error, Result, errno_text},
    shim::protocol::{MAX_MESSAGE, Report, send},
};

/// Where the helper reports.
const REPORT: i32 = 3;

/// `create ID ROOT` or `exec ID EXEC ROOT`. To be called before the process has a second thread.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let mut words = Vec::new();
    for argument in &arguments {
        let Some(word) = argument.to_str() else { return ExitCode::from(2) };
        words.push(word);
    }
    if rustix::io::fcntl_getfd(
        // SAFETY: only looked at; whether it is open is what is asked.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(REPORT) },
    )
    .is_err()
    {
        let _ = writeln!(io::stderr(), "this is a helper of the engine, which starts it by itself");
        return ExitCode::from(2);
    }
    // SAFETY: whoever starts this gives it descriptor 3, which nothing else here uses.
    let report = unsafe { OwnedFd::from_raw_fd(REPORT) };
    let made = prepare(&report).and_then(|()| match words.as_slice() {
        ["create", id, root] => create(&Layout::new(Path::new(root)), id),
        ["exec", id, name, root] => exec(&Layout::new(Path::new(root)), id, name),
        _ => Err(Error::invalid("unknown helper")),
    });
    match made.and_then(|made| made.report(&report)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut reason = error.to_string();
            // A reason that does not fit in a packet is better cut than lost.
            reason.truncate(reason.floor_char_boundary(MAX_MESSAGE / 8));
            let _ = send(&report, &Report::Error(reason), &[]);
            ExitCode::FAILURE
        }
    }
}

/// What the new process inherits.
fn prepare(report: &OwnedFd) -> Result<()> {
    let failed = |error: rustix::io::Errno| Error::system(errno_text(error));
    rustix::io::fcntl_setfd(report, rustix::io::FdFlags::CLOEXEC).map_err(failed)?;
    let _ = rustix::thread::set_name(c"coracle-oci");
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A session keyring of its own, so that containers do not share the engine's. A kernel without
    // keyrings has none to share.
    // SAFETY: no pointer but null is passed.
    unsafe {
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    };
    Ok(())
}

/// A process that runs its program, and its terminal's master.
struct Made {
    pid: Pid,
    terminal: Option<OwnedFd>,
}

impl Made {
    /// Tells the process while it is still our child and its number cannot be another's.
    fn report(self, report: &OwnedFd) -> Result<()> {
        let failed = |error: rustix::io::Errno| Error::system(errno_text(error));
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty()).map_err(failed)?;
        let mut fds = vec![pidfd.as_fd()];
        fds.extend(self.terminal.as_ref().map(AsFd::as_fd));
        let pid = self.pid.as_raw_nonzero().get().unsigned_abs();
        send(report, &Report::Pid(pid), &fds).map_err(|error| Error::system(error.to_string()))
    }
}

fn create(layout: &Layout, id: &str) -> Result<Made> {
    let bundle = layout.bundle(id);
    let workload: Workload = read(&bundle.workload())?;
    let spec: Spec = read(&bundle.path().join("config.json"))?;
    prepare_root(&spec, &workload)?;
    let console = workload.terminal.map(|_| Console::listen(bundle.console())).transpose()?;
    let mut messages = Messages::open("error during container init: ")?;
    let steps = last_steps(layout, workload, &messages)?;
    let built = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_root_path(layout.states())
        .map(|builder| builder.with_console_socket(console.as_ref().map(Console::path)).with_executor(steps))
        .and_then(|builder| builder.as_init(bundle.path()).with_systemd(false).build());
    let built = built.map_err(|error| error.to_string()).and_then(|container| {
        if let Some(pid) = container.pid()
            && loopback::is_new(&spec)
        {
            loopback::bring_up(pid.as_raw())
                .map_err(|error| format!("bring up the loopback interface: {error}"))?;
        }
        Ok(container)
    });
    let pid = built.and_then(|mut container| {
        container.start().map_err(|error| error.to_string())?;
        Ok(container.pid())
    });
    let pid = pid.map(|pid| Pid::from_raw(pid?.as_raw()));
    let pid = finish(&mut messages, pid)?;
    Ok(Made { pid, terminal: console.map(Console::receive).transpose()? })
}

fn exec(layout: &Layout, id: &str, name: &str) -> Result<Made> {
    let bundle = layout.bundle(id);
    let workload: Workload = read(&bundle.exec_workload(name))?;
    let process: Process = read(&bundle.exec_process(name))?;
    let mut messages = Messages::open("")?;
    let steps = last_steps(layout, workload, &messages)?;
    let started = join::Container::find(layout, id, &bundle)?.start(&process, &steps);
    let (pid, socket) = started?;
    let pid = finish(&mut messages, Ok(Some(pid)))?;
    Ok(Made { pid, terminal: socket.as_ref().map(join::terminal).transpose()? })
}

fn last_steps(layout: &Layout, workload: Workload, messages: &Messages) -> Result<LastSteps> {
    let filter = workload.filter.as_deref().map(|name| filter::load(&layout.filters(), name)).transpose()?;
    LastSteps::new(workload, filter, messages)
}

/// Waits until the new process has become its program, or has said why not.
fn finish(messages: &mut Messages, pid: std::result::Result<Option<Pid>, String>) -> Result<Pid> {
    let failure = messages.wait();
    match (pid, failure) {
        (Ok(Some(pid)), None) => Ok(pid),
        (_, Some(failure)) => Err(Error::system(failure)),
        (Ok(None), None) => Err(Error::system("the container has no process")),
        (Err(error), None) => Err(Error::system(error)),
    }
}

/// What has to be done while the root file system can still be written and its files are ours: the
/// working directory, and a look at what is mounted over what.
fn prepare_root(spec: &Spec, workload: &Workload) -> Result<()> {
    let Some(root) = spec.root() else { return Ok(()) };
    let failed = |what: String| move |error: io::Error| Error::system(format!("{what}: {}", go_text(&error)));
    let path = root.path();
    let root = Root::open(path).map_err(failed(format!("error opening rootfs {}", path.display())))?;
    for mount in spec.mounts().iter().flatten().filter(|mount| mount.typ().as_deref() == Some("bind")) {
        let (Some(source), destination) = (mount.source(), mount.destination()) else { continue };
        let what = || {
            let (source, destination) = (source.display(), destination.display());
            format!("error mounting \"{source}\" to rootfs at \"{destination}\"")
        };
        // The container's own control groups, which are made later.
        if source.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let source_is_directory = fs::metadata(source).map_err(failed(what()))?.is_dir();
        let target = root.file_type(destination).map_err(failed(what()))?;
        if target.is_some_and(|kind| (kind == FileType::Directory) != source_is_directory) {
            return Err(Error::system(format!("{}: not a directory", what())));
        }
    }
    // One below a mount is made there when it is mounted, where it can be.
    let _ = root.create_directories(&workload.directory);
    Ok(())
}

fn go_text(error: &io::Error) -> String {
    rustix::io::Errno::from_io_error(error).map_or_else(|| error.to_string(), errno_text)
}
