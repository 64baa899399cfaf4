//! A running process's standard streams: read from its pipes or terminal, written to its log, and
//! passed on to attached clients; and what clients type, written to its standard input.
//!
//! A client that reads slowly slows the process down, as in Docker: a few pieces wait for it in memory,
//! then the pipe fills. One that went away is dropped at the next piece. The log never waits for
//! clients: a piece is logged before it is passed on.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::logs::{Lines, LogFile, PastEnd};
use crate::runtime::Streams;

/// Where output came from. A terminal's counts as standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

/// A piece of output.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) source: Source,
    pub(crate) bytes: Bytes,
}

/// How much is read at once, in bytes: what a pipe holds.
const CHUNK: usize = 64 * 1024;
/// How many pieces wait for one slow client: at most 1 MiB.
const WAITING: usize = 16;
/// How many read buffers are kept for the next chunk of any stream.
const POOLED: usize = 4;

/// The streams of one run of a process: from before its start, so that clients can wait for it, until
/// its output ended.
#[derive(Debug)]
pub(crate) struct Hub {
    clients: Mutex<Clients>,
    stdin: watch::Sender<Stdin>,
    terminal: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    log: Option<Arc<LogFile>>,
    /// The process ended: read what is there, and wait for no more.
    ended: CancellationToken,
    closed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Clients {
    list: Vec<Client>,
    next: u64,
    closed: bool,
}

#[derive(Debug, Clone)]
struct Client {
    number: u64,
    stdout: bool,
    stderr: bool,
    pieces: mpsc::Sender<Piece>,
}

/// The process's standard input.
#[derive(Debug, Clone)]
enum Stdin {
    /// The process has not started.
    Waiting,
    Open(Arc<AsyncFd<OwnedFd>>),
    /// It has none, or it was closed.
    Closed,
}

impl Hub {
    pub(crate) fn new(log: Option<Arc<LogFile>>) -> Arc<Self> {
        Arc::new(Self {
            clients: Mutex::default(),
            stdin: watch::Sender::new(Stdin::Waiting),
            terminal: Mutex::default(),
            log,
            ended: CancellationToken::new(),
            closed: watch::Sender::new(false),
        })
    }

    /// Begins to serve a started process.
    ///
    /// # Errors
    /// Descriptors that the event loop does not take.
    pub(crate) fn begin(self: &Arc<Self>, streams: Streams) -> io::Result<()> {
        let mut readers = JoinSet::new();
        let mut stdin = Stdin::Closed;
        if let Some(terminal) = streams.terminal {
            let terminal = register(terminal, Interest::READABLE | Interest::WRITABLE)?;
            *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = Some(terminal.clone());
            stdin = Stdin::Open(terminal.clone());
            readers.spawn(self.clone().pump(Source::Stdout, terminal));
        }
        if let Some(fd) = streams.stdin {
            stdin = Stdin::Open(register(fd, Interest::WRITABLE)?);
        }
        for (source, fd) in [(Source::Stdout, streams.stdout), (Source::Stderr, streams.stderr)] {
            if let Some(fd) = fd {
                let fd = register(fd, Interest::READABLE)?;
                readers.spawn(self.clone().pump(source, fd));
            }
        }
        // A client may have closed the input before there was one.
        self.stdin.send_if_modified(|now| {
            let waits = matches!(now, Stdin::Waiting);
            if waits {
                *now = stdin;
            }
            waits
        });
        let hub = self.clone();
        tokio::spawn(async move {
            while readers.join_next().await.is_some() {}
            // The process may live on with its output closed; clients leave when it ends.
            hub.ended.cancelled().await;
            hub.close();
        });
        Ok(())
    }

    /// The process ended. Its output is read to the end of what is there, clients get it, and then the
    /// hub closes.
    pub(crate) fn end(&self) {
        self.close_stdin();
        self.ended.cancel();
    }

    /// Nothing more comes: clients see the end of the output. Also for a process that never started.
    pub(crate) fn close(&self) {
        let mut clients = self.clients();
        clients.closed = true;
        clients.list.clear();
        drop(clients);
        self.close_stdin();
        *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.closed.send_replace(true);
    }

