//! PID 1 of the guest: prepares the machine, keeps the engine running, answers the host, and ends it all
//! in order.
//!
//! Kinds of threads, none of which runs while nothing happens:
//! * the main thread reaps ended processes and takes signals;
//! * the life thread goes through the stages, from the data disk to the power-off;
//! * the control thread accepts the host's connections, each served by a thread of its own;
//! * the network thread ends when the machine has an address.
//!
//! PID 1 must not end: the kernel would panic. What fails becomes [`wire::guest::Stage::Failed`], and
//! the machine stays up for a shell; only when nobody could reach it either is it switched off.

/// The cgroup v2 hierarchy.
mod cgroups;
/// The wall clock.
mod clock;
/// The host's requests.
mod control;
/// Asking for an address.
mod dhcp;
/// The data disk.
mod disk;
/// The engine's messages.
mod engine_log;
/// The engine's process.
mod engine_process;
/// How busy the guest is.
mod figures;
/// Making the data disk's file system.
mod format;
/// What the host's user has chosen.
mod host_settings;
/// Network interfaces.
mod interface;
/// Host name, kernel settings, resource limits, loopback.
mod limits;
/// The pseudo file systems.
mod mounts;
/// The way out.
mod network;
/// Whether the engine serves.
mod ping;
/// Power-off.
mod power;
/// What is on a disk.
mod probe;
/// Ended processes.
mod reaper;
/// Folders of the host.
mod shares;
/// Programs the host runs in the VM.
mod shell;
/// Signals to PID 1.
mod signals;
/// The host's ssh-agent.
mod ssh_agent;
/// The stage the machine is in.
mod state;
/// Sockets to the host.
mod stream;
#[cfg(test)]
mod testing;
/// File system tools.
mod tools;
/// Blocking on several things.
mod waiting;

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, io, panic, thread};

use anyhow::{Context, Result, anyhow};

use crate::logging;
use reaper::{Child, Children};
use signals::Signals;
use state::StateWatch;
use waiting::PowerRequest;

/// What a power-off that names no time-out gives the containers: Docker's own default.
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Signals that ask for a power-off: `kill 1`, ctrl-alt-del, a power failure, and busybox's `halt` and
/// `poweroff`.
const POWER_OFF_SIGNALS: [libc::c_int; 5] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGPWR, libc::SIGUSR1, libc::SIGUSR2];

/// Names the log level on the kernel's command line. A name with a dot is left alone by the kernel.
const LOG_LEVEL_OPTION: &str = "coracle.log=";

/// What PID 1's threads share.
struct Machine {
    state: StateWatch,
    children: Arc<Children>,
    power: PowerRequest,
}

impl Machine {
    fn new() -> io::Result<Machine> {
        Ok(Machine {
            state: StateWatch::new(),
            children: Arc::new(Children::new()),
            power: PowerRequest::new()?,
        })
    }
}

/// PID 1's life.
pub(crate) fn main() -> ! {
    panic::set_hook(Box::new(|info| {
        // One line, as everything else in the log.
        tracing::error!("panic: {}", info.to_string().replace('\n', " "));
    }));
    let ended = catch_unwind(run).unwrap_or_else(|panic| Err(describe(panic.as_ref())));
    let Err(error) = ended;
    // Only what PID 1 cannot live without leads here, and then nobody can be told but the console.
    tracing::error!("PID 1 cannot go on: {error:#}");
    power::end()
}

fn run() -> Result<Infallible> {
    let first = mounts::first();
    let log_level = log_level();
    logging::to_console(&log_level);
    tracing::info!("coracle-agent {} is PID 1", env!("CARGO_PKG_VERSION"));
    let mounted = first.and(mounts::all());

    let mut taken = vec![libc::SIGCHLD];
    taken.extend(POWER_OFF_SIGNALS);
    let signals = Signals::block(&taken).context("cannot take signals")?;
    take_ctrl_alt_del();
    let machine = Arc::new(Machine::new().context("cannot start")?);
    let reachable = match control::start(Arc::clone(&machine)) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!("the host cannot reach this machine: {error}");
            false
        }
    };
    let life = Life { machine: Arc::clone(&machine), reachable, log_level };
    thread::Builder::new()
        .name("life".to_owned())
        .spawn(move || life.run(mounted))
        .context("cannot start a thread")?;
    loop {
        let signal = signals.next().context("cannot take signals")?;
        if signal == libc::SIGCHLD {
            machine.children.reap();
        } else {
            tracing::info!("signal {signal}: powering off");
            machine.power.request(DEFAULT_STOP_TIMEOUT)?;
        }
    }
}

/// Has the kernel send SIGINT instead of restarting at once.
fn take_ctrl_alt_del() {
    if let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::CadOff) {
        tracing::warn!("ctrl-alt-del will not power off cleanly: {error}");
    }
}

/// The level named on the kernel's command line, for PID 1 and the engine.
fn log_level() -> String {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(LOG_LEVEL_OPTION))
        .filter(|level| level.parse::<tracing::Level>().is_ok())
        .unwrap_or("info")
        .to_owned()
}

/// The stages, from start to end.
struct Life {
    machine: Arc<Machine>,
    /// Whether the host has a way in.
    reachable: bool,
    log_level: String,
}

impl Life {
    fn run(&self, mounted: Result<()>) {
        let machine = &self.machine;
        let engine = catch_unwind(AssertUnwindSafe(|| self.live(mounted)))
            .unwrap_or_else(|panic| Err(describe(panic.as_ref())))
            .unwrap_or_else(|error| {
                if machine.power.requested().is_none() {
                    self.fail(&error);
                }
                None
            });
        let timeout = machine.power.wait().unwrap_or_else(|error| {
            tracing::error!("cannot wait for a power-off: {error}");
            DEFAULT_STOP_TIMEOUT
        });
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| power::off(machine, engine, timeout)));
        tracing::error!("the power-off failed: {}", describe(panic.as_ref()));
        power::end()
    }

    /// Goes on until a power-off is asked for; gives the engine that then runs.
    fn live(&self, mounted: Result<()>) -> Result<Option<Child>> {
        let machine = &self.machine;
        mounted.context("cannot set up the machine")?;
        network::set_up();
        // The kernel takes its time for either, so do both at once.
        let set_up = thread::Builder::new()
            .name("set-up".to_owned())
            .spawn(|| {
                limits::apply();
                cgroups::set_up()
            })
            .context("cannot start a thread")?;
        let disk = disk::prepare(&machine.children, &machine.power);
        set_up
            .join()
            .unwrap_or_else(|panic| Err(describe(panic.as_ref())))
            .context("cannot set up the machine")?;
        disk?;
        let mut settings = host_settings::ask();
        settings.shares = shares::mount(settings.shares);
        if settings.ssh_agent
            && let Err(error) = ssh_agent::serve()
        {
            tracing::error!("containers do not reach the host's ssh-agent: {error:#}");
        }
        engine_process::supervise(machine, &this_program()?, &self.log_level, &settings)
    }

    fn fail(&self, error: &anyhow::Error) {
        self.machine.state.fail(format!("{error:#}"));
        if !self.reachable {
            tracing::error!("nobody can reach this machine to mend it: switching off");
            power::end();
        }
    }
}

/// The path of this program, which is also the engine. Not `/proc/self/exe` itself: the engine would
/// then show as `exe` in every list of processes.
fn this_program() -> Result<PathBuf> {
    env::current_exe().context("cannot tell the path of this program")
}

fn describe(panic: &(dyn Any + Send)) -> anyhow::Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    anyhow!("internal error in PID 1: {message}")
}
