//! A process in a container that runs already: the namespaces and control groups of its first process, then
//! what every process goes through.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::Process;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    last_steps::LastSteps,
    process::{self, Reason, TerminalWay, because},
};
use crate::{
    error::{Context, Error, Result},
    runtime::{
        bundle::{Bundle, read},
        cgroup::Cgroups,
    },
    userns::Remap,
};

/// Every kind but users', which many containers share with this machine.
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
    /// See [`Cgroups::doors`].
    doors: Vec<File>,
    /// Its users, if they are not this machine's.
    remap: Option<Remap>,
}

impl Container {
    /// Finds the container of `bundle`.
    ///
    /// # Errors
    /// It does not run.
    pub(super) fn find(bundle: &Bundle) -> Result<Self> {
        let ended = || Error::conflict("the container is not running");
        let pid: i32 = read(&bundle.pid())?;
        let pid = Pid::from_raw(pid).ok_or_else(ended)?;
        let first = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| ended())?;
        // The number could be another's by now; who is in the container's group is the container's.
        let group = bundle.cgroup()?.ok_or_else(ended)?;
        let groups =
            fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).map_err(|_| ended())?;
        let mut paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        if !paths.any(|path| Path::new(path).starts_with(&group)) {
            return Err(ended());
        }
        // On version 2 where its first process is: a group whose controllers are delegated to groups below
        // takes no processes itself.
        let own = groups.lines().find_map(|line| line.strip_prefix("0::")).map(Path::new);
        let own = own.filter(|own| own.starts_with(&group)).unwrap_or(&group);
        let cgroups = Cgroups::detect().context(|| "look at the control groups".to_owned())?;
        let doors = cgroups.doors(own).context(|| format!("open the control group {}", own.display()))?;
        let remap = Remap::of_process(pid).context(|| format!("look at the users of process {pid}"))?;
        Ok(Self { first, doors, remap })
    }

    /// Starts a process in the container that does the `steps`. This process is in the container's
    /// namespaces afterwards, but for that of pids. Returns the new one, and where its terminal's master
    /// comes from if it has one.
    ///
    /// # Errors
    /// What the kernel refuses. Later failures are in the messages of `steps`.
    pub(super) fn start(self, process: &Process, steps: &LastSteps) -> Result<(Pid, Option<TerminalWay>)> {
        process::prepare(process)?;
        let terminal = TerminalWay::of(process)?;
        let mut namespaces = NAMESPACES;
        if let Some(remap) = self.remap {
            steps.prepare_for_other_users(remap)?;
            namespaces |= libc::CLONE_NEWUSER;
        }
        // SAFETY: an open descriptor and a number; this process has one thread, and shares neither its
        // working directory nor its root with another.
        if unsafe { libc::setns(self.first.as_raw_fd(), namespaces) } < 0 {
            return Err(process::last_error()).context(|| "join the container's namespaces".to_owned());
        }
        // SAFETY: this process has one thread, so that the child may do whatever its parent may.
        match unsafe { libc::fork() } {
            -1 => Err(process::last_error()).context(|| "fork".to_owned()),
            0 => process::run(steps, || self.become_program(process, steps, terminal.as_ref())),
            pid => {
                let pid = Pid::from_raw(pid).ok_or_else(|| Error::system("the process has no number"))?;
                Ok((pid, terminal))
            }
        }
    }

    /// In the new process.
    fn become_program(
        &self,
        process: &Process,
        steps: &LastSteps,
        terminal: Option<&TerminalWay>,
    ) -> std::result::Result<std::convert::Infallible, Reason> {
        process::enter_groups(&self.doors)?;
        rustix::process::setsid().map_err(because("beginning a session"))?;
        if let Some(terminal) = terminal {
            terminal.take_terminal().map_err(because("opening a terminal"))?;
        }
        process::finish(process, steps)
    }
}
