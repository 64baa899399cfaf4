//! The engine's process: started, asked until it serves, started again when it dies.
//!
//! The socket that it serves is listened at from here, and each engine inherits it: a container that has it mounted has it for
//! good, and who calls between two engines waits for the next one.
//!
//! Only the engine itself is ever ended from here. What it has started, the shims that hold running
//! containers, outlives it and is found again by the next engine.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use wire::guest::Stage;
use wire::network::HOST;
use wire::settings::Settings;
use wire::vsock::{DOCKER_PORT, HOST_PORTS_PORT};

use super::engine_log::EngineLog;
use super::ping::{Answer, ping};
use super::reaper::{Child, Exit};
use super::waiting::wait_readable;
use super::{Machine, cgroups, disk, tools};
use crate::logging;

const SOCKET: &str = "/run/docker.sock";
/// Where the engine keeps what a reboot ends.
pub(super) const EXEC_ROOT: &str = "/run/coracle";

/// How long an engine may take until it serves. It looks at every container it finds, on a machine that
/// may be emulated; longer than this it hangs.
const START_PATIENCE: Duration = Duration::from_secs(180);

/// Before an engine is asked again that has hung up.
const HUNG_UP_PAUSE: Duration = Duration::from_millis(200);

/// Keeps an engine running until a power-off is asked for; gives the engine that then runs.
///
/// # Errors
/// When the engine cannot be started, or has died too often in a row.
pub(crate) fn supervise(
    machine: &Machine,
    program: &Path,
    log_level: &str,
    settings: &Settings,
) -> Result<Option<Child>> {
    let log = EngineLog::start(logging::console()).context("cannot read the engine's messages")?;
    let mut policy = RestartPolicy::default();
    let listener = listen(Path::new(SOCKET)).with_context(|| format!("cannot listen at {SOCKET}"))?;
    loop {
        machine.state.set(Stage::StartingEngine);
        let started = Instant::now();
        let engine = start(machine, command(program, log_level, settings, &listener), &log)?;
        match serve(machine, &engine, started)? {
            End::PowerOff => return Ok(Some(engine)),
            End::Died { exit, served } => {
                let lived = started.elapsed();
                let last_lines = log.last_lines();
                tracing::error!("the engine died after {} s with {exit}", lived.as_secs());
                let Some(pause) = policy.after(lived, served) else {
                    bail!(
                        "the engine died {} times in a row, last with {exit}: {}",
                        policy.quick_deaths,
                        last_lines.join("; ")
                    );
                };
                machine.state.count_restart();
                let [stop] = wait_readable([machine.power.as_fd()], Some(pause))?;
                if stop {
                    return Ok(None);
                }
            }
        }
    }
}

enum End {
    PowerOff,
    Died { exit: Exit, served: bool },
}

/// Listens for root alone.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn start(machine: &Machine, mut command: Command, log: &EngineLog) -> Result<Child> {
    command.stderr(log.writer()?);
    // Not being in its own group costs accounting, not service.
    match cgroups::open_engine_group() {
        Ok(group) => enter_at_start(&mut command, group),
        Err(error) => tracing::warn!("the engine runs in PID 1's cgroup: {error:#}"),
    }
    machine
        .children
        .spawn(&mut command)
        .with_context(|| format!("cannot start the engine {}", Path::new(command.get_program()).display()))
}

fn command(program: &Path, log_level: &str, settings: &Settings, listener: &UnixListener) -> Command {
    let mut command = Command::new(program);
    command
        .arg("engine")
        .args(["--host", &format!("fd://{}", listener.as_raw_fd())])
        .args(["--host", &format!("vsock://{DOCKER_PORT}")])
        .args(["--host-ports", &HOST_PORTS_PORT.to_string()])
        .args(["--data-root", disk::MOUNTED_AT])
        .args(["--exec-root", EXEC_ROOT])
        // A registry on the user's own machine needs no certificate, as for Docker one at 127.0.0.1 needs none.
        .args(["--insecure-registry", &format!("{HOST}/32")])
        .args(settings.shares.iter().map(|share| format!("--share={}", share.path)))
        .args(["--log-level", log_level])
        .env_clear()
        .env("PATH", tools::PATH)
        .env("HOME", "/root")
        // Not as options: a password is nobody's business who lists processes.
        .envs(settings.proxies.variables())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if settings.container_proxy {
        command.arg("--container-proxy");
    }
    inherit(&mut command, listener.as_raw_fd());
    command
}

