//! Every child of PID 1 ends here: its own, and the orphans it inherits.
//!
//! A plain `waitpid(-1)` would steal exit codes from whoever waits for one child. So the reaper looks
//! first (`WNOWAIT`), and then takes exactly that process: the ones started through
//! [`Children::spawn`] get their exit delivered to their [`Child`], all others are orphans that only
//! need to be gone.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::waiting::wait_readable;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The exit code as a shell shows it: 128 + signal number for a process that was killed.
    pub(crate) fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A process that PID 1 started and whose end someone waits for.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
    /// Readable once the process has ended.
    pidfd: OwnedFd,
    exit: Receiver<Exit>,
}

impl Child {
    /// Blocks until the process has ended.
    pub(crate) fn wait(&self) -> Exit {
        // The sender is dropped unused only if the reaper found the process gone before it could look,
        // which would need a second reaper in this process.
        self.exit.recv().unwrap_or(Exit::Signal(libc::SIGKILL))
    }

    /// Blocks until the process has ended or the time is over.
    pub(crate) fn wait_for(&self, timeout: Duration) -> io::Result<Option<Exit>> {
        let [ended] = wait_readable([self.as_fd()], Some(timeout))?;
        Ok(ended.then(|| self.wait()))
    }

    /// Sends a signal. To a process that has already ended: no error, no effect.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Child {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// All children of this process.
pub(crate) struct Children {
    table: Mutex<Table>,
    alone: Condvar,
}

#[derive(Default)]
struct Table {
    owners: HashMap<i32, SyncSender<Exit>>,
    /// Whether a process may exist below this one: set at a start, cleared when the kernel says so.
    any: bool,
}

impl Children {
    pub(crate) fn new() -> Children {
        Children { table: Mutex::default(), alone: Condvar::new() }
    }

    /// Starts a process whose exit is delivered to the returned [`Child`]. No signal is blocked or ignored
    /// in it, whatever this process does for itself or was started with.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // SAFETY: between fork and exec, where it may be called.
        unsafe {
            command.pre_exec(|| {
                engine::shim::reset_signals();
                Ok(())
            });
        }
        // The table stays locked from the fork until the owner is entered, so the reaper cannot meet a
        // process that is not entered yet. It also keeps the reaper off a child that failed to exec,
        // which `Command::spawn` waits for itself.
        let mut table = self.lock();
        let mut started = command.spawn()?;
        table.any = true;
        let pid = Pid::from_child(&started);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // Room for one: the reaper never waits for an owner.
        let (sender, exit) = sync_channel(1);
        table.owners.insert(pid.as_raw_nonzero().get(), sender);
        Ok(Child {
            pid,
            stdin: started.stdin.take(),
            stdout: started.stdout.take(),
            stderr: started.stderr.take(),
            pidfd,
            exit,
        })
    }

    /// Takes every child that has ended and delivers the exits. Never blocks.
    pub(crate) fn reap(&self) {
        let mut table = self.lock();
        loop {
            let ended = match peek() {
                Ok(Some(pid)) => pid,
                Ok(None) => return,
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                    table.any = false;
                    self.alone.notify_all();
                    return;
                }
                Err(error) => {
                    tracing::error!("cannot look for ended processes: {error}");
                    return;
                }
            };
            let exit = match take(ended) {
                Ok(exit) => exit,
                Err(error) => {
                    // Looking again would find the same process again.
                    tracing::error!("cannot reap process {ended}: {error}");
                    return;
                }
            };
            if let Some(owner) = table.owners.remove(&ended) {
                // An owner that no longer listens does not care.
                let _ = owner.try_send(exit);
            } else {
                tracing::debug!("reaped orphan {ended}: {exit}");
            }
        }
    }

    /// Blocks until no process is left below this one, or the time is over; says which.
    pub(crate) fn wait_none(&self, timeout: Duration) -> bool {
        let (table, _) = self
            .alone
            .wait_timeout_while(self.lock(), timeout, |table| table.any)
            .unwrap_or_else(PoisonError::into_inner);
        !table.any
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pid of some child that has ended, which stays a zombie.
fn peek() -> io::Result<Option<i32>> {
    let info = wait_id(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)?;
    // SAFETY: `waitid` filled in the child's fields, or left them zero when no child has ended.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Reaps the zombie `pid`.
fn take(pid: i32) -> io::Result<Exit> {
    let id = libc::id_t::try_from(pid).map_err(io::Error::other)?;
    let info = wait_id(libc::P_PID, id, libc::WEXITED | libc::WNOHANG)?;
    // SAFETY: `waitid` returned a child, so its status is filled in.
    let status = unsafe { info.si_status() };
    Ok(match info.si_code {
        libc::CLD_EXITED => Exit::Code(status),
        _ => Exit::Signal(status),
    })
}

fn wait_id(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> io::Result<libc::siginfo_t> {
    loop {
        // SAFETY: all zeroes is a valid siginfo_t; `waitid` writes into it only.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(kind, id, &raw mut info, flags), info)
        };
        if result == 0 {
            return Ok(info);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{isolated, sh, with_reaper};
    use super::*;

    #[test]
    fn exits_reach_their_owners() {
        isolated("init::reaper::tests::exits_reach_their_owners", || {
            with_reaper(|children| {
                let killed = children.spawn(&mut sh("kill -9 $$")).unwrap();
                let coded: Vec<_> =
                    (0..8).map(|code| children.spawn(&mut sh(&format!("exit {code}"))).unwrap()).collect();
                for (code, child) in coded.iter().enumerate().rev() {
                    assert_eq!(child.wait(), Exit::Code(i32::try_from(code).unwrap()));
                }
                let killed = killed.wait();
                assert_eq!(killed, Exit::Signal(9));
                assert_eq!(killed.shell_code(), 137);
                assert!(children.wait_none(Duration::from_secs(60)));
            });
        });
    }

    #[test]
    fn orphans_are_reaped() {
        isolated("init::reaper::tests::orphans_are_reaped", || {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
            with_reaper(|children| {
                // The inner process outlives its parent until the outer exit was seen, and so becomes ours.
                let (gate, open) = io::pipe().unwrap();
                let outer =
                    children.spawn(sh("exec 3<&0; (read -r _ <&3; exit 3) & exit 0").stdin(gate)).unwrap();
                assert_eq!(outer.wait(), Exit::Code(0));
                assert!(!children.wait_none(Duration::ZERO), "the orphan still runs");
                drop(open);
                assert!(children.wait_none(Duration::from_secs(60)));
            });
        });
    }

    #[test]
    fn a_program_that_does_not_exist_is_an_error_and_leaves_nothing() {
        isolated("init::reaper::tests::a_program_that_does_not_exist_is_an_error_and_leaves_nothing", || {
            with_reaper(|children| {
                for _ in 0..50 {
                    let error = children.spawn(&mut Command::new("/nonexistent")).err().unwrap();
                    assert_eq!(error.kind(), io::ErrorKind::NotFound);
                }
                assert!(children.wait_none(Duration::ZERO));
            });
        });
    }

    #[test]
    fn a_signal_to_an_ended_process_is_no_error() {
        isolated("init::reaper::tests::a_signal_to_an_ended_process_is_no_error", || {
            with_reaper(|children| {
                let child = children.spawn(&mut sh("exec sleep 1000")).unwrap();
                assert_eq!(child.wait_for(Duration::ZERO).unwrap(), None);
                child.signal(Signal::TERM).unwrap();
                assert_eq!(child.wait(), Exit::Signal(libc::SIGTERM));
                child.signal(Signal::TERM).unwrap();
            });
        });
    }
}
