//! The engine's process: started, asked until it serves, started again when it dies.
//!
//! Only the engine itself is ever ended from here. What it has started, the shims that hold running
//! containers, outlives it and is found again by the next engine.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::inotify;
use rustix::io::Errno;
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

/// Between two attempts on a socket that exists but is not listened on yet: the engine is between two
/// system calls.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);

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
    loop {
        machine.state.set(Stage::StartingEngine);
        let started = Instant::now();
        let engine = start(machine, command(program, log_level, settings), &log)?;
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

fn start(machine: &Machine, mut command: Command, log: &EngineLog) -> Result<Child> {
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the old {SOCKET}"));
        }
        _ => {}
    }
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

fn command(program: &Path, log_level: &str, settings: &Settings) -> Command {
    let mut command = Command::new(program);
    command
        .arg("engine")
        .args(["--host", &format!("unix://{SOCKET}")])
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
    command
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

/// Pings as soon as the socket appears; without polling.
fn wait_serving(machine: &Machine, engine: &Child, socket: &Path, deadline: Instant) -> Result<Start> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let appearances = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&appearances, folder, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)
        .with_context(|| format!("cannot watch {}", folder.display()))?;
    let why = loop {
        let pause = match ping(socket, engine, &machine.power) {
            Ok(Some(Answer::Serves)) => return Ok(Start::Serves),
            Ok(Some(Answer::Refuses(status))) => break format!("it answers {status:?}"),
            Ok(None) => return Ok(Start::Interrupted),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Some(REFUSED_PAUSE),
            Err(error) => {
                tracing::warn!("the engine hung up on a ping: {error}");
                Some(Duration::from_millis(200))
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break format!("{} does not answer", socket.display());
        }
        let [died, stop, _] = wait_readable(
            [engine.as_fd(), machine.power.as_fd(), appearances.as_fd()],
            Some(pause.map_or(left, |pause| pause.min(left))),
        )?;
        if died || stop {
            return Ok(Start::Interrupted);
        }
        discard_events(&appearances)?;
    };
    Ok(Start::Hangs(why))
}

fn discard_events(inotify: &OwnedFd) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(inotify, &mut buffer);
    loop {
        match reader.next() {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
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
    fn an_engine_serves_once_its_socket_appears_and_answers() {
        isolated("init::engine_process::tests::an_engine_serves_once_its_socket_appears_and_answers", || {
            with_reaper(|children| {
                use std::io::{Read, Write};
                let machine =
                    Machine { children: std::sync::Arc::clone(children), ..Machine::new().unwrap() };
                let dir = tempfile::tempdir().unwrap();
                let socket = dir.path().join("docker.sock");
                let engine = children.spawn(&mut sh("exec sleep 1000")).unwrap();
                let server = {
                    let socket = socket.clone();
                    std::thread::spawn(move || {
                        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
                        let (mut stream, _) = listener.accept().unwrap();
                        stream.read_exact(&mut [0; 16]).unwrap();
                        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                    })
                };
                let far = Instant::now() + Duration::from_secs(600);
                assert!(matches!(wait_serving(&machine, &engine, &socket, far).unwrap(), Start::Serves));
                server.join().unwrap();
                engine.signal(Signal::KILL).unwrap();
                engine.wait();
            });
        });
    }
}
