//! How a container's processes come to be, and what the engine can do to them.
//!
//! The engine writes down what is wanted, the [shim](crate::shim) starts a helper (this program again,
//! `oci`) that makes it so and reports the process, and the shim keeps that process and tells its end.
//! The helper is a process of its own because it joins namespaces, changes its privileges and forks without
//! exec: that cannot be done beside other threads.

mod bundle;
mod cgroup;
mod connection;
mod failure;
mod filter;
/// Paths inside a container's root file system.
pub(crate) mod in_root;
/// What runs as `/sbin/docker-init` in a container started with `--init`.
pub mod init;
mod input;
mod limits;
/// The helper that makes containers and execs.
pub mod oci;
/// From Docker's configuration to an OCI specification.
pub mod spec;
mod streams;
mod usage;
mod workload;

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use oci_spec::runtime::{Process, Spec};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use tokio::{
    io::unix::AsyncFd,
    sync::oneshot,
    task::{AbortHandle, spawn_blocking},
};

pub use cgroup::{CgroupVersion, Cgroups};
pub use failure::start_exit_code;
pub use streams::{Stdio, Streams, resize};

use bundle::Layout;
use connection::{Connection, Listed};
use failure::{Start, start_error};

use wire::docker::{host_config::Resources, stats::Stats};

use crate::{
    blocking,
    error::{Context, Error, Result},
    shim::{
        self,
        protocol::{Exited, Report, receive},
    },
};

/// How long a start that an engine's death interrupted may take to come to its end.
const INTERRUPTED_START: Duration = Duration::from_secs(10);
/// How often, and how long apart, the shim is asked to end, and whether it has ended.
const LAST_ATTEMPTS: usize = 20;
const LAST_PAUSE: Duration = Duration::from_millis(10);
/// How many shims may end under our hands.
const CONNECT_ATTEMPTS: usize = 5;
/// The longest name of a container or an exec; it becomes a file name.
const MAX_NAME: usize = 128;

/// The runtime. Clones are the same runtime.
#[derive(Debug, Clone)]
pub struct Runtime(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    program: PathBuf,
    cgroups: Cgroups,
    connection: Mutex<Arc<Connection>>,
    reconnecting: tokio::sync::Mutex<()>,
    /// Hears the shim.
    hearing: Mutex<AbortHandle>,
    /// What has been started and not released, by [`key`].
    targets: Mutex<HashMap<String, Arc<Target>>>,
}

/// A process that signals can be sent to without fear of hitting another.
#[derive(Debug)]
struct Target {
    pid: u32,
    pidfd: OwnedFd,
}

/// A process that has been started.
#[derive(Debug)]
pub struct Running {
    pub pid: u32,
    pub streams: Streams,
    pub exit: ExitWatch,
}

/// A process that was started by an engine before this one and is held by the shim. It may have ended:
/// [`ExitWatch`] tells.
#[derive(Debug)]
pub struct Held {
    /// The container.
    pub id: String,
    /// The exec, if it is not the container's first process.
    pub exec: Option<String>,
    pub pid: u32,
    pub streams: Streams,
    pub exit: ExitWatch,
}

/// Tells how a process ended.
#[derive(Debug)]
pub struct ExitWatch(oneshot::Receiver<Exited>);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit status, or 128 + the signal.
    pub code: i32,
    pub at: SystemTime,
    /// Whether that is how it ended: nobody knows when the shim was killed with it. It has ended anyway.
    pub known: bool,
}

impl ExitWatch {
    /// Waits for the end. What the process wrote may still be unread by then. The shim remembers the end
    /// until [`Runtime::release`]: whoever must not forget it writes it down before.
    pub async fn wait(self) -> Exit {
        match self.0.await {
            Ok(exited) => Exit { code: exited.code, at: exited.time(), known: true },
            Err(_) => Exit { code: 128 + libc::SIGKILL, at: SystemTime::now(), known: false },
        }
    }
}