/// Lets the program have a descriptor, by the same number. It MUST stay open until the program is started.
fn inherit(command: &mut Command, descriptor: RawFd) {
    // SAFETY: fcntl(2) is async-signal-safe, and the descriptor is open.
    unsafe {
        command.pre_exec(move || {
            let descriptor = BorrowedFd::borrow_raw(descriptor);
            Ok(fcntl_setfd(descriptor, FdFlags::empty())?)
        });
    }
}

/// Makes the process enter the group before it becomes the engine, so that nothing of it is ever
/// counted elsewhere.
fn enter_at_start(command: &mut Command, group: OwnedFd) {
    // SAFETY: `write` is async-signal-safe, and the buffer is static.
    unsafe {
        command.pre_exec(move || match libc::write(group.as_raw_fd(), b"0".as_ptr().cast(), 1) {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// Waits until the engine serves, says so, and then until it ends or a power-off is asked for.
fn serve(machine: &Machine, engine: &Child, started: Instant) -> Result<End> {
    let start = wait_serving(machine, engine, Path::new(SOCKET), started + START_PATIENCE)?;
    let served = matches!(start, Start::Serves);
    match start {
        Start::Serves => {
            tracing::info!("the engine serves {} ms after its start", started.elapsed().as_millis());
            machine.state.set(Stage::Ready);
        }
        Start::Interrupted => {}
        Start::Hangs(why) => {
            tracing::error!("the engine does not serve after {} s: {why}", START_PATIENCE.as_secs());
            engine.signal(Signal::KILL)?;
        }
    }
    let [died, _] = wait_readable([engine.as_fd(), machine.power.as_fd()], None)?;
    Ok(if died { End::Died { exit: engine.wait(), served } } else { End::PowerOff })
}

enum Start {
    Serves,
    /// It died, or a power-off was asked for.
    Interrupted,
    Hangs(String),
}

/// Pings until there is an answer. Nobody is refused: the request waits until the engine takes it.
fn wait_serving(machine: &Machine, engine: &Child, socket: &Path, deadline: Instant) -> Result<Start> {
    let why = loop {
        match ping(socket, engine, &machine.power, deadline) {
            Ok(Some(Answer::Serves)) => return Ok(Start::Serves),
            Ok(Some(Answer::Refuses(status))) => break format!("it answers {status:?}"),
            Ok(None) => return Ok(Start::Interrupted),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                break format!("{} does not answer", socket.display());
            }
            Err(error) => tracing::warn!("the engine hung up on a ping: {error}"),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let [died, stop] =
            wait_readable([engine.as_fd(), machine.power.as_fd()], Some(HUNG_UP_PAUSE.min(left)))?;
        if died || stop {
            return Ok(Start::Interrupted);
        }
        if left.is_zero() {
            break format!("{} hangs up", socket.display());
        }
    };
    Ok(Start::Hangs(why))
}

/// Deaths in a row after which starting again is not tried any more.
const QUICK_DEATHS: u32 = 10;
/// The same for an engine that has never served since the machine started: nothing depends on it yet,
/// and the user waits for the reason.
const DEATHS_AT_START: u32 = 4;
/// An engine that lived this long had started well; its death is a new story.
const LIVED_WELL: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When to start the engine again: at once, then ever later, and at last not any more.
#[derive(Default)]
struct RestartPolicy {
    quick_deaths: u32,
    ever_served: bool,
}

impl RestartPolicy {
    /// The pause before the next start, after an engine that lived for `lived` and `served` or not;
    /// `None` to give up.
    fn after(&mut self, lived: Duration, served: bool) -> Option<Duration> {
        self.ever_served |= served;
        if lived >= LIVED_WELL {
            self.quick_deaths = 0;
        }
        self.quick_deaths += 1;
        let limit = if self.ever_served { QUICK_DEATHS } else { DEATHS_AT_START };
        match self.quick_deaths {
            1 => Some(Duration::ZERO),
            deaths if deaths < limit => Some(Duration::from_secs(1 << (deaths - 2)).min(LONGEST_PAUSE)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{isolated, sh, with_reaper};
    use super::*;

    fn pauses(served: bool) -> Vec<u64> {
        let mut policy = RestartPolicy::default();
        std::iter::from_fn(|| policy.after(Duration::from_secs(1), served))
            .map(|pause| pause.as_secs())
            .collect()
    }

    #[test]
    fn pauses_grow_to_a_limit_and_end() {
        assert_eq!(pauses(true), [0, 1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn an_engine_that_never_serves_is_given_up_soon() {
        assert_eq!(pauses(false), [0, 1, 2]);
    }

    #[test]
    fn an_engine_that_lived_well_is_started_at_once() {
        let mut policy = RestartPolicy::default();
        for _ in 0..5 {
            policy.after(Duration::ZERO, true);
        }
        assert_eq!(policy.after(LIVED_WELL, true), Some(Duration::ZERO));
        assert_eq!(policy.after(Duration::ZERO, false), Some(Duration::from_secs(1)));
    }

    #[test]
    fn an_engine_that_dies_or_never_serves_is_noticed() {
        isolated("init::engine_process::tests::an_engine_that_dies_or_never_serves_is_noticed", || {
            with_reaper(|children| {
                let machine =
                    Machine { children: std::sync::Arc::clone(children), ..Machine::new().unwrap() };
                let dir = tempfile::tempdir().unwrap();
                let socket = dir.path().join("docker.sock");
                let _listener = listen(&socket).unwrap();
                let far = Instant::now() + Duration::from_secs(600);
                let dead = children.spawn(&mut sh("exit 1")).unwrap();
                assert!(matches!(wait_serving(&machine, &dead, &socket, far).unwrap(), Start::Interrupted));
                let silent = children.spawn(&mut sh("exec sleep 1000")).unwrap();
                let now = Instant::now();
                assert!(matches!(wait_serving(&machine, &silent, &socket, now).unwrap(), Start::Hangs(_)));
                machine.power.request(Duration::ZERO).unwrap();
                assert!(matches!(wait_serving(&machine, &silent, &socket, far).unwrap(), Start::Interrupted));
                silent.signal(Signal::KILL).unwrap();
                silent.wait();
            });
        });
    }

    #[test]
    fn each_engine_has_the_same_socket() {
        isolated("init::engine_process::tests::each_engine_has_the_same_socket", || {
            with_reaper(|children| {
                let dir = tempfile::tempdir().unwrap();
                let socket = dir.path().join("docker.sock");
                let listener = listen(&socket).unwrap();
                for _ in 0..2 {
                    let number = listener.as_raw_fd();
                    let mut engine = sh(&format!("exec readlink /proc/self/fd/{number} | grep -q socket:"));
                    inherit(&mut engine, number);
                    assert_eq!(children.spawn(&mut engine).unwrap().wait().shell_code(), 0);
                }
                assert!(!rustix::io::fcntl_getfd(&listener).unwrap().is_empty(), "others do not have it");
            });
        });
    }

    #[test]
    fn an_engine_serves_once_it_takes_its_socket_and_answers() {
        isolated(
            "init::engine_process::tests::an_engine_serves_once_it_takes_its_socket_and_answers",
            || {
                with_reaper(|children| {
                    use std::io::{Read, Write};
                    let machine =
                        Machine { children: std::sync::Arc::clone(children), ..Machine::new().unwrap() };
                    let dir = tempfile::tempdir().unwrap();
                    let socket = dir.path().join("docker.sock");
                    let engine = children.spawn(&mut sh("exec sleep 1000")).unwrap();
                    let listener = listen(&socket).unwrap();
                    let server = std::thread::spawn(move || {
                        // One hangs up, and the next one serves.
                        drop(listener.accept().unwrap());
                        let (mut stream, _) = listener.accept().unwrap();
                        stream.read_exact(&mut [0; 16]).unwrap();
                        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    });
                    let far = Instant::now() + Duration::from_secs(600);
                    assert!(matches!(wait_serving(&machine, &engine, &socket, far).unwrap(), Start::Serves));
                    server.join().unwrap();
                    engine.signal(Signal::KILL).unwrap();
                    engine.wait();
                });
            },
        );
    }
}
