//! A running machine: its process, its threads, and how it ended.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};

use crate::builder::{self, Error};
use crate::config::VmConfig;
use crate::devices::transport::vhost_user::ServeError;
use crate::devices::virtio::vsock::Vsock;
use crate::emulator::process::End;
use crate::hypervisor::Choice;

/// How long an emulator that has hung up on a device may take to end.
const HANG_UP_GRACE: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 2, tv_nsec: 0 };

/// A running machine.
///
/// It owns the emulator's process and the devices' threads; dropping it kills the machine. The process also dies with
/// this one, however this one ends.
///
/// # How a guest ends its machine
/// The board has no ACPI, so `reboot(2)` with `RB_POWER_OFF` only halts the CPUs, for ever. The guest's init stops its
/// processes, unmounts and syncs, then either
/// * writes the byte [`POWER_OFF_VALUE`](crate::POWER_OFF_VALUE) to I/O port
///   [`POWER_OFF_PORT`](crate::POWER_OFF_PORT), which is that offset of `/dev/port` (a kernel with `CONFIG_DEVPORT`):
///   the machine ends as [`ExitReason::PoweredOff`], or
/// * calls `reboot(2)` with `RB_AUTOBOOT`, which is a triple fault on this board: [`ExitReason::Reset`].
///
/// A kernel panic also ends in a reset, and is told apart by its message on the console.
pub struct Vm {
    shared: Arc<Shared>,
    vsock: Vsock,
    info: VmInfo,
    supervisor: Option<JoinHandle<()>>,
}

/// What there is to know of a running machine.
#[derive(Debug, Clone)]
pub struct VmInfo {
    /// The emulator's process id.
    pub pid: u32,
    /// What runs the CPUs, and why.
    pub accelerator: Choice,
    /// Where the guest's console goes.
    pub console_log: PathBuf,
}

/// How a machine ended.
#[derive(Debug, Clone)]
pub enum ExitReason {
    /// The guest switched it off.
    PoweredOff,
    /// The guest reset it.
    Reset,
    /// The guest's kernel gave up.
    GuestPanic { message: String },
    /// [`Vm::kill`] was called.
    Killed,
    /// Someone else killed the emulator, or it crashed.
    EmulatorKilled { signal: i32, stderr: String },
    /// The emulator gave up. Most often it did not start: its message says why.
    EmulatorFailed { code: i32, stderr: String },
    /// A device of ours failed, and the machine was killed.
    DeviceFailed { device: String, error: Arc<DeviceFailure> },
}

/// Why a device ended before its machine.
#[derive(Debug, thiserror::Error)]
pub enum DeviceFailure {
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("the emulator hung up on the device but goes on running")]
    HungUp,
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_message = |f: &mut fmt::Formatter<'_>, stderr: &str| match stderr.lines().last() {
            Some(line) => write!(f, ": {line}"),
            None => Ok(()),
        };
        match self {
            ExitReason::PoweredOff => f.write_str("the machine was switched off"),
            ExitReason::Reset => f.write_str("the machine was reset"),
            ExitReason::GuestPanic { message } => write!(f, "the machine's kernel panicked: {message}"),
            ExitReason::Killed => f.write_str("the machine was killed on request"),
            ExitReason::EmulatorKilled { signal, stderr } => {
                write!(f, "the emulator was killed by signal {signal}")?;
                with_message(f, stderr)
            }
            ExitReason::EmulatorFailed { code, stderr } => {
                write!(f, "the emulator failed with exit code {code}")?;
                with_message(f, stderr)
            }
            ExitReason::DeviceFailed { device, error } => {
                write!(f, "device {device} failed: {error}")?;
                let mut source = std::error::Error::source(&**error);
                while let Some(error) = source {
                    write!(f, ": {error}")?;
                    source = error.source();
                }
                Ok(())
            }
        }
    }
}

impl Vm {
    /// Builds and starts a machine. Returns as soon as the emulator runs; whether it likes its machine, and whether
    /// the guest boots, is seen later ([`wait`](Self::wait)).
    pub fn start(config: VmConfig) -> Result<Vm, Error> {
        builder::start(config)
    }

    pub(crate) fn new(shared: Arc<Shared>, vsock: Vsock, info: VmInfo, supervisor: JoinHandle<()>) -> Self {
        Vm { shared, vsock, info, supervisor: Some(supervisor) }
    }

    /// The way into the guest. Without a socket device every connection is refused.
    pub fn vsock(&self) -> &Vsock {
        &self.vsock
    }