impl Runtime {
    /// Connects to the shim of `exec_root`; starts one if none runs, by `program shim`. `program` is a
    /// path that stays valid: normally this very program's. Returns also what the shim holds. Containers
    /// that it does not hold but that have left something behind are killed and removed: their ends are
    /// unknown.
    ///
    /// # Errors
    /// An exec root that cannot be used, no control groups, a shim of another version.
    pub async fn connect(exec_root: &Path, program: &Path) -> Result<(Self, Vec<Held>)> {
        let layout = Layout::new(exec_root);
        layout.create()?;
        let cgroups = Cgroups::detect().context(|| "look at the control groups".to_owned())?;
        let Established { connection, hearing, listed } = establish(&layout, program, &cgroups).await?;
        let runtime = Self(Arc::new(Inner {
            layout,
            program: program.to_owned(),
            cgroups,
            connection: Mutex::new(connection.clone()),
            reconnecting: tokio::sync::Mutex::default(),
            hearing: Mutex::new(hearing),
            targets: Mutex::default(),
        }));
        let mut held = Vec::new();
        for listed in listed {
            let key = listed.key.clone();
            match runtime.take_over(listed).await {
                Ok(process) => held.push(process),
                Err(error) => {
                    tracing::warn!("{key} was being started when the engine ended: {error}");
                    connection.release(&key);
                }
            }
        }
        for id in runtime.0.layout.containers()? {
            if !held.iter().any(|process| process.id == id && process.exec.is_none()) {
                tracing::warn!("container {id} was left behind; it is killed and removed");
                runtime.delete(&id).await?;
                held.retain(|process| process.id != id);
            }
        }
        Ok((runtime, held))
    }

    async fn take_over(&self, mut listed: Listed) -> Result<Held> {
        let report = listed.fds.pop().ok_or_else(|| Error::system("the shim holds no report"))?;
        let patience = if listed.starting { INTERRUPTED_START } else { Duration::ZERO };
        let start = if listed.key.contains('/') { Start::Exec } else { Start::Container };
        let mut reported = read_report(report, listed.exit, Some(patience)).await?;
        let made = reported.made(start)?;
        let (id, exec) = match listed.key.split_once('/') {
            Some((id, exec)) => (id.to_owned(), Some(exec.to_owned())),
            None => (listed.key.clone(), None),
        };
        let mut streams = Streams::from_held(listed.fds, made.terminal);
        streams.stdin =
            streams.stdin.map(|stdin| input::forward(&self.current(), &listed.key, stdin)).transpose()?;
        let pid = made.target.pid;
        self.targets().insert(listed.key, Arc::new(made.target));
        Ok(Held { id, exec, pid, streams, exit: ExitWatch(reported.exit) })
    }

    /// Control groups as this machine has them.
    pub fn cgroups(&self) -> &Cgroups {
        &self.0.cgroups
    }

    /// Creates container `id` and starts its first process; returns when that runs its program.
    ///
    /// # Errors
    /// In Docker's words, see [`start_exit_code`]. Nothing is left of the container then.
    pub async fn start(&self, id: &str, spec: &Spec, stdio: Stdio) -> Result<Running> {
        check_name(id)?;
        let (layout, bundle, spec) = (self.0.layout.clone(), self.0.layout.bundle(id), spec.clone());
        let written = blocking(move || bundle.write(&layout, &spec, stdio)).await;
        let arguments = ["oci", "create", id].map(str::to_owned).to_vec();
        let started = match written {
            Ok(()) => self.launch(Start::Container, id, arguments, stdio).await,
            Err(error) => Err(error),
        };
        if started.is_err() {
            // The reason for the start's failure matters more.
            if let Err(error) = self.delete(id).await {
                tracing::error!("container {id}, which did not start, cannot be removed: {error}");
            }
        }
        started
    }

    /// Starts another process in running container `id`; returns when it runs its program. The process
    /// gets the container's system call filter, whatever its privileges.
    ///
    /// # Errors
    /// In Docker's words, see [`start_exit_code`].
    pub async fn exec(&self, id: &str, exec_id: &str, process: &Process, stdio: Stdio) -> Result<Running> {
        check_name(id)?;
        check_name(exec_id)?;
        let (bundle, process, name) = (self.0.layout.bundle(id), process.clone(), exec_id.to_owned());
        let written = {
            let bundle = bundle.clone();
            blocking(move || bundle.write_exec(&name, &process, stdio)).await
        };
        let arguments = ["oci", "exec", id, exec_id].map(str::to_owned).to_vec();
        let started = match written {
            Ok(()) => self.launch(Start::Exec, &key(id, Some(exec_id)), arguments, stdio).await,
            Err(error) => Err(error),
        };
        bundle.forget_exec(exec_id);
        started
    }

