//! `oci create ID ROOT` and `oci exec ID EXEC ROOT`: a short process with one thread that makes a
//! container or a process in one, starts it, reports it on descriptor 3 and ends. Its own 0, 1 and 2 are
//! the new process's. What it reads is written by `super::bundle`.
//!
//! Everything comes from specifications that the engine has made itself, so only what these can say is done.

/// A container's first process.
mod create;
/// What a container has in `/dev`.
mod devices;
/// A process in a container that runs already.
mod join;
/// What the new process does before it becomes the container's program.
mod last_steps;
/// The loopback interface of a new network namespace.
mod loopback;
/// How failures get from the new process to the helper.
mod messages;
/// What the options of a mount mean.
mod options;
/// What a container gets of the machine's files.
mod outside;
/// What every process of a container goes through.
mod process;
/// Which file a command is.
mod program;
/// What a container has as its root.
mod root;

use std::{
    ffi::OsString,
    io::{self, Write},
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

use oci_spec::runtime::{Process, Spec};
use rustix::{
    fs::Mode,
    process::{Pid, PidfdFlags, pidfd_open},
};

use self::{last_steps::LastSteps, messages::Messages, process::TerminalWay};
use super::{
    bundle::{Layout, read},
    filter,
    in_root::Root,
    workload::Workload,
};
use crate::{
    error::{Context, Error, Result, errno_text},
    shim::protocol::{MAX_MESSAGE, Report, send},
    store::{self, Durability},
    userns::Owners,
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
    make_working_directory(&spec, &workload.directory)?;
    let messages = Messages::open("error during container init: ")?;
    let steps = last_steps(layout, workload, &messages)?;
    let group = bundle.cgroup()?.ok_or_else(|| Error::invalid("the container has no control group"))?;
    let (pid, terminal) = create::Container::prepare(&spec, id, &group)?.start(&steps)?;
    let made = finish(messages, pid, terminal)?;
    store::write_json(&bundle.pid(), &pid.as_raw_nonzero(), Durability::Renamed)?;
    Ok(made)
}

fn exec(layout: &Layout, id: &str, name: &str) -> Result<Made> {
    let bundle = layout.bundle(id);
    let workload: Workload = read(&bundle.exec_workload(name))?;
    let process: Process = read(&bundle.exec_process(name))?;
    let messages = Messages::open("")?;
    let steps = last_steps(layout, workload, &messages)?;
    let (pid, terminal) = join::Container::find(&bundle)?.start(&process, &steps)?;
    finish(messages, pid, terminal)
}

fn last_steps(layout: &Layout, workload: Workload, messages: &Messages) -> Result<LastSteps> {
    let filter = workload.filter.as_deref().map(|name| filter::load(&layout.filters(), name)).transpose()?;
    LastSteps::new(workload, filter, messages)
}

/// Waits until the new process has become its program, or has said why not.
fn finish(messages: Messages, pid: Pid, terminal: Option<TerminalWay>) -> Result<Made> {
    match messages.wait() {
        Some(failure) => Err(Error::system(failure)),
        None => Ok(Made { pid, terminal: terminal.map(TerminalWay::master).transpose()? }),
    }
}

/// Makes the working directory while the root file system can still be written. One below a mount is made there
/// when it is mounted, where it can be.
fn make_working_directory(spec: &Spec, directory: &Path) -> Result<()> {
    let Some(root) = spec.root() else { return Ok(()) };
    let path = root.path();
    let root = Root::open(path).context(|| format!("error opening rootfs {}", path.display()))?;
    let owners = match outside::in_user_namespace(spec) {
        true => create::remap(spec)?.owners(),
        false => Owners::default(),
    };
    let _ = owners.as_root(|| root.create_directories(directory));
    Ok(())
}
