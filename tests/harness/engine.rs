//! The engines under test. The same cases run against all of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::archive::{self, Image};
use crate::case::{Skip, told};
use crate::http::Server;
use crate::machine::Machine;
use crate::namespace::{Namespace, Process};
use crate::process::{Program, Running};
use crate::registry::Registry;
use crate::{leftovers, places, wait};

/// How long an engine may take until it answers.
const START: Duration = Duration::from_secs(60);
/// A process that serves as long as the tests run is not bound by the time-out of a command.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

/// The mirror of Docker Hub that engines are told: the registry in their namespace, once a case starts it.
const MIRROR: &str = "http://127.0.0.1:5000";

/// A kind of engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours, on this Linux.
    Native,
    /// Ours, in a machine that `coracle start` boots.
    Machine,
    /// Docker's.
    Dockerd,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Native, Self::Machine, Self::Dockerd];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Machine => "machine",
            Self::Dockerd => "dockerd",
        })
    }
}

/// A running engine; dropping it ends it and everything that it runs.
pub struct Engine {
    kind: Kind,
    api: Server,
    /// The process that serves, where it is ours to start.
    daemon: Mutex<Option<Running>>,
    machine: Option<Machine>,
    namespace: Arc<Namespace>,
    client: Client,
    busybox: OnceLock<Result<(), String>>,
    registry: OnceLock<Result<Registry, String>>,
    folder: tempfile::TempDir,
    options: &'static [&'static str],
}

impl Engine {
    /// Starts an engine of its own folder and namespaces, and waits until it answers.
    pub fn start(kind: Kind) -> Result<Self> {
        Self::start_with(kind, &[])
    }

