//! The host's handle to a running socket device: connections go in through a mailbox that wakes the device's thread.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys;

/// Called with the host's end of each connection that the guest opens to a port.
///
/// It runs on the device's thread, so it MUST hand the connection on and return at once.
pub type OnConnection = Box<dyn Fn(UnixStream) + Send>;

/// Where a connection attempt reports to.
pub(super) type Outcome = mpsc::SyncSender<io::Result<()>>;

/// What the host asks of the device.
pub(super) enum Command {
    Connect { port: u32, stream: OwnedFd, outcome: Option<Outcome> },
    Listen { port: u32, on_connection: OnConnection },
}

/// Commands on their way to the device's thread.
pub(super) struct Mailbox {
    /// `None` once the device is gone.
    commands: Mutex<Option<VecDeque<Command>>>,
    wake: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Mailbox { commands: Mutex::new(Some(VecDeque::new())), wake: sys::wake_event()? })
    }

    fn lock(&self) -> MutexGuard<'_, Option<VecDeque<Command>>> {
        // No code that can panic runs under the lock.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable while commands wait.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Leaves a command. False, and the command is dropped, if the device is gone.
    fn put(&self, command: Command) -> bool {
        let mut commands = self.lock();
        let Some(queue) = commands.as_mut() else {
            return false;
        };
        queue.push_back(command);
        drop(commands);
        sys::wake(self.wake.as_fd()).is_ok()
    }

    /// Takes all commands.
    pub(super) fn take(&self) -> VecDeque<Command> {
        sys::clear(self.wake.as_fd());
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The device is gone: commands that wait, and all later ones, are dropped, which closes their sockets.
    pub(super) fn close(&self) {
        let dropped = self.lock().take();
        drop(dropped);
    }
}

/// The host's handle to a machine's socket device. Clones refer to the same device.
///
/// The host is CID 2. Ports are those of the guest for connections that the host opens, and those of the host for
/// connections that the guest opens.
#[derive(Clone)]
pub struct Vsock {
    mailbox: Arc<Mailbox>,
}

impl Vsock {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Vsock { mailbox }
    }

    /// Hands a connected host stream socket (UNIX or TCP) to the guest's `port`.
    ///
    /// The device carries bytes both ways, no faster than the receiving side takes them, and each side's half-close to
    /// the other. It closes the socket when the guest refuses, when it has not answered after
    /// [`CONNECT_TIMEOUT`](super::CONNECT_TIMEOUT), and when the machine is gone. May be called before the guest has
    /// booted: the request waits for its driver.
    pub fn connect_stream(&self, port: u32, stream: OwnedFd) {
        // A machine that is gone closes the socket, which is all that can be said through it.
        self.mailbox.put(Command::Connect { port, stream, outcome: None });
    }

    /// Connects to the guest's `port`; returns once the guest has accepted.
    ///
    /// # Errors
    /// `ConnectionRefused`: nothing listens there. `TimedOut`: no answer within `timeout`. `NotConnected`: the machine
    /// is gone.
    pub fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let (outcome, answer) = mpsc::sync_channel(1);
        let sent = self.mailbox.put(Command::Connect { port, stream: theirs.into(), outcome: Some(outcome) });
        if !sent {
            return Err(io::ErrorKind::NotConnected.into());
        }
        match answer.recv_timeout(timeout) {
            Ok(result) => result.map(|()| ours),
            Err(RecvTimeoutError::Timeout) => Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Accepts connections that the guest opens to the host's `port`, from now on. A second call for the same port
    /// replaces the callback.
    ///
    /// Any process in the guest can connect; a port nobody listens on refuses.
    pub fn listen(&self, port: u32, on_connection: OnConnection) {
        self.mailbox.put(Command::Listen { port, on_connection });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_handle_of_a_dead_device_closes_and_refuses() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let vsock = Vsock::new(Arc::clone(&mailbox));
        let (mut waiting, handed_over) = UnixStream::pair().unwrap();
        vsock.connect_stream(1, handed_over.into());
        mailbox.close();
        assert_eq!(waiting.read(&mut [0]).unwrap(), 0, "a command that waited was dropped");
        let (mut late, handed_over) = UnixStream::pair().unwrap();
        vsock.connect_stream(1, handed_over.into());
        assert_eq!(late.read(&mut [0]).unwrap(), 0);
        let error = vsock.connect(1, Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn a_guest_that_never_answers_times_out() {
        let vsock = Vsock::new(Arc::new(Mailbox::new().unwrap()));
        let error = vsock.connect(1, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