    async fn launch(
        &self,
        start: Start,
        key: &str,
        mut arguments: Vec<String>,
        stdio: Stdio,
    ) -> Result<Running> {
        let root = self.0.layout.root();
        let root = root.to_str().ok_or_else(|| Error::invalid("the exec root is not UTF-8"))?;
        arguments.insert(0, "coracle-agent".to_owned());
        arguments.push(root.to_owned());
        let connection = self.connection().await?;
        let ([input, output, error], mut streams) = streams::open(stdio)?;
        let (report, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .context(|| "make a report's socket".to_owned())?;
        let exit = connection.watch(key);
        let child = [&input, &output, &error, &theirs].map(AsFd::as_fd);
        let mut held = streams.to_hold();
        held.push(report.as_fd());
        let launched = match connection.spawn(key, arguments, &child, &held, streams.stdin.is_some()).await {
            Ok(()) => {
                drop((input, output, error, theirs));
                // The helper is a child of the shim, which tells if it ends without a word.
                read_report(report, exit, None).await
            }
            Err(error) => Err(error),
        };
        let made = launched.and_then(|mut launched| Ok((launched.made(start)?, launched.exit)));
        let (made, exit) = match made {
            Ok(made) => made,
            Err(error) => {
                connection.unwatch(key);
                connection.release(key);
                return Err(error);
            }
        };
        streams.terminal = made.terminal;
        streams.stdin = streams.stdin.map(|stdin| input::forward(&connection, key, stdin)).transpose()?;
        let pid = made.target.pid;
        self.targets().insert(key.to_owned(), Arc::new(made.target));
        Ok(Running { pid, streams, exit: ExitWatch(exit) })
    }

    /// The shim; a new one if it is gone.
    async fn connection(&self) -> Result<Arc<Connection>> {
        let _alone = self.0.reconnecting.lock().await;
        let current = self.current();
        if !current.is_lost() {
            return Ok(current);
        }
        let Established { connection, hearing, .. } =
            establish(&self.0.layout, &self.0.program, &self.0.cgroups).await?;
        *self.0.hearing.lock().unwrap_or_else(PoisonError::into_inner) = hearing;
        tracing::warn!("the shim was gone: another one is connected");
        *self.0.connection.lock().unwrap_or_else(PoisonError::into_inner) = connection.clone();
        Ok(connection)
    }

    fn current(&self) -> Arc<Connection> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn targets(&self) -> MutexGuard<'_, HashMap<String, Arc<Target>>> {
        self.0.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends `signal` to a container's or an exec's process, by the pid that its start told.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::error::Kind::NotFound) when it has ended.
    pub fn signal(&self, pid: u32, signal: i32) -> Result<()> {
        let ended = || Error::not_found(format!("process {pid} has ended"));
        let target = self.targets().values().find(|target| target.pid == pid).cloned().ok_or_else(ended)?;
        // SAFETY: an open pidfd, numbers, and no `siginfo`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                target.pidfd.as_raw_fd(),
                signal,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::ESRCH) {
            return Err(ended());
        }
        Err(error).context(|| format!("send signal {signal} to process {pid}"))
    }

    /// Sends `signal` to every process in the container's control group.
    pub async fn kill_all(&self, id: &str, signal: i32) -> Result<()> {
        self.on_cgroup(id, "signal the processes of", move |cgroups, path| cgroups.kill(path, signal)).await
    }

    /// Every process in the container's control group, by its pid in the machine.
    pub async fn processes(&self, id: &str) -> Result<Vec<u32>> {
        self.on_cgroup(id, "list the processes of", |cgroups, path| cgroups.processes(path)).await
    }

    /// Stops every process of the container where it stands.
    pub async fn pause(&self, id: &str) -> Result<()> {
        self.on_cgroup(id, "pause", |cgroups, path| cgroups.freeze(path, true)).await
    }

    /// Lets them go on.
    pub async fn resume(&self, id: &str) -> Result<()> {
        self.on_cgroup(id, "resume", |cgroups, path| cgroups.freeze(path, false)).await
    }

    /// Whether a process of the container was killed for want of memory. To be asked before the container
    /// is deleted.
    pub async fn oom_killed(&self, id: &str) -> bool {
        self.on_cgroup(id, "look at", |cgroups, path| Ok(cgroups.oom_killed(path))).await.unwrap_or(false)
    }

    /// What the container uses now, and what the network namespace of its process `pid` has carried.
    pub(crate) async fn usage(&self, id: &str, pid: u32) -> Result<Stats> {
        self.on_cgroup(id, "measure", move |cgroups, path| {
            let networks = usage::networks(pid)?;
            Ok(Stats { networks, ..cgroups.usage(path)? })
        })
        .await
    }

    /// Gives the running container the limits of `new` instead of those of `old`.
    ///
    /// # Errors
    /// The kernel refuses one; then it has those of `old` again.
    pub(crate) async fn update(&self, id: &str, old: Resources, new: Resources) -> Result<()> {
        self.on_cgroup(id, "change the limits of", move |cgroups, path| cgroups.update(path, &old, &new))
            .await
    }

    async fn on_cgroup<T: Send + 'static>(
        &self,
        id: &str,
        what: &'static str,
        act: impl FnOnce(&Cgroups, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        check_name(id)?;
        let (bundle, cgroups, id) = (self.0.layout.bundle(id), self.0.cgroups.clone(), id.to_owned());
        blocking(move || {
            let path =
                bundle.cgroup()?.ok_or_else(|| Error::not_found(format!("container {id} does not run")))?;
            act(&cgroups, &path).context(|| format!("{what} container {id}"))
        })
        .await
    }

    /// Removes what is left of the container: its processes, its control group, its state. To be called
    /// after it has ended; whatever was done before is not done again.
    pub async fn delete(&self, id: &str) -> Result<()> {
        check_name(id)?;
        let (layout, cgroups, name) = (self.0.layout.clone(), self.0.cgroups.clone(), id.to_owned());
        blocking(move || delete_left(&layout, &cgroups, &name)).await?;
        let prefix = format!("{id}/");
        let keys: Vec<String> =
            self.targets().keys().filter(|key| *key == id || key.starts_with(&prefix)).cloned().collect();
        for key in keys {
            self.release_key(&key);
        }
        Ok(())
    }

    /// Tells the shim that the process's end has been taken note of and its streams are no longer needed.
    pub fn release(&self, id: &str, exec_id: Option<&str>) {
        self.release_key(&key(id, exec_id));
    }

    fn release_key(&self, key: &str) {
        if self.targets().remove(key).is_some() {
            self.current().release(key);
        }
    }

    /// Ends the shim, unless processes live: then it stays with them.
    pub async fn shutdown(&self) -> Result<()> {
        let connection = self.current();
        // A helper that has just reported may still be on its way out.
        for _ in 0..LAST_ATTEMPTS {
            connection.quit().await?;
            if connection.is_lost() {
                // Its group is empty in a moment, unless another engine's shim is in it as well.
                for _ in 0..CONNECT_ATTEMPTS {
                    if shim::remove_cgroup() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                return Ok(());
            }
            tokio::time::sleep(LAST_PAUSE).await;
        }
        tracing::info!("the shim stays with the processes that it holds");
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hearing.get_mut().unwrap_or_else(PoisonError::into_inner).abort();
    }
}

