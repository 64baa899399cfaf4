//! One connection: the guest's end in a smoltcp socket, the other in one of the host's, and the bytes between.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;

use super::link::Link;
use super::listen_at;
use crate::outbox::Outbox;
use crate::sys::{self, Pages};

/// Bytes that a connection moves before another one has its turn.
const TURN: usize = 1 << 20;

/// Bytes taken from the host before the guest is given them: more would only be out of the processor's cache by then.
const PIECE: usize = 256 << 10;

/// How large each of a connection's two buffers is when there are `connections` others. Memory that a connection never
/// fills is never taken; a hostile guest can have it all filled, which makes 2.5 GiB with the default limit.
pub(super) fn buffer_bytes(connections: usize) -> usize {
    match connections {
        0..64 => 1 << 20,
        64..1024 => 256 << 10,
        _ => 64 << 10,
    }
}

/// What a connection wants after its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// To wait for an event.
    Done,
    /// Another turn.
    Again,
    /// Nothing ever again.
    Over,
}

pub(super) struct Relay {
    /// With one socket. MUST be dropped before the buffers: fields are in their order.
    sockets: SocketSet<'static>,
    _buffers: [Pages; 2],
    handle: SocketHandle,
    host: OwnedFd,
    /// The host's socket had something to read, or room, when it was last asked.
    readable: bool,
    writable: bool,
    /// The host will send no more.
    host_ended: bool,
    /// The guest will send no more, and the host has been told.
    guest_ended: bool,
}

impl Relay {
    /// A connection whose end on the host is there, and that of the guest waits for its request. `peer` is the address that
    /// the guest asked for.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn new(host: OwnedFd, peer: SocketAddr, buffer: usize) -> io::Result<Self> {
        let mut buffers = [Pages::new(buffer)?, Pages::new(buffer)?];
        // SAFETY: each is given out once, to a socket that is dropped before the pages are.
        let [receive, send] = buffers.each_mut().map(|pages| unsafe { pages.bytes() });
        let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        // It fails for port 0 only, of which no segment gets here.
        socket.listen(listen_at(peer)).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Ok(Relay {
            sockets,
            _buffers: buffers,
            handle,
            host,
            readable: true,
            writable: true,
            host_ended: false,
            guest_ended: false,
        })
    }

    pub(super) fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    pub(super) fn on_event(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Moves bytes both ways until there are none, there is no room for them, or it is another one's turn.
    pub(super) fn turn(&mut self, interface: &mut Interface, out: &mut Outbox<'_>, now: Instant) -> Turn {
        let mut moved = 0;
        loop {
            let bytes = self.move_to_host() + self.move_to_guest();
            let mut sent = false;
            while let PollResult::SocketStateChanged =
                interface.poll_egress(now, &mut Link::new(None, out), &mut self.sockets)
            {
                sent = true;
            }
            if !out.has_room() {
                return Turn::Again;
            }
            if self.is_over() {
                return Turn::Over;
            }
            moved += bytes;
            if bytes == 0 && !sent {
                return Turn::Done;
            }
            if moved >= TURN {
                return Turn::Again;
            }
        }
    }

    fn move_to_host(&mut self) -> usize {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        let mut moved = 0;
        while self.writable && socket.can_recv() {
            let host = &self.host;
            let sent = socket.recv(|bytes| match sys::send(host, bytes) {
                Ok(count) => (count, Ok(count)),
                Err(error) => (0, Err(error)),
            });
            match sent {
                Ok(Ok(count)) => moved += count,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Ok(Err(_)) => {
                    // The other end is gone, and so are these bytes.
                    socket.abort();
                    break;
                }
                Err(_) => break,
            }
        }
        let ended =
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if ended && !self.guest_ended && !socket.can_recv() {
            self.guest_ended = true;
            sys::shut_writing(&self.host);
        }
        moved
    }

    fn move_to_guest(&mut self) -> usize {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        let mut moved = 0;
        while self.readable && !self.host_ended && socket.can_send() && moved < PIECE {
            let host = &self.host;
            let received = socket.send(|room| {
                let room = if room.len() > PIECE { &mut room[..PIECE] } else { room };
                match sys::receive_stream(host, room) {
                    Ok(count) => (count, Ok(count)),
                    Err(error) => (0, Err(error)),
                }
            });
            match received {
                Ok(Ok(0)) => {
                    self.host_ended = true;
                    socket.close();
                }
                Ok(Ok(count)) => moved += count,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Ok(Err(_)) => {
                    // The other end reset it.
                    socket.abort();
                    break;
                }
                Err(_) => break,
            }
        }
        moved
    }

    /// Whether the guest's end needs nothing more. What remains of it in TIME-WAIT is left to the guest: no late segment
    /// comes by a link that keeps the order.
    fn is_over(&self) -> bool {
        matches!(self.sockets.get::<Socket<'_>>(self.handle).state(), State::Closed | State::TimeWait)
    }

    /// Closes the host's end: in order if both sides have ended in order.
    pub(super) fn close(self) {
        if !(self.host_ended && self.guest_ended) {
            sys::reset(self.host);
        }
    }
}
