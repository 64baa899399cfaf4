//! The machine process: owns one machine from start to stop.
//!
//! `coracle start` runs this program again with a hidden command and a socket as its standard input.
//! Over that socket go [`wire::app::Response`] lines until the machine is ready or has failed; and
//! when the starter goes away before, the start is taken back. Threads:
//!
//! * main: the machine's life, one event after the other ([`crate::machine::life`]);
//! * one each that waits for signals, for the starter, for the VM's end, for the clock being set;
//! * one that accepts on `control.sock`, and one per connection to it ([`crate::control::server`]);
//! * one that accepts on `docker.sock` ([`crate::forward`]).
//!
//! All of them block: an idle machine process costs no CPU time.

use std::{
    fs::{self, Permissions},
    io,
    io::Read,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::ExitCode,
    sync::{
        Arc, OnceLock,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::{
    fs::{FileType, Mode},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tracing_subscriber::EnvFilter;
use wire::{
    app::{self, LastExit, Response, State},
    line,
};

use super::{
    assemble,
    board::{Board, Outcome},
    config::{Config, Settings},
    home::{Home, MachineDir, write_atomically},
    life::{self, End, Event, StopCause},
    lock::{LockError, LockedHome},
    log,
    name::MachineName,
    vm::Vm,
};
use crate::{control, forward, platform::Signals};

/// How long containers have when the machine process is told to end by a signal, in seconds: as long
/// as `docker stop` gives them.
const SIGNAL_STOP_SECONDS: u32 = 10;
/// For clients to take the last answer before the process is gone.
const FAREWELL: Duration = Duration::from_secs(2);

/// What `coracle start` hands to the machine process.
#[derive(Debug)]
pub(crate) struct Orders {
    pub(crate) name: MachineName,
    /// Choices made on the command line.
    pub(crate) overrides: Config,
    /// The machine ends with its starter.
    pub(crate) foreground: bool,
}

/// A machine as the threads of its process share it.
pub(crate) struct Machine {
    pub(crate) dir: MachineDir,
    pub(crate) board: Arc<Board>,
    pub(crate) events: Sender<Event>,
    pub(crate) settings: OnceLock<Settings>,
    pub(crate) accelerator: OnceLock<Accelerator>,
    pub(crate) vm: OnceLock<Arc<dyn Vm>>,
    pub(crate) started_at: SystemTime,
    pub(crate) started: Instant,
}

/// How the CPUs run, and why so.
#[derive(Debug, Clone)]
pub(crate) struct Accelerator {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Machine {
    pub(crate) fn new(dir: MachineDir, events: Sender<Event>) -> Machine {
        Machine {
            dir,
            board: Arc::new(Board::new()),
            events,
            settings: OnceLock::new(),
            accelerator: OnceLock::new(),
            vm: OnceLock::new(),
            started_at: SystemTime::now(),
            started: Instant::now(),
        }
    }

    /// Asks the main thread to stop the machine. Nobody listens any more when it is over, which is as good.
    pub(crate) fn ask_to_stop(&self, timeout_seconds: u32, cause: StopCause) {
        let _ = self.events.send(Event::Stop { timeout_seconds, cause });
    }

    /// The machine as clients see it, but for the guest's account of itself.
    pub(crate) fn status(&self) -> app::Status {
        let view = self.board.now();
        let settings = self.settings.get();
        let accelerator = self.accelerator.get();
        app::Status {
            name: self.dir.name().to_string(),
            state: view.state,
            docker_socket: self.dir.docker_socket().display().to_string(),
            cpus: settings.map_or(0, |settings| settings.cpus),
            memory_mib: settings.map_or(0, |settings| settings.memory.mib()),
            disk_bytes: settings.map_or(0, |settings| settings.disk.bytes()),
            disk_used_bytes: super::disk::used_bytes(&self.dir.disk_image()),
            accelerator: accelerator.map(|accelerator| accelerator.name.clone()).unwrap_or_default(),
            accelerator_reason: accelerator.map(|accelerator| accelerator.reason.clone()).unwrap_or_default(),
            pid: std::process::id(),
            emulator_pid: self.vm.get().and_then(|vm| vm.emulator_pid()),
            started_at_ms: unix_ms(self.started_at),
            ready_after_ms: view.ready_after.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            guest: view.guest,
            last_exit: None,
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Runs a machine to its end. What goes wrong is told to the starter and the log.
pub(crate) fn run(orders: Orders) -> Result<ExitCode> {
    let starter = take_starter()?;
    let result = serve(orders, &starter);
    if let Err(error) = &result {
        tracing::error!("{error:#}");
        // A starter that is gone needs no answer.
        let _ = line::write(&starter, &Response::Failed { message: format!("{error:#}") });
        return Ok(ExitCode::FAILURE);
    }
    result
}

/// The socket to the starter, which came as standard input.
fn take_starter() -> Result<UnixStream> {
    let stdin = rustix::stdio::stdin();
    let found = rustix::fs::fstat(stdin)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::Socket {
        bail!("this command is run by `coracle start` only");
    }
    let starter = UnixStream::from(stdin.try_clone_to_owned()?);
    // What the machine process starts must not hold the socket open.
    rustix::stdio::dup2_stdin(fs::File::open("/dev/null")?)?;
    Ok(starter)
}

fn serve(orders: Orders, starter: &UnixStream) -> Result<ExitCode> {
    detach()?;
    let mut signals =
        Signals::listen(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP]).context("cannot handle signals")?;
    let dir = Home::from_environment()?.machine(&orders.name);
    dir.check_socket_paths()?;
    dir.create()?;
    let locked = LockedHome::take(dir.clone()).map_err(|error| already_owned(&dir, error))?;
    log::open(&dir)?;
    // Twice would be an error of ours; the log is there either way.
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(io::stderr).try_init();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        "machine '{}' starts",
        dir.name()
    );

    let sockets = Sockets::bind(&locked)?;
    let (events, received) = mpsc::channel();
    let machine = Arc::new(Machine::new(dir, events));
    // A thread of its own for each wait; see the module's text.
    spawn("signals", {
        let machine = Arc::clone(&machine);
        move || {
            while let Ok(signal) = signals.next() {
                tracing::info!("signal {signal}: stopping");
                machine.ask_to_stop(SIGNAL_STOP_SECONDS, StopCause::Signal);
            }
        }
    })?;
    let foreground = orders.foreground;
    spawn("starter", {
        let (machine, starter) = (Arc::clone(&machine), starter.try_clone()?);
        // Counted before anything can end: the starter must hear how.
        let watcher = machine.board.watch();
        move || {
            if let Err(error) = control::server::tell_starter(&machine, &starter, foreground) {
                tracing::info!("the starter is gone: {error}");
            }
            drop(watcher);
        }
    })?;
    spawn("starter-end", {
        let (machine, mut starter) = (Arc::clone(&machine), starter.try_clone()?);
        move || {
            // Nothing is ever sent: a read that returns means that the starter closed its end.
            let _ = starter.read(&mut [0]);
            if foreground || machine.board.now().state == State::Starting {
                tracing::info!("the starter is gone: stopping");
                machine.ask_to_stop(SIGNAL_STOP_SECONDS, StopCause::StarterGone);
            }
        }
    })?;
    spawn("control", {
        let machine = Arc::clone(&machine);
        move || control::server::serve(&sockets.control, &machine)
    })?;
    spawn("docker", {
        let machine = Arc::clone(&machine);
        move || forward::docker::serve(&sockets.docker, &machine)
    })?;

    let end = life::live(&machine, &received, || assemble::start(&locked, &machine, orders.overrides));
    Ok(finish(locked, &machine, end))
}

/// Leaves the starter's session and directory, so that neither its terminal nor an unmount touches
/// the machine; and makes every file from here on the owner's alone.
fn detach() -> Result<()> {
    rustix::process::setsid().context("cannot start a session of its own")?;
    std::env::set_current_dir("/").context("cannot change to /")?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Each forwarded connection takes a descriptor; the soft limit is small for the sake of select(2).
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("cannot raise the limit of open files")
}

/// The machine's sockets, bound.
struct Sockets {
    control: UnixListener,
    docker: UnixListener,
}

impl Sockets {
    /// Removes what an owner that was killed left behind, and binds. They are their owner's alone: by the umask from their
    /// first moment, and by their mode, which shows.
    fn bind(locked: &LockedHome) -> Result<Sockets> {
        let dir = locked.dir();
        for stale in [dir.control_socket(), dir.docker_socket(), dir.last_exit_file()] {
            remove_file(&stale)?;
        }
        let runtime = dir.runtime_dir();
        match fs::remove_dir_all(&runtime) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", runtime.display()));
            }
            _ => {}
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&runtime)
            .with_context(|| format!("cannot create {}", runtime.display()))?;
        let bind = |path: &Path| -> Result<UnixListener> {
            let making = || format!("cannot make the socket {}", path.display());
            let listener = UnixListener::bind(path).with_context(making)?;
            fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(making)?;
            Ok(listener)
        };
        Ok(Sockets { control: bind(&dir.control_socket())?, docker: bind(&dir.docker_socket())? })
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Cleans up, gives the lock up, and only then tells those who wait: whoever hears that the machine
/// stopped can start or delete it at once.
fn finish(locked: LockedHome, machine: &Machine, end: End) -> ExitCode {
    match &end.outcome {
        Outcome::Stopped => tracing::info!("{}", end.reason),
        Outcome::Failed { message } => tracing::error!("{message}"),
    }
    let dir = locked.dir();
    let last = LastExit { at_ms: Some(unix_ms(SystemTime::now())), clean: end.clean, reason: end.reason };
    let noted = serde_json::to_vec(&last)
        .map_err(io::Error::from)
        .and_then(|json| write_atomically(&dir.last_exit_file(), &json, 0o600));
    if let Err(error) = noted {
        tracing::warn!("cannot note how the machine ended: {error}");
    }
    for path in [dir.docker_socket(), dir.control_socket()] {
        if let Err(error) = remove_file(&path) {
            tracing::warn!("{error:#}");
        }
    }
    drop(locked);
    let code = if end.outcome == Outcome::Stopped { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    machine.board.update(|view| {
        view.state = State::Stopped;
        view.outcome = Some(end.outcome);
    });
    machine.board.await_watchers(FAREWELL);
    code
}

/// Why the lock cannot be had, in the words of what the owner is doing.
fn already_owned(dir: &MachineDir, error: LockError) -> anyhow::Error {
    let LockError::Held { name, pid } = error else { return error.into() };
    let status = control::client::status(dir);
    let state = status.as_ref().ok().map(|status| status.state);
    let pid =
        status.ok().map(|status| status.pid).or(pid).map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    match state {
        Some(State::Running) => anyhow!("machine '{name}' is already running{pid}; nothing to do"),
        Some(State::Starting) => anyhow!(
            "machine '{name}' is already being started{pid}; wait for it, or take that back with `coracle stop`"
        ),
        Some(State::Stopping | State::Stopped) => anyhow!(
            "machine '{name}' is being stopped{pid}; start it again when that is done (`coracle stop` waits for it)"
        ),
        None => anyhow!(
            "machine '{name}' is held by another process{pid}, which does not answer; wait a moment, or see `coracle logs`"
        ),
    }
}

/// Starts a thread that is never joined: it ends with the process.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .with_context(|| format!("cannot start the thread '{name}'"))
}
