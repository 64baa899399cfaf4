//! A process in a container that runs already: the namespaces and control groups of its first process,
//! then the user, then the last steps.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::Process;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair},
    process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    thread::{CapabilitySets, Gid, Uid, set_capabilities},
};

use super::{last_steps::LastSteps, messages::fail};
use crate::{
    error::{Context, Error, Result, errno_text},
    runtime::{
        bundle::{Bundle, Layout, read},
        cgroup::{CgroupVersion, Cgroups},
    },
    shim::protocol::{receive, send},
};

/// Every kind but users': containers have this machine's.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What is joined.
pub(super) struct Container {
    /// Its first process.
    first: OwnedFd,
    /// Files that a process moves itself by, each into one control group.
    doors: Vec<File>,
}

impl Container {
    /// Finds the container `id`.
    ///
    /// # Errors
    /// It does not run.
    pub(super) fn find(layout: &Layout, id: &str, bundle: &Bundle) -> Result<Self> {
        let state: serde_json::Value = read(&layout.states().join(id).join("state.json"))?;
        let pid = state.get("pid").and_then(serde_json::Value::as_i64);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let ended = || Error::conflict(format!("container {id} is not running"));
        let pid = pid.ok_or_else(ended)?;
        let first = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| ended())?;
        // The number could be another's by now; who is in the container's group is the container's.
        let group = bundle.cgroup()?.ok_or_else(ended)?;
        let groups =
            fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).map_err(|_| ended())?;
        let mut paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        if !paths.any(|path| Path::new(path).starts_with(&group)) {
            return Err(ended());
        }
        let cgroups = Cgroups::detect().context(|| "look at the control groups".to_owned())?;
        let open = |path: PathBuf| {
            let opened = OpenOptions::new().write(true).open(&path);
            opened.context(|| format!("open {}", path.display()))
        };
        let doors = match cgroups.version() {
            // A thread that moves itself, and nothing else, need not wait until every processor has
            // taken note, as it would with `cgroup.procs`; and this process has one thread.
            CgroupVersion::V1 => {
                cgroups.groups(&group).map(|group| open(group.join("tasks"))).collect::<Result<_>>()?
            }
            CgroupVersion::V2 => {
                let own = groups.lines().find_map(|line| line.strip_prefix("0::")).map(Path::new);
                // Where its first process is: a group whose controllers are delegated to groups below
                // takes no processes itself.
                let own = own.filter(|own| own.starts_with(&group)).unwrap_or(&group);
                cgroups.groups(own).map(|group| open(group.join("cgroup.procs"))).collect::<Result<_>>()?
            }
        };
        Ok(Self { first, doors })
    }

    /// Starts a process in the container that does the `steps`. This process is in the container's
    /// namespaces afterwards, but for that of pids. Returns the process, and where its terminal's master
    /// comes from if it has one.
    ///
    /// # Errors
    /// What the kernel refuses. Later failures are in the messages of `steps`.
    pub(super) fn start(self, process: &Process, steps: &LastSteps) -> Result<(Pid, Option<OwnedFd>)> {
        if let Some(score) = process.oom_score_adj() {
            fs::write("/proc/self/oom_score_adj", score.to_string())
                .context(|| format!("set the OOM score to {score}"))?;
        }
        // Nothing that this process has open is the container's to look at.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).context(|| "hide the helper".to_owned())?;
        let terminal = process
            .terminal()
            .unwrap_or(false)
            .then(|| socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None))
            .transpose()
            .context(|| "make a terminal's socket".to_owned())?;
        let (ours, theirs) = terminal.unzip();
        // SAFETY: an open descriptor and a number; this process has one thread, and shares neither its
        // working directory nor its root with another.
        if unsafe { libc::setns(self.first.as_raw_fd(), NAMESPACES) } < 0 {
            let error = io::Error::last_os_error();
            return Err(error).context(|| "join the container's namespaces".to_owned());
        }
        // SAFETY: this process has one thread, so that the child may do whatever its parent may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()).context(|| "fork".to_owned()),
            0 => {
                let Err(reason) = self.become_program(process, steps, theirs);
                // SAFETY: the pipe stays open until this process becomes another program or ends.
                fail(unsafe { BorrowedFd::borrow_raw(steps.messages()) }, &reason);
                // SAFETY: ends this process at once; nothing of the helper's may run twice.
                unsafe { libc::_exit(1) }
            }
            pid => {
                let pid = Pid::from_raw(pid).ok_or_else(|| Error::system("the process has no number"))?;
                Ok((pid, ours))
            }
        }
    }

    /// In the new process.
    fn become_program(
        &self,
        process: &Process,
        steps: &LastSteps,
        terminal: Option<OwnedFd>,
    ) -> std::result::Result<std::convert::Infallible, String> {
        for door in &self.doors {
            rustix::io::write(door, b"0").map_err(because("joining a control group"))?;
        }
        rustix::process::setsid().map_err(because("beginning a session"))?;
        if let Some(socket) = terminal {
            take_terminal(&socket).map_err(because("opening a terminal"))?;
        }
        become_user(process).map_err(because("becoming the user"))?;
        if process.no_new_privileges() == Some(true) {
            rustix::thread::set_no_new_privs(true).map_err(because("giving up new privileges"))?;
        }
        steps.run()
    }
}

/// The master of the terminal that the new process has sent.
pub(super) fn terminal(socket: &OwnedFd) -> Result<OwnedFd> {
    let received =
        receive::<()>(socket, RecvFlags::DONTWAIT).context(|| "receive the terminal".to_owned())?;
    let master = received.and_then(|((), mut fds)| fds.pop());
    master.ok_or_else(|| Error::system("the process has sent no terminal"))
}

fn because(what: &'static str) -> impl Fn(Errno) -> String {
    move |errno| format!("error {what}: {}", errno_text(errno))
}

/// Opens a terminal of the container's and takes it as this process's own.
fn take_terminal(socket: &OwnedFd) -> std::result::Result<(), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    send(socket, &(), &[master.as_fd()])
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    rustix::stdio::dup2_stderr(&slave)
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
