//! What the engine and the shim say to each other.
//!
//! One message is one packet of a `SOCK_SEQPACKET` Unix socket: JSON, with file descriptors beside it.
//! The engine speaks first (`Request::Hello`); versions that differ refuse each other.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, SystemTime},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Changes whenever a message does.
pub const VERSION: u32 = 1;
/// The socket's name in the exec root.
pub const SOCKET: &str = "shim.sock";
/// The name of the file whose lock says that a shim runs.
pub const LOCK: &str = "shim.lock";
/// The largest message, bytes.
pub const MAX_MESSAGE: usize = 32 * 1024;
/// The most file descriptors beside one message.
pub const MAX_FDS: usize = 16;
/// The longest name of a process.
pub const MAX_KEY: usize = 256;
/// The most processes held at a time.
pub const MAX_PROCESSES: usize = 16 * 1024;

/// From the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    Hello {
        version: u32,
    },
    /// Runs this program again with `arguments`. The first `child_fds` descriptors become 0, 1, 2 … of
    /// the helper; the others are held under `key`, the last of them being the end of the socket on
    /// which the helper reports (see [`Report`]) the process that it makes. With `input`, the first one
    /// held is the process's input.
    Spawn {
        key: String,
        arguments: Vec<String>,
        child_fds: usize,
        input: bool,
    },
    /// Drops the input held under `key`: once the engine has closed it as well, the process reads its
    /// end.
    CloseInput {
        key: String,
    },
    /// Asks for all that is held. From then on exits are told.
    List,
    /// Drops what is held under `key`, and its exit status once the process has ended.
    Release {
        key: String,
    },
    /// Ends the shim: refused while processes live, unless forced.
    Quit {
        force: bool,
    },
}

/// From the shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    Welcome {
        version: u32,
        /// The shim's own process.
        pid: u32,
    },
    /// The helper runs, or why not. What it achieves is told by its report.
    Spawned { key: String, error: Option<String> },
    /// One held process, with its descriptors.
    Held {
        key: String,
        /// Known as soon as the helper has reported it.
        process: Option<u32>,
        exit: Option<Exited>,
        /// Whether the helper is still at work.
        starting: bool,
    },
    /// The end of the list.
    Listed,
    /// A process has ended, or the helper that made none. Told again to each newly connected engine until
    /// it is released.
    Exit { key: String, exit: Exited },
    /// What was asked is not done.
    Refused { reason: String },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// The exit status, or 128 + the signal that ended it.
    pub code: i32,
    /// Milliseconds since the epoch.
    pub at: u64,
}

impl Exited {
    pub fn now(code: i32) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { code, at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX) }
    }

    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.at)).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// What a helper reports, in one packet: the process it made, with a pidfd and, where there is one, the
/// terminal's master beside it; or why there is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    Pid(u32),
    Error(String),
}

/// Sends one message. An interrupted or would-block send is an error like any other: nothing was sent.
pub fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message too large"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(socket.as_fd(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
    })?;
    Ok(())
}

/// Receives one message; `None` at the end of the stream.
pub fn receive<T: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags | RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too large"));
    }
    let message = bytes.get(..received.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(message)?, fds)))
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn messages_carry_descriptors_and_can_be_looked_at_twice() {
        let (ours, theirs) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&ours, &Report::Pid(7), &[writer.as_fd()]).unwrap();
        drop((writer, ours));
        for flags in [RecvFlags::PEEK, RecvFlags::PEEK, RecvFlags::empty()] {
            let (report, fds) = receive::<Report>(&theirs, flags).unwrap().unwrap();
            assert_eq!(report, Report::Pid(7));
            rustix::io::write(&fds[0], b"x").unwrap();
            rustix::io::read(&reader, &mut [0; 1]).unwrap();
        }
        assert!(receive::<Report>(&theirs, RecvFlags::empty()).unwrap().is_none());
        // Every copy of the writing end is closed again.
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn garbage_and_giants_are_errors() {
        let (ours, theirs) = pair();
        rustix::io::write(&ours, b"{\"pid\":").unwrap();
        assert!(receive::<Report>(&theirs, RecvFlags::empty()).is_err());
        rustix::io::write(&ours, &vec![b' '; MAX_MESSAGE + 1]).unwrap();
        assert!(receive::<Report>(&theirs, RecvFlags::empty()).is_err());
        let giant = Report::Error("x".repeat(MAX_MESSAGE));
        assert!(send(&ours, &giant, &[]).is_err());
    }
}