/// A shim that has welcomed us, and what it holds.
struct Established {
    connection: Arc<Connection>,
    hearing: AbortHandle,
    listed: Vec<Listed>,
}

/// Connects to the shim of the exec root, one that has been started for it if need be.
async fn establish(layout: &Layout, program: &Path, cgroups: &Cgroups) -> Result<Established> {
    let mut attempts = CONNECT_ATTEMPTS;
    loop {
        let connection = Connection::open(layout.root(), program).await?;
        let hearing = hear(&connection, layout, cgroups);
        let agreed = async {
            connection.greet().await?;
            connection.list().await
        };
        match agreed.await {
            Ok(listed) => return Ok(Established { connection, hearing, listed }),
            // One that was about to end took the connection with it.
            Err(_) if connection.is_lost() && attempts > 0 => attempts -= 1,
            Err(error) => return Err(error),
        }
    }
}

/// Hears the shim in the background. If it is gone, its processes have lost whoever could tell their
/// end: they are killed, so that what is told of them is true.
fn hear(connection: &Arc<Connection>, layout: &Layout, cgroups: &Cgroups) -> AbortHandle {
    let (connection, layout, cgroups) = (connection.clone(), layout.clone(), cgroups.clone());
    let task = tokio::spawn(async move {
        let orphans = connection.run().await;
        if orphans.is_empty() {
            return;
        }
        if shim_stays(&layout).await {
            // Whoever has the shim now has its processes as well.
            tracing::error!("another engine uses {}", layout.root().display());
            return;
        }
        tracing::error!("the shim has ended: {} processes are killed", orphans.len());
        let killed = spawn_blocking(move || {
            for (key, _) in &orphans {
                let id = key.split('/').next().unwrap_or(key);
                if let Ok(Some(path)) = layout.bundle(id).cgroup()
                    && let Err(error) = cgroups.kill(&path, libc::SIGKILL)
                {
                    tracing::error!("cannot kill container {id}: {error}");
                }
            }
            // Who waits for the exits hears now that nobody knows.
            drop(orphans);
        });
        if let Err(error) = killed.await {
            tracing::error!("cannot kill what the shim has left: {error}");
        }
    });
    task.abort_handle()
}