    /// The same with options of the engine's own; one in a machine has none.
    pub fn start_with(kind: Kind, options: &'static [&'static str]) -> Result<Self> {
        ensure!(options.is_empty() || kind != Kind::Machine, "the agent chooses the options of its engine");
        let client_program = places::docker()?;
        let folder = leftovers::folder()?;
        let (machine, namespace, socket) = if kind == Kind::Machine {
            let machine = Machine::new()?;
            machine.start()?;
            let (namespace, socket) = (Arc::clone(machine.namespace()), machine.socket());
            (Some(machine), namespace, socket)
        } else {
            (None, Arc::new(Namespace::new()?), folder.path().join("docker.sock"))
        };
        let engine = Self {
            kind,
            client: Client::new(client_program, &socket)?,
            api: Server::Unix(socket),
            daemon: Mutex::new(None),
            machine,
            namespace,
            busybox: OnceLock::new(),
            registry: OnceLock::new(),
            folder,
            options,
        };
        if !options.is_empty() {
            engine.give_subordinate_ids()?;
        }
        if engine.machine.is_none() {
            engine.start_daemon()?;
        }
        Ok(engine)
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The API's socket.
    #[must_use]
    pub fn api(&self) -> &Server {
        &self.api
    }

    /// The namespaces that the engine runs in.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The machine around the engine, of [`Kind::Machine`].
    pub fn machine(&self) -> Result<&Machine> {
        self.machine.as_ref().with_context(|| format!("{} has no machine", self.kind))
    }

    /// The engine's own folder on this machine.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The real `docker` with these arguments, speaking to this engine.
    pub fn docker<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Program {
        let program = self.client.program().args(args);
        // An emulated CPU takes its time.
        if self.kind == Kind::Machine { program.timeout(3 * crate::process::TIMEOUT) } else { program }
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Running>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_daemon(&self) -> Result<()> {
        let at = |name: &str| self.folder.path().join(name);
        let Server::Unix(socket) = &self.api else { bail!("an engine serves on a unix socket") };
        let host = format!("unix://{}", socket.display());
        let program = match self.kind {
            Kind::Machine => bail!("the engine in a machine is its agent's to start"),
            Kind::Native => self
                .namespace
                .program(places::agent()?)
                .arg("engine")
                .args(["--data-root".into(), at("data"), "--exec-root".into(), at("run")])
                .args(["--host", &host])
                .args(["--registry-mirror", MIRROR]),
            Kind::Dockerd => {
                let peer = places::peer()?;
                let path = std::env::var("PATH").unwrap_or_default();
                self.namespace
                    .program(peer.join("bin/dockerd"))
                    .env("PATH", format!("{}:/usr/sbin:/sbin:{path}", peer.join("bin").display()))
                    .args(["--data-root".into(), at("data"), "--exec-root".into(), at("run")])
                    .args(["--pidfile".into(), at("docker.pid")])
                    .args(["--host", &host, "--group", "root"])
                    // Ours keeps containers running while it is away; Docker's has to be told.
                    .arg("--live-restore")
                    .args(["--cgroup-parent", &format!("/{}", leftovers::cgroup())])
                    .args(["--registry-mirror", MIRROR])
            }
        };
        let daemon = program.args(self.options).timeout(FOR_EVER).spawn()?;
        let answered = wait::eventually_true("the engine answers", START, || {
            if daemon.has_ended() {
                bail!("the engine ended before it answered");
            }
            Ok(self.api.get("/_ping").send().is_ok_and(|answer| answer.status == 200))
        });
        if let Err(error) = answered {
            daemon.kill();
            let output = daemon.wait()?;
            return Err(error.context(format!("starting {}: {output}", self.kind)));
        }
        *self.daemon() = Some(daemon);
        Ok(())
    }

    /// Makes the user and the group `dockremap` with subordinate IDs, seen in the namespace alone.
    fn give_subordinate_ids(&self) -> Result<()> {
        for (name, line) in [
            ("passwd", "dockremap:x:105:110::/:/bin/false\n"),
            ("group", "dockremap:x:110:\n"),
            ("subuid", "dockremap:100000:65536\n"),
            ("subgid", "dockremap:200000:65536\n"),
        ] {
            let place = Path::new("/etc").join(name);
            let file = self.folder.path().join(name);
            let before = std::fs::read_to_string(&place).with_context(|| format!("reading {place:?}"))?;
            std::fs::write(&file, before + line).with_context(|| format!("writing {file:?}"))?;
            self.namespace.program("mount").arg("--bind").args([&file, &place]).output()?.expect_code(0)?;
        }
        Ok(())
    }

    /// The engine's process.
    pub fn process(&self) -> Result<Process> {
        let name = if self.kind == Kind::Dockerd { "/dockerd " } else { "/coracle-agent engine " };
        let found = self.namespace.processes()?.into_iter().find(|process| process.line.contains(name));
        // The process that enters the namespace has the same words in its line, but is not inside.
        found.with_context(|| format!("no process of {} runs", self.kind))
    }

    /// Kills the engine, and only it, as `kill -9` does.
    pub fn crash(&self) -> Result<()> {
        if let Some(machine) = &self.machine {
            // Its restart is the agent's business and may be quicker than a look at the process table.
            return machine.crash_engine();
        }
        self.namespace.kill_9(&self.process()?)?;
        if let Some(daemon) = self.daemon().take() {
            daemon.wait()?;
        }
        Ok(())
    }

    /// Brings a crashed engine back and waits until it answers.
    pub fn recover(&self) -> Result<()> {
        if self.machine.is_some() {
            return wait::eventually_true("the crashed engine is back", START, || {
                Ok(self.api.get("/_ping").send().is_ok_and(|answer| answer.status == 200))
            });
        }
        self.start_daemon()
    }

    /// Ends the engine as a service manager does, and waits until it is gone.
    pub fn stop(&self) -> Result<()> {
        let Some(daemon) = self.daemon().take() else { bail!("the engine does not run") };
        let process = self.process()?;
        rustix::process::kill_process(process.pid, rustix::process::Signal::TERM)
            .context("ending the engine")?;
        wait::eventually_true("the engine has ended", START, || Ok(daemon.has_ended()))?;
        Ok(())
    }

    /// Sees to it that `busybox:latest` is there.
    pub fn load_busybox(&self) -> Result<()> {
        let load = || -> Result<()> {
            let archive = Image::busybox()?.docker_archive()?;
            let file = archive::write(self.folder.path(), "busybox.tar", &archive)?;
            self.docker(["load", "-i"]).arg(file).output()?.expect_code(0)?;
            Ok(())
        };
        let loaded = self.busybox.get_or_init(|| load().map_err(|error| told(&error)));
        loaded.as_ref().map_err(|error| anyhow!("loading the image busybox: {error}")).copied()
    }

    /// A registry at `127.0.0.1:5000` in the engine's namespace. To an engine in a machine, that is
    /// `host.docker.internal:5000`.
    pub fn registry(&self) -> Result<&Registry> {
        places::peer()?;
        let start = || Registry::start(&self.namespace).map_err(|error| told(&error));
        self.registry.get_or_init(start).as_ref().map_err(|error| anyhow!("starting a registry: {error}"))
    }

    fn end(&self) {
        *self.daemon() = None;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

/// The `docker` program with a configuration of its own.
pub struct Client {
    program: PathBuf,
    host: String,
    home: tempfile::TempDir,
}

impl Client {
    /// A client for the engine at `socket`.
    pub fn new(program: PathBuf, socket: &Path) -> Result<Self> {
        let home = leftovers::folder()?;
        if let Ok(peer) = places::peer() {
            let plugins = home.path().join("cli-plugins");
            std::os::unix::fs::symlink(peer.join("cli-plugins"), plugins)
                .context("linking the client's plugins")?;
        }
        Ok(Self { program, host: format!("unix://{}", socket.display()), home })
    }

    /// The client without arguments.
    #[must_use]
    pub fn program(&self) -> Program {
        Program::new(&self.program)
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONFIG", self.home.path())
            .env("HOME", self.home.path())
            .current_dir(self.home.path())
    }

    /// Where the client keeps its configuration.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

/// The engines that cases share, by kind; each starts with the first case that needs it.
static SHARED: [OnceLock<Result<Shared, Failure>>; 3] = [const { OnceLock::new() }; 3];

/// Empty once the run is over.
type Shared = Mutex<Option<Arc<Engine>>>;

/// Why a shared engine did not start, told to each case that wanted it.
enum Failure {
    Skip(String),
    Error(String),
}

/// The engine of a kind that cases share.
pub fn shared(kind: Kind) -> Result<Arc<Engine>> {
    let place = SHARED.get(kind as usize).context("a kind without a place")?;
    let started = place.get_or_init(|| match Engine::start(kind) {
        Ok(engine) => Ok(Mutex::new(Some(Arc::new(engine)))),
        Err(error) => Err(match error.downcast_ref::<Skip>() {
            Some(reason) => Failure::Skip(reason.to_string()),
            None => Failure::Error(told(&error)),
        }),
    });
    match started {
        Ok(engine) => engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .context("the shared engine has ended"),
        Err(Failure::Skip(reason)) => Err(Skip::because(reason).into()),
        Err(Failure::Error(error)) => bail!("the shared engine did not start: {error}"),
    }
}

/// Ends the shared engines and removes what they left in this machine's cgroups.
pub fn end_shared() {
    for place in &SHARED {
        if let Some(Ok(engine)) = place.get() {
            drop(engine.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
    leftovers::sweep_own_cgroups();
}