    /// Waits until the hub is closed.
    pub(crate) async fn closed(&self) {
        // The sender lives as long as `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    #[cfg(test)]
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Attaches a client: it gets every piece that is read from now on. Says where the log ended at
    /// this moment.
    pub(crate) fn attach(self: &Arc<Self>, stdout: bool, stderr: bool) -> (Pieces, Option<PastEnd>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let mut clients = self.clients();
        let number = clients.next;
        clients.next += 1;
        if !clients.closed {
            clients.list.push(Client { number, stdout, stderr, pieces: sender });
        }
        let end = self.log.as_ref().map(|log| log.end_so_far());
        drop(clients);
        (Pieces { hub: self.clone(), number, receiver }, end)
    }

    /// Writes to the process's standard input, waiting for its start and for room in its pipe.
    ///
    /// # Errors
    /// `BrokenPipe` when there is no standard input, or no longer.
    pub(crate) async fn write_stdin(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut stdin = self.stdin.subscribe();
        while !bytes.is_empty() {
            let fd = {
                let state = stdin.wait_for(|state| !matches!(state, Stdin::Waiting)).await;
                match state.as_deref() {
                    Ok(Stdin::Open(fd)) => fd.clone(),
                    _ => return Err(io::ErrorKind::BrokenPipe.into()),
                }
            };
            tokio::select! {
                written = fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)) => {
                    bytes = &bytes[written?..];
                }
                _ = stdin.changed() => {}
            }
        }
        Ok(())
    }

    /// Closes the process's standard input, once what was written before is in its pipe.
    pub(crate) fn close_stdin(&self) {
        self.stdin.send_replace(Stdin::Closed);
    }

    /// Sets the size of the process's terminal, if it has one.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let terminal = self.terminal.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(terminal) = terminal {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&*terminal, size)?;
        }
        Ok(())
    }

    /// Reads one stream to its end.
    async fn pump(self: Arc<Self>, source: Source, fd: Arc<AsyncFd<OwnedFd>>) {
        let mut lines = Lines::default();
        loop {
            // No buffer is held while a quiet process says nothing.
            let ready = tokio::select! {
                biased;
                ready = fd.ready(Interest::READABLE) => match ready {
                    Ok(ready) => Some(ready),
                    Err(error) => {
                        tracing::warn!("wait for a container's output: {error}");
                        break;
                    }
                },
                // What is there may not have been announced yet.
                () = self.ended.cancelled() => None,
            };
            let last = ready.is_none();
            let mut buffer = Buffers::take();
            let mut read = |fd: &OwnedFd| Ok(rustix::io::read(fd, &mut buffer[..])?);
            let result = match ready {
                Some(mut ready) => ready
                    .try_io(|fd| read(fd.get_ref()))
                    .unwrap_or_else(|_| Err(io::ErrorKind::WouldBlock.into())),
                None => read(fd.get_ref()),
            };
            let go_on = match result {
                Ok(0) => false,
                Ok(read) => {
                    self.output(source, &buffer[..read], &mut lines).await;
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => !last,
                // A terminal whose last process is gone.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => false,
                Err(error) => {
                    tracing::warn!("read a container's output: {error}");
                    false
                }
            };
            Buffers::give(buffer);
            if !go_on {
                break;
            }
        }
        if let Some(log) = &self.log {
            log.finish(source, &mut lines);
        }
    }

    /// Logs a piece and passes it on.
    async fn output(&self, source: Source, bytes: &[u8], lines: &mut Lines) {
        let targets = {
            // Under the lock, so that a client which attaches now finds the piece either in the log
            // or in its channel.
            let clients = self.clients();
            if let Some(log) = &self.log {
                // The disk may block; other tasks go on elsewhere meanwhile.
                blocking(|| log.write(source, lines, bytes));
            }
            let wants = |client: &&Client| match source {
                Source::Stdout => client.stdout,
                Source::Stderr => client.stderr,
            };
            clients.list.iter().filter(wants).cloned().collect::<Vec<_>>()
        };
        if targets.is_empty() {
            return;
        }
        let piece = Piece { source, bytes: Bytes::copy_from_slice(bytes) };
        for client in targets {
            if client.pieces.send(piece.clone()).await.is_err() {
                self.leave(client.number);
            }
        }
    }

    fn leave(&self, number: u64) {
        self.clients().list.retain(|client| client.number != number);
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn register(fd: OwnedFd, interest: Interest) -> io::Result<Arc<AsyncFd<OwnedFd>>> {
    // SAFETY: an `OwnedFd` is open and is always the same descriptor, until it is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(Arc::new(registered?))
}

/// What an attached client gets. Dropping it detaches the client.
#[derive(Debug)]
pub(crate) struct Pieces {
    hub: Arc<Hub>,
    number: u64,
    receiver: mpsc::Receiver<Piece>,
}

impl Pieces {
    /// The next piece; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Piece> {
        self.receiver.recv().await
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.hub.leave(self.number);
    }
}

/// Runs what may block for long. A runtime of one thread (only tests have one) waits for it.
pub(super) fn blocking<T>(run: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(tokio::runtime::RuntimeFlavor::MultiThread) => tokio::task::block_in_place(run),
        _ => run(),
    }
}

/// Read buffers between chunks: many streams share a few.
struct Buffers;