/// Whether the shim that has left us is alive all the same: a process that ends closes its sockets before
/// its lock.
async fn shim_stays(layout: &Layout) -> bool {
    for _ in 0..LAST_ATTEMPTS {
        if !connection::shim_lives(layout.root()) {
            return false;
        }
        tokio::time::sleep(LAST_PAUSE).await;
    }
    true
}

/// A report that has come, and the watch of its process.
struct Reported {
    report: Report,
    fds: Vec<OwnedFd>,
    exit: oneshot::Receiver<Exited>,
}

struct Made {
    target: Target,
    terminal: Option<OwnedFd>,
}

impl Reported {
    /// The process that was made.
    fn made(&mut self, start: Start) -> Result<Made> {
        let pid = match &self.report {
            Report::Pid(pid) => *pid,
            Report::Error(reason) => return Err(start_error(start, reason)),
        };
        let mut fds = std::mem::take(&mut self.fds).into_iter();
        let pidfd = fds.next().ok_or_else(|| Error::system("the helper's report has no pidfd"))?;
        let terminal = fds.next();
        if let Some(terminal) = &terminal {
            streams::do_not_block(terminal.as_fd())?;
        }
        Ok(Made { target: Target { pid, pidfd }, terminal })
    }
}

/// Waits for a helper's report, or for its end without one. The report stays in the socket, where the
/// shim holds it for the next engine.
async fn read_report(
    socket: OwnedFd,
    mut exit: oneshot::Receiver<Exited>,
    patience: Option<Duration>,
) -> Result<Reported> {
    let what = || "read a helper's report".to_owned();
    streams::do_not_block(socket.as_fd())?;
    let look = |socket: &OwnedFd| receive::<Report>(socket, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    // SAFETY: it owns its one descriptor and keeps it until it is dropped.
    let socket = unsafe { AsyncFd::register(socket) }.context(what)?;
    let looked = tokio::select! {
        biased;
        looked = socket.async_io(tokio::io::Interest::READABLE, look) => looked,
        exited = &mut exit => {
            // Put back for whoever waits for the process's end.
            let (tell, hear) = oneshot::channel();
            let _ = exited.map(|exited| tell.send(exited));
            exit = hear;
            look(socket.get_ref())
        }
        () = expired(patience) => look(socket.get_ref()),
    };
    match looked {
        Ok(Some((report, fds))) => Ok(Reported { report, fds, exit }),
        Ok(None) => Err(Error::system("the helper ended without a report")),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(Error::system("the helper gave no report"))
        }
        Err(error) => Err(error).context(what),
    }
}

async fn expired(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}

/// Kills and removes what is left of container `id`, control group first: the path to it is in what
/// goes last.
fn delete_left(layout: &Layout, cgroups: &Cgroups, id: &str) -> Result<()> {
    let bundle = layout.bundle(id);
    if let Some(path) = bundle.cgroup()? {
        cgroups.remove(&path).context(|| format!("remove control group {}", path.display()))?;
    }
    match fs::remove_dir_all(bundle.path()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", bundle.path().display()))
        }
        _ => Ok(()),
    }
}

/// The name under which the shim holds a process.
fn key(id: &str, exec_id: Option<&str>) -> String {
    exec_id.map_or_else(|| id.to_owned(), |exec_id| format!("{id}/{exec_id}"))
}

/// Names become file names.
fn check_name(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || name.starts_with('.') || !name.bytes().all(fits) {
        return Err(Error::invalid(format!("{name:?} cannot name a container or an exec")));
    }
    Ok(())
}

impl fmt::Display for CgroupVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "1",
            Self::V2 => "2",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for name in ["", ".", "..", "a/b", ".hidden", "a b", &"x".repeat(MAX_NAME + 1)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["0123abcdef", "web_1.x-y"] {
            check_name(name).unwrap();
        }
        assert_eq!(key("c", Some("e")), "c/e");
    }
}
