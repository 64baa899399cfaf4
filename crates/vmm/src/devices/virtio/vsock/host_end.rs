//! The host's end of a connection: a stream socket that never blocks us, and the bytes it has not taken yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::Shutdown;

use crate::memory::GuestBuffer;
use crate::sys;

/// Payloads up to this length are gathered and written together at the end of a batch.
const SMALL: usize = 4 << 10;

/// An empty backlog keeps its memory up to this size.
const KEPT_BACKLOG: usize = 8 << 10;

/// How much unread input is dropped on closing, so that a peer that has not read our last bytes yet gets them.
const DISCARD_LIMIT: usize = 256 << 10;

/// Edges that are always watched for. Writability is added while the backlog waits for it.
const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// What reading from the socket came to.
#[derive(Debug)]
pub(super) enum Received {
    Bytes(usize),
    /// Nothing now. An event will tell of more.
    Nothing,
    /// The peer will send no more.
    End,
    /// The peer is gone; what it sent last may be lost.
    Broken,
}

/// A socket under the eyes of an epoll instance, with edge-triggered events.
pub(super) struct HostEnd {
    stream: OwnedFd,
    token: u64,
    /// Whether reading may give something: since the last edge, nothing told us otherwise.
    pub(super) readable: bool,
    /// The socket's send buffer is full; an edge will come.
    blocked: bool,
    backlog: VecDeque<u8>,
    writing_finished: bool,
}

impl HostEnd {
    /// Puts `stream` under the eyes of `epoll`; its events carry `token`.
    pub(super) fn new(stream: OwnedFd, epoll: BorrowedFd<'_>, token: u64) -> io::Result<Self> {
        epoll::add(epoll, &stream, EventData::new_u64(token), WATCHED)?;
        // It may hold bytes already, or be closed: the first read finds out.
        Ok(HostEnd {
            stream,
            token,
            readable: true,
            blocked: false,
            backlog: VecDeque::new(),
            writing_finished: false,
        })
    }

    /// How many bytes wait to be read, 1 if that is not known. 0 bytes also means an end that waits to be read.
    pub(super) fn waiting(&self) -> usize {
        match rustix::io::ioctl_fionread(&self.stream) {
            Ok(count) => usize::try_from(count).unwrap_or(usize::MAX).max(1),
            Err(_) => 1,
        }
    }

    /// Reads into guest memory.
    pub(super) fn receive(&mut self, buffer: &GuestBuffer<'_>) -> Received {
        match sys::receive(self.stream.as_fd(), buffer) {
            Ok(0) => Received::End,
            Ok(count) => Received::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Received::Nothing
            }
            Err(_) => Received::Broken,
        }
    }

    /// Takes over bytes from guest memory. Returns how many went through to the socket; the rest is in the backlog,
    /// and goes out with [`flush`](Self::flush).
    pub(super) fn write(&mut self, payload: &GuestBuffer<'_>, epoll: BorrowedFd<'_>) -> io::Result<usize> {
        let mut sent = 0;
        if self.backlog.is_empty() && payload.len() > SMALL {
            sent = match sys::send(self.stream.as_fd(), payload) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                result => result?,
            };
        }
        let rest = payload.part(sent, usize::MAX);
        if !rest.is_empty() {
            self.append(&rest);
            if payload.len() > SMALL && !self.blocked {
                sent += self.flush(epoll)?;
            }
        }
        Ok(sent)
    }

    fn append(&mut self, bytes: &GuestBuffer<'_>) {
        let start = self.backlog.len();
        self.backlog.resize(start + bytes.len(), 0);
        let (front, back) = self.backlog.as_mut_slices();
        let in_front = front.len().saturating_sub(start);
        if in_front > 0 {
            bytes.copy_to(&mut front[start..]);
        }
        if in_front < bytes.len() {
            let at = start.saturating_sub(front.len());
            bytes.part(in_front, usize::MAX).copy_to(&mut back[at..]);
        }
    }

    /// Writes as much of the backlog as the socket takes; returns how many bytes that was.
    pub(super) fn flush(&mut self, epoll: BorrowedFd<'_>) -> io::Result<usize> {
        let mut sent = 0;
        while !self.backlog.is_empty() && !self.blocked {
            match sys::send_bytes(self.stream.as_fd(), self.backlog.as_slices()) {
                Ok(count) => {
                    self.backlog.drain(..count);
                    sent += count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    epoll::modify(
                        epoll,
                        &self.stream,
                        EventData::new_u64(self.token),
                        WATCHED | EventFlags::OUT,
                    )?;
                }
                Err(error) => return Err(error),
            }
        }
        if self.backlog.is_empty() && self.backlog.capacity() > KEPT_BACKLOG {
            self.backlog = VecDeque::new();
        }
        Ok(sent)
    }

    /// The socket has room again, an event says.
    pub(super) fn unblock(&mut self, epoll: BorrowedFd<'_>) -> io::Result<()> {
        if std::mem::take(&mut self.blocked) {
            // Writability stays unwatched while nothing waits for it: every read of the peer would be an event.
            epoll::modify(epoll, &self.stream, EventData::new_u64(self.token), WATCHED)?;
        }
        Ok(())
    }

    /// Whether bytes wait to be written.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Forgets the bytes that wait to be written.
    pub(super) fn drop_backlog(&mut self) {
        self.backlog = VecDeque::new();
    }

    /// Tells the peer that no more bytes come. The backlog MUST be empty.
    pub(super) fn finish_writing(&mut self) {
        if !std::mem::replace(&mut self.writing_finished, true) {
            // Fails only if the peer is gone, which reading will tell.
            let _ = rustix::net::shutdown(&self.stream, Shutdown::Write);
        }
    }

    /// Tells the peer that nobody reads what it sends.
    pub(super) fn finish_reading(&mut self) {
        self.readable = false;
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Read);
    }

    /// Closes the socket in order: the peer gets every byte that was written, then the end.
    pub(super) fn close(mut self, epoll: BorrowedFd<'_>) {
        self.finish_writing();
        sys::discard_input(self.stream.as_fd(), DISCARD_LIMIT);
        // Closing alone would leave the registration to a duplicate of the descriptor, should the caller have kept one.
        let _ = epoll::delete(epoll, &self.stream);
    }
}