static POOL: Mutex<VecDeque<Vec<u8>>> = Mutex::new(VecDeque::new());

impl Buffers {
    fn take() -> Vec<u8> {
        let pooled = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop_back();
        pooled.unwrap_or_else(|| vec![0; CHUNK])
    }

    fn give(buffer: Vec<u8>) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOLED {
            pool.push_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A hub whose process writes to `stdout` and reads from `stdin`.
    fn started() -> (Arc<Hub>, std::io::PipeWriter, std::io::PipeReader) {
        let hub = Hub::new(None);
        let (stdin, stdout) = begin(&hub);
        (hub, stdout, stdin)
    }

    fn begin(hub: &Arc<Hub>) -> (std::io::PipeReader, std::io::PipeWriter) {
        let (stdout_reader, stdout) = std::io::pipe().unwrap();
        let (stdin, stdin_writer) = std::io::pipe().unwrap();
        for fd in [rustix::fd::AsFd::as_fd(&stdout_reader), rustix::fd::AsFd::as_fd(&stdin_writer)] {
            rustix::io::ioctl_fionbio(fd, true).unwrap();
        }
        let streams = Streams {
            stdin: Some(stdin_writer.into()),
            stdout: Some(stdout_reader.into()),
            stderr: None,
            terminal: None,
        };
        hub.begin(streams).unwrap();
        (stdin, stdout)
    }

    async fn all(mut pieces: Pieces) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = pieces.next().await {
            all.extend_from_slice(&piece.bytes);
        }
        all
    }

    #[tokio::test]
    async fn a_client_that_attached_before_the_start_gets_everything() {
        let hub = Hub::new(None);
        let (pieces, _) = hub.attach(true, true);
        let (_stdin, mut stdout) = begin(&hub);
        stdout.write_all(b"hello").unwrap();
        drop(stdout);
        hub.end();
        assert_eq!(all(pieces).await, b"hello");
        hub.closed().await;
        let (pieces, _) = hub.attach(true, true);
        assert_eq!(all(pieces).await, b"");
    }

    #[tokio::test]
    async fn output_that_is_there_when_the_process_ends_is_not_lost() {
        let (hub, mut stdout, _stdin) = started();
        let (pieces, _) = hub.attach(true, false);
        // Another process keeps the pipe open, so that its end never comes.
        let _kept = stdout.try_clone().unwrap();
        stdout.write_all(b"last words").unwrap();
        hub.end();
        assert_eq!(all(pieces).await, b"last words");
    }

    #[tokio::test]
    async fn a_vanished_client_holds_up_nobody() {
        let (hub, stdout, _stdin) = started();
        let (gone, _) = hub.attach(true, true);
        let (pieces, _) = hub.attach(true, true);
        drop(gone);
        let length = 4 * CHUNK * WAITING;
        let mut stdout = stdout;
        let writer = std::thread::spawn(move || stdout.write_all(&vec![b'x'; length]));
        let end = tokio::spawn({
            let hub = hub.clone();
            async move {
                let _ = tokio::task::spawn_blocking(move || writer.join()).await;
                hub.end();
            }
        });
        assert_eq!(all(pieces).await.len(), length);
        end.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_client_that_does_not_read_stops_the_writer_until_it_leaves() {
        let (hub, mut stdout, _stdin) = started();
        let (slow, _) = hub.attach(true, true);
        let length = 8 * CHUNK * WAITING;
        let writer = std::thread::spawn(move || stdout.write_all(&vec![b'x'; length]));
        // The channel is full: what waits in memory is bounded.
        while slow.receiver.len() < WAITING {
            tokio::task::yield_now().await;
        }
        assert!(!writer.is_finished());
        drop(slow);
        tokio::task::spawn_blocking(move || writer.join()).await.unwrap().unwrap().unwrap();
        hub.end();
        hub.closed().await;
    }

    #[tokio::test]
    async fn input_waits_for_the_start_and_its_end_comes_after_it() {
        let hub = Hub::new(None);
        let writing = tokio::spawn({
            let hub = hub.clone();
            async move {
                hub.write_stdin(b"typed early").await.unwrap();
                hub.close_stdin();
            }
        });
        let (mut stdin, _stdout) = begin(&hub);
        writing.await.unwrap();
        let mut text = String::new();
        stdin.read_to_string(&mut text).unwrap();
        assert_eq!(text, "typed early");
        assert!(hub.write_stdin(b"late").await.is_err());
    }

    #[tokio::test]
    async fn input_that_nobody_reads_ends_with_the_process() {
        let (hub, _stdout, _stdin) = started();
        let writing = tokio::spawn({
            let hub = hub.clone();
            async move { hub.write_stdin(&vec![0; 1 << 20]).await }
        });
        tokio::task::yield_now().await;
        hub.end();
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