    /// Blocks until the machine has ended: the emulator is gone, all devices' threads have ended, the disks are free.
    pub fn wait(&self) -> ExitReason {
        let mut state = self.shared.lock();
        loop {
            if let Some(reason) = &state.ended {
                return reason.clone();
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How the machine ended, if it has.
    pub fn try_wait(&self) -> Option<ExitReason> {
        self.shared.lock().ended.clone()
    }

    /// Ends the machine now, as if its power were cut. Does not wait for the end.
    pub fn kill(&self) {
        self.shared.kill_on_request();
    }

    /// What there is to know of it.
    pub fn info(&self) -> VmInfo {
        self.info.clone()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.kill();
        if let Some(supervisor) = self.supervisor.take() {
            // It has no panic of its own to report: see `Shared::end`.
            let _ = supervisor.join();
        }
    }
}

/// What the threads of one machine share.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The emulator's process. Signals through it never reach another process that got the same id.
    process: Option<Arc<OwnedFd>>,
    kill_requested: bool,
    failure: Option<(String, Arc<DeviceFailure>)>,
    ended: Option<ExitReason>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The emulator runs.
    pub(crate) fn started(&self, process: OwnedFd) {
        self.lock().process = Some(Arc::new(process));
    }

    fn kill_on_request(&self) {
        let mut state = self.lock();
        state.kill_requested |= state.failure.is_none();
        kill(&state);
    }

    /// A device's thread has ended. If that was not because the emulator did, the machine is lost.
    pub(crate) fn device_ended(&self, device: &str, result: Result<(), ServeError>) {
        let failure = match result {
            Ok(()) if self.ends_soon() => return,
            Ok(()) => DeviceFailure::HungUp,
            Err(error) => DeviceFailure::Serve(error),
        };
        let mut state = self.lock();
        // The first failure is the cause; and after a kill anything may fail.
        if state.failure.is_none() && !state.kill_requested {
            tracing::error!(
                device,
                error = &failure as &dyn std::error::Error,
                "device failed; killing the machine"
            );
            state.failure = Some((device.to_owned(), Arc::new(failure)));
        }
        kill(&state);
    }

    /// Whether the emulator has ended, or does so within a short time.
    fn ends_soon(&self) -> bool {
        let Some(process) = self.lock().process.clone() else {
            // It was never started.
            return true;
        };
        poll(&mut [PollFd::new(&*process, PollFlags::IN)], Some(&HANG_UP_GRACE)).is_ok_and(|ready| ready > 0)
    }

    /// The machine has ended, and nothing of it is left.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.lock();
        let reason = match (end, state.failure.take()) {
            (_, Some((device, error))) => ExitReason::DeviceFailed { device, error },
            (End::Killed { .. }, None) if state.kill_requested => ExitReason::Killed,
            (End::PoweredOff, None) => ExitReason::PoweredOff,
            (End::Reset, None) => ExitReason::Reset,
            (End::Panicked { message }, None) => ExitReason::GuestPanic { message },
            (End::Killed { signal, stderr }, None) => ExitReason::EmulatorKilled { signal, stderr },
            (End::Failed { code, stderr }, None) => ExitReason::EmulatorFailed { code, stderr },
        };
        state.process = None;
        state.ended = Some(reason);
        self.changed.notify_all();
    }
}

fn kill(state: &State) {
    if let Some(process) = &state.process {
        // ESRCH: it has ended already.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_an_end_wins_over_its_form() {
        let killed = || End::Killed { signal: 9, stderr: String::new() };
        let shared = Shared::default();
        shared.device_ended("blk0", Err(ServeError::Panic));
        shared.kill_on_request();
        shared.device_ended("rng", Err(ServeError::Panic));
        shared.end(killed());
        let reason = shared.lock().ended.clone().unwrap();
        assert_eq!(reason.to_string(), "device blk0 failed: the device's thread panicked");

        let shared = Shared::default();
        shared.kill_on_request();
        shared.device_ended("blk0", Err(ServeError::Panic));
        shared.end(killed());
        assert!(matches!(shared.lock().ended, Some(ExitReason::Killed)));

        let shared = Shared::default();
        shared.end(killed());
        let reason = shared.lock().ended.clone().unwrap();
        assert_eq!(reason.to_string(), "the emulator was killed by signal 9");
    }

    #[test]
    fn a_power_off_that_crosses_a_kill_is_a_power_off() {
        let shared = Shared::default();
        shared.kill_on_request();
        shared.end(End::PoweredOff);
        assert!(matches!(shared.lock().ended, Some(ExitReason::PoweredOff)));
    }
}
