//! The engine's end of the shim's socket.

use std::{
    collections::HashMap,
    fs,
    io::{self, ErrorKind},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, flock},
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::{
    error::{Context, Error, Result},
    shim::{
        ROOT_OPTION,
        protocol::{Exited, LOCK, Reply, Request, SOCKET, VERSION, receive, send},
    },
};

/// How long a shim may take to answer, and one that starts to listen.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(5);

/// A connected shim.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    waiting: Mutex<Waiting>,
}

/// Who waits for what.
#[derive(Debug, Default)]
struct Waiting {
    /// The shim is gone.
    lost: bool,
    welcome: Option<oneshot::Sender<Result<()>>>,
    spawns: HashMap<String, oneshot::Sender<Result<()>>>,
    exits: HashMap<String, oneshot::Sender<Exited>>,
    list: Option<mpsc::UnboundedSender<Listed>>,
    quit: Option<oneshot::Sender<()>>,
}

/// One process that the shim holds.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) key: String,
    /// The helper is at work on it.
    pub(super) starting: bool,
    pub(super) exit: oneshot::Receiver<Exited>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Connection {
    /// Connects to the exec root's shim; starts one if none listens. [`Connection::run`] must run before
    /// anything is answered.
    pub(super) async fn open(exec_root: &Path, program: &Path) -> Result<Arc<Self>> {
        let what = || format!("connect to the shim of {}", exec_root.display());
        let socket = timeout(PATIENCE, async {
            loop {
                match connect_in(exec_root) {
                    Ok(socket) => return Ok(socket),
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::WouldBlock
                        ) => {}
                    Err(error) => return Err(error).context(what),
                }
                start_shim(exec_root, program).await?;
                // Another shim may hold the lock and not listen yet, or not any more.
                sleep(RETRY).await;
            }
        })
        .await
        .context(what)??;
        // SAFETY: it owns its one descriptor and keeps it until it is dropped.
        let socket = unsafe { AsyncFd::register(socket) }.context(what)?;
        Ok(Arc::new(Self { socket, waiting: Mutex::default() }))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.waiting().lost
    }

    /// Hears the shim until it is gone; returns the names of the processes that were waited for.
    pub(super) async fn run(&self) -> Vec<(String, oneshot::Sender<Exited>)> {
        let heard = |socket: &OwnedFd| receive::<Reply>(socket, RecvFlags::DONTWAIT);
        loop {
            match self.socket.async_io(tokio::io::Interest::READABLE, heard).await {
                Ok(Some((reply, fds))) => self.dispatch(reply, fds),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!("the shim's answer is unusable: {error}");
                    break;
                }
            }
        }
        let mut waiting = self.waiting();
        waiting.lost = true;
        waiting.welcome = None;
        waiting.spawns.clear();
        waiting.list = None;
        waiting.quit = None;
        waiting.exits.drain().collect()
    }

    fn dispatch(&self, reply: Reply, fds: Vec<OwnedFd>) {
        let mut waiting = self.waiting();
        // Whoever does not wait any more does not mind.
        match reply {
            Reply::Welcome { .. } => {
                let _ = waiting.welcome.take().map(|waits| waits.send(Ok(())));
            }
            Reply::Spawned { key, error } => {
                let result = error.map_or(Ok(()), |error| {
                    Err(Error::system(format!("the shim cannot start a helper: {error}")))
                });
                let _ = waiting.spawns.remove(&key).map(|waits| waits.send(result));
            }
            Reply::Held { key, exit, starting, .. } => {
                let (tell, hear) = oneshot::channel();
                match exit {
                    Some(exit) => {
                        let _ = tell.send(exit);
                    }
                    None => {
                        waiting.exits.insert(key.clone(), tell);
                    }
                }
                let listed = Listed { key, starting, exit: hear, fds };
                let _ = waiting.list.as_ref().map(|list| list.send(listed));
            }
            Reply::Listed => waiting.list = None,
            Reply::Exit { key, exit } => {
                let _ = waiting.exits.remove(&key).map(|waits| waits.send(exit));
            }
            Reply::Refused { reason } => {
                if let Some(quit) = waiting.quit.take() {
                    let _ = quit.send(());
                } else if let Some(welcome) = waiting.welcome.take() {
                    let _ = welcome.send(Err(Error::system(format!("the shim refuses us: {reason}"))));
                }
            }
        }
    }

    async fn request(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let sent =
            self.socket.async_io(tokio::io::Interest::WRITABLE, |socket| send(socket, request, fds)).await;
        if let Err(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) =
            sent.as_ref().map_err(io::Error::kind)
        {
            // Who asks may notice the end before who hears it.
            self.waiting().lost = true;
        }
        sent.context(|| "ask the shim".to_owned())
    }

    /// Agrees on the version.
    pub(super) async fn greet(&self) -> Result<()> {
        let (tell, hear) = oneshot::channel();
        self.waiting().welcome = Some(tell);
        self.request(&Request::Hello { version: VERSION }, &[]).await?;
        timeout(PATIENCE, hear).await.map_err(|_| silent())?.map_err(|_| gone())?
    }

    /// All that the shim holds.
    pub(super) async fn list(&self) -> Result<Vec<Listed>> {
        let (tell, mut hear) = mpsc::unbounded_channel();
        self.waiting().list = Some(tell);
        self.request(&Request::List, &[]).await?;
        let mut all = Vec::new();
        while let Some(listed) = timeout(PATIENCE, hear.recv()).await.map_err(|_| silent())? {
            all.push(listed);
        }
        if self.is_lost() { Err(gone()) } else { Ok(all) }
    }

    /// Waits for the exit of a process from now on. What it yields ends without a value if the shim is
    /// gone and nobody knows.
    pub(super) fn watch(&self, key: &str) -> oneshot::Receiver<Exited> {
        let (tell, hear) = oneshot::channel();
        self.waiting().exits.insert(key.to_owned(), tell);
        hear
    }

    pub(super) fn unwatch(&self, key: &str) {
        self.waiting().exits.remove(key);
    }

    /// Runs this program with `arguments`; see [`Request::Spawn`].
    pub(super) async fn spawn(
        &self,
        key: &str,
        arguments: Vec<String>,
        child: &[BorrowedFd<'_>],
        held: &[BorrowedFd<'_>],
        input: bool,
    ) -> Result<()> {
        let (tell, hear) = oneshot::channel();
        self.waiting().spawns.insert(key.to_owned(), tell);
        let request = Request::Spawn { key: key.to_owned(), arguments, child_fds: child.len(), input };
        let fds: Vec<BorrowedFd<'_>> = child.iter().chain(held).copied().collect();
        self.request(&request, &fds).await?;
        hear.await.map_err(|_| gone())?
    }

    /// Drops what is held under `key`.
    pub(super) fn release(&self, key: &str) {
        self.tell(&Request::Release { key: key.to_owned() });
    }

    /// Drops the input held under `key`.
    pub(super) fn close_input(&self, key: &str) {
        self.tell(&Request::CloseInput { key: key.to_owned() });
    }

    /// Sends what has no answer. The message is small and the socket's buffer is not, so it does not wait.
    fn tell(&self, request: &Request) {
        if let Err(error) = send(self.socket.get_ref(), request, &[])
            && !self.is_lost()
        {
            tracing::warn!("the shim cannot be told {request:?}: {error}");
        }
    }

    /// Asks the shim to end; it stays while processes live.
    pub(super) async fn quit(&self) -> Result<()> {
        let (tell, hear) = oneshot::channel();
        self.waiting().quit = Some(tell);
        match self.request(&Request::Quit { force: false }, &[]).await {
            Err(_) if self.is_lost() => return Ok(()),
            result => result?,
        }
        // An error means that it is gone, which was asked.
        let _ = timeout(PATIENCE, hear).await.map_err(|_| silent())?;
        Ok(())
    }
}

fn gone() -> Error {
    Error::system("the shim has ended")
}

fn silent() -> Error {
    Error::system("the shim does not answer")
}

/// Whether a shim of this exec root runs, also one that is not ours.
pub(super) fn shim_lives(exec_root: &Path) -> bool {
    let Ok(lock) = fs::File::open(exec_root.join(LOCK)) else { return false };
    flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// Connects by way of a descriptor of the directory: a socket's path may have no more than 107 bytes.
fn connect_in(exec_root: &Path) -> io::Result<OwnedFd> {
    let directory = rustix::fs::openat(
        CWD,
        exec_root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    connect(socket.as_fd(), &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

async fn start_shim(exec_root: &Path, program: &Path) -> Result<()> {
    let what = || format!("start the shim of {} with {}", exec_root.display(), program.display());
    fs::create_dir_all(exec_root).context(what)?;
    let output = tokio::process::Command::new(program)
        .arg("shim")
        .arg(ROOT_OPTION)
        .arg(exec_root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .context(what)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(if reason.is_empty() { output.status.to_string() } else { reason })).context(what)
}
