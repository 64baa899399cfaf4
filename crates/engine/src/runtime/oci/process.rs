//! What every process of a container goes through, whether it is the first or an exec: its control groups, its
//! terminal, its user.

use std::{
    convert::Infallible,
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use oci_spec::runtime::Process;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair},
    process::{DumpableBehavior, set_dumpable_behavior},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    thread::{CapabilitySets, Gid, Uid, set_capabilities},
};

use super::{last_steps::LastSteps, messages::fail};
use crate::{
    error::{Context, Error, Result, errno_of, errno_text},
    shim::protocol::{receive, send},
};

/// Why a process does not become its program.
pub(super) type Reason = String;

pub(super) fn because(what: &'static str) -> impl Fn(Errno) -> Reason {
    move |errno| format!("error {what}: {}", errno_text(errno))
}

/// Before this process has a child: what the child inherits, and what must not be seen in it.
pub(super) fn prepare(process: &Process) -> Result<()> {
    if let Some(score) = process.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .context(|| format!("set the OOM score to {score}"))?;
    }
    // Nothing that this process has open is the container's to look at.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "hide the helper".to_owned())
}

/// The way of a terminal's master from the new process to the helper.
pub(super) struct TerminalWay {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl TerminalWay {
    /// `None` for a process without a terminal.
    pub(super) fn of(process: &Process) -> Result<Option<Self>> {
        if process.terminal() != Some(true) {
            return Ok(None);
        }
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.context(|| "make a terminal's socket".to_owned())?;
        Ok(Some(Self { ours, theirs }))
    }

    /// In the new process: opens a terminal of the container's, takes it as the process's own and sends its
    /// master. Returns the other side.
    pub(super) fn take_terminal(&self) -> std::result::Result<OwnedFd, Errno> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        send(&self.theirs, &(), &[master.as_fd()]).map_err(|error| errno_of(&error))?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        rustix::stdio::dup2_stdin(&slave)?;
        rustix::stdio::dup2_stdout(&slave)?;
        rustix::stdio::dup2_stderr(&slave)?;
        Ok(slave)
    }

    /// In the helper: the master, once the process has become its program.
    pub(super) fn master(self) -> Result<OwnedFd> {
        let received =
            receive::<()>(&self.ours, RecvFlags::DONTWAIT).context(|| "receive the terminal".to_owned())?;
        let master = received.and_then(|((), mut fds)| fds.pop());
        master.ok_or_else(|| Error::system("the process has sent no terminal"))
    }
}

/// In the new process: becomes what `become_program` makes of it, or says why not and ends.
pub(super) fn run(
    steps: &LastSteps,
    become_program: impl FnOnce() -> std::result::Result<Infallible, Reason>,
) -> ! {
    let Err(reason) = become_program();
    // SAFETY: the pipe stays open until this process becomes another program or ends.
    fail(unsafe { BorrowedFd::borrow_raw(steps.messages()) }, &reason);
    // SAFETY: ends this process at once; nothing of the helper's may run twice.
    unsafe { libc::_exit(1) }
}

/// Moves this process into the groups that `doors` are files of. Nothing that is opened later is opened
/// without the container's device rules.
pub(super) fn enter_groups(doors: &[File]) -> std::result::Result<(), Reason> {
    for door in doors {
        rustix::io::write(door, b"0").map_err(because("joining a control group"))?;
    }
    Ok(())
}

/// The user, and then the last steps.
pub(super) fn finish(process: &Process, steps: &LastSteps) -> std::result::Result<Infallible, Reason> {
    become_user(process).map_err(because("becoming the user"))?;
    if process.no_new_privileges() == Some(true) {
        rustix::thread::set_no_new_privs(true).map_err(because("giving up new privileges"))?;
    }
    steps.run()
}

/// In a new namespace of users this process is nobody at first.
pub(super) fn become_root() -> std::result::Result<(), Errno> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Changes users and keeps every capability, which the last steps give up.
fn become_user(process: &Process) -> std::result::Result<(), Errno> {
    let user = process.user();
    let groups: Vec<Gid> =
        user.additional_gids().iter().flatten().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups)?;
    rustix::thread::set_keep_capabilities(true)?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let all = rustix::thread::capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: all.permitted, ..all })
}

/// The kernel's last complaint.
pub(super) fn last_error() -> Errno {
    errno_of(&io::Error::last_os_error())
}
