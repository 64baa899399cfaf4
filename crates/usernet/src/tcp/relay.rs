//! One connection: the guest's end in a smoltcp socket, the other in one of the host's, and the bytes between.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Time;

use super::link::Link;
use super::listen_at;
use super::ring::{Budget, Held, RING_BYTES, Span};
use super::window::{Window, distance};
use crate::outbox::Outbox;
use crate::packet::{Packet, Segment};
use crate::sys::{self, Pages};

/// Bytes that a connection moves before another one has its turn.
const TURN: usize = 1 << 20;

/// Bytes taken from the host before the guest is given them: more would only be out of the processor's cache by then.
const PIECE: usize = 256 << 10;

/// How long a connection that moves nothing keeps memory that holds nothing.
const SETTLED: Duration = Duration::from_secs(1);

/// How long the guest's bytes wait to be acknowledged: until there are bytes for it to go with, or enough of its own have
/// come. A guest that holds back a short segment until then (Nagle's algorithm) notices it, so it is not long.
const ACK_DELAY: smoltcp::time::Duration = smoltcp::time::Duration::from_millis(1);

/// How long a client of the host's waits for who it is led to.
const CLIENTS_PATIENCE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(20);

/// Who is behind the guest may be gone without a word. When nothing was heard of it for the first time, it is asked for a
/// sign of life; after the second, the connection is over.
const QUIET: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(30);
const SILENCE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(120);

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
    /// With one socket. MUST be dropped before the pages: fields are in their order.
    sockets: SocketSet<'static>,
    /// The ring of the guest's bytes, and that of the host's.
    pages: Pages,
    handle: SocketHandle,
    host: OwnedFd,
    from_guest: FromGuest,
    from_host: FromHost,
    window: Window,
    /// When bytes were last moved.
    moved: Instant,
    /// smoltcp has the guest's request, or has one for it.
    requested: bool,
    /// Both sides have agreed to it, if the guest was asked.
    agreed: bool,
    /// The host's socket had something to read, or room, when it was last asked.
    readable: bool,
    writable: bool,
    /// The host will send no more.
    host_ended: bool,
    /// The guest will send no more, and the host has been told.
    guest_ended: bool,
}

/// The ring of the guest's bytes. smoltcp uses it round and round.
struct FromGuest {
    held: Held,
    /// The sequence number of the first byte of all.
    first: u32,
    /// How many bytes have left the ring.
    passed: u64,
    /// How many there are up to the furthest byte that came, be it out of order.
    furthest: u64,
}

impl FromGuest {
    fn at(&self, position: u64) -> usize {
        // The remainder fits, as the ring's size does.
        usize::try_from(position % RING_BYTES as u64).unwrap_or(0)
    }

    /// The sequence number of the first byte that has not come.
    fn next(&self, queued: usize) -> u32 {
        let position = self.passed + queued as u64;
        // Sequence numbers wrap.
        self.first.wrapping_add(u32::try_from(position & u64::from(u32::MAX)).unwrap_or(0))
    }

    /// The bytes that came in order.
    fn queued(&self, queued: usize) -> Span {
        Span { at: self.at(self.passed), len: queued }
    }

    /// All bytes that have to be kept.
    fn live(&self, queued: usize) -> Span {
        let ahead = usize::try_from(self.furthest.saturating_sub(self.passed)).unwrap_or(RING_BYTES);
        Span { at: self.at(self.passed), len: ahead.max(queued).min(RING_BYTES) }
    }

    /// How many of a segment's bytes the ring may take.
    fn admit(&mut self, segment: Segment, queued: usize, budget: &mut Budget) -> usize {
        let begins = i64::from(distance(self.next(queued), segment.sequence));
        let ends = begins.saturating_add(i64::try_from(segment.len).unwrap_or(i64::MAX));
        // Old bytes take no memory.
        let (Ok(ends), begins_at) = (usize::try_from(ends), usize::try_from(begins).unwrap_or(0)) else {
            return segment.len;
        };
        let end = ends.min(self.held.room(self.queued(queued), budget));
        let old = usize::try_from(-begins).unwrap_or(0);
        if end <= begins_at {
            return old.min(segment.len);
        }
        let begin = self.passed + queued as u64;
        let new = Span { at: self.at(begin + begins_at as u64), len: end - begins_at };
        self.held.wrote(new, budget);
        self.furthest = self.furthest.max(begin + end as u64);
        old + new.len
    }
}

/// The ring of the host's bytes. smoltcp begins anew at its start whenever it is empty.
struct FromHost {
    held: Held,
    /// Where the next byte goes, unless it is empty.
    end: usize,
}

impl FromHost {
    fn live(&self, queued: usize) -> Span {
        let at = if queued == 0 { 0 } else { (self.end + RING_BYTES - queued) % RING_BYTES };
        Span { at, len: queued }
    }
}

impl Relay {
    /// A connection whose end on the host is there, and that of the guest waits for its request. `peer` is the address that
    /// the guest asked for.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(super) fn answering(
        host: OwnedFd,
        peer: SocketAddr,
        request: Segment,
        now: Instant,
    ) -> io::Result<Self> {
        // The request has a number itself.
        let first = request.sequence.wrapping_add(1);
        // It fails for port 0 only, of which no segment gets here.
        Self::new(host, first, now, |socket| {
            socket.listen(listen_at(peer)).map_err(|_| io::ErrorKind::InvalidInput.into())
        })
    }

    /// A connection whose end on the host is there, and that of the guest is asked for. `peer` is who asks.
    ///
    /// # Errors
    /// When there is no memory for it, and when no such connection can be.
    pub(super) fn asking(
        host: OwnedFd,
        (guest, peer): (SocketAddr, SocketAddr),
        interface: &mut Interface,
        now: Instant,
    ) -> io::Result<Self> {
        // The guest's first number comes with its answer.
        let mut relay = Self::new(host, 0, now, |socket| {
            socket.set_timeout(Some(CLIENTS_PATIENCE));
            let asked = socket.connect(interface.context(), guest, listen_at(peer));
            asked.map_err(|_| io::ErrorKind::InvalidInput.into())
        })?;
        relay.requested = true;
        relay.agreed = false;
        Ok(relay)
    }

    fn new(
        host: OwnedFd,
        first: u32,
        now: Instant,
        begin: impl FnOnce(&mut Socket<'_>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut pages = Pages::new(2 * RING_BYTES)?;
        // SAFETY: they are given out once, to a socket that is dropped before the pages are.
        let (receive, send) = unsafe { pages.bytes() }.split_at_mut(RING_BYTES);
        let mut socket = Socket::new(SocketBuffer::new(receive), SocketBuffer::new(send));
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_nagle_enabled(false);
        begin(&mut socket)?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Ok(Relay {
            sockets,
            pages,
            handle,
            host,
            from_guest: FromGuest { held: Held::of_any_start(), first, passed: 0, furthest: 0 },
            from_host: FromHost { held: Held::of_fresh_start(), end: 0 },
            window: Window::new(first),
            moved: now,
            requested: false,
            agreed: true,
            readable: true,
            writable: true,
            host_ended: false,
            guest_ended: false,
        })
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get::<Socket<'_>>(self.handle)
    }

    /// When smoltcp wants its next turn.
    pub(super) fn poll_at(&self, interface: &mut Interface, now: Time) -> Option<Time> {
        interface.poll_at(now, &self.sockets)
    }

    pub(super) fn on_event(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Takes a segment of the guest, as much of it as there may be memory for.
    pub(super) fn take(
        &mut self,
        (packet, segment): (&Packet<'_>, Segment),
        interface: &mut Interface,
        out: &mut Outbox<'_>,
        budget: &mut Budget,
        now: Time,
    ) {
        // It was reset before it was open: smoltcp would take another request now.
        if std::mem::replace(&mut self.requested, true) && self.socket().state() == State::Listen {
            return;
        }
        let asked = self.socket().state() == State::SynSent;
        if asked && (segment.agrees || segment.opens) {
            self.from_guest.first = segment.sequence.wrapping_add(1);
            self.window.agreed(packet.payload, self.from_guest.first);
        }
        let queued = self.socket().recv_queue();
        // What opens a connection brings nothing, nor does it when it is repeated.
        let keep =
            if segment.opens || segment.agrees { 0 } else { self.from_guest.admit(segment, queued, budget) };
        let cut;
        let bytes = if keep < segment.len {
            let Some(rest) = packet.cut(keep) else { return };
            cut = rest;
            &cut
        } else {
            packet.bytes
        };
        self.set_window(budget);
        let mut link = Link::new(Some(bytes), out, Some(&mut self.window));
        interface.poll_ingress_single(now, &mut link, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        if !self.agreed && socket.may_send() {
            self.agreed = true;
            socket.set_timeout(Some(SILENCE));
            socket.set_keep_alive(Some(QUIET));
        }
    }

    fn set_window(&mut self, budget: &Budget) {
        let queued = self.socket().recv_queue();
        let room = self.from_guest.held.room(self.from_guest.queued(queued), budget);
        self.window.set(self.from_guest.next(queued), room);
    }

    /// Moves bytes both ways until there are none, there is no room for them, or it is another one's turn.
    pub(super) fn turn(
        &mut self,
        interface: &mut Interface,
        out: &mut Outbox<'_>,
        budget: &mut Budget,
        (now, time): (Instant, Time),
    ) -> Turn {
        let mut moved = 0;
        let turn = loop {
            let bytes = self.move_to_host() + self.move_to_guest(budget);
            self.set_window(budget);
            let mut sent = false;
            while let PollResult::SocketStateChanged = interface.poll_egress(
                time,
                &mut Link::new(None, out, Some(&mut self.window)),
                &mut self.sockets,
            ) {
                sent = true;
            }
            if !out.has_room() {
                break Turn::Again;
            }
            if self.is_over() {
                break Turn::Over;
            }
            moved += bytes;
            if bytes == 0 && !sent {
                break Turn::Done;
            }
            if moved >= TURN {
                break Turn::Again;
            }
        };
        if moved > 0 {
            self.moved = now;
        }
        self.settle(budget, now);
        turn
    }

    /// Tells the guest of room that has come about. MUST follow each turn that left room for a packet.
    pub(super) fn tell_of_room(&mut self, (guest, peer): (SocketAddr, SocketAddr), out: &mut Outbox<'_>) {
        let socket = self.socket();
        if matches!(socket.state(), State::Established | State::FinWait1 | State::FinWait2) {
            let next = self.from_guest.next(socket.recv_queue());
            self.window.tell(next, guest, peer, out);
        }
    }

    /// Gives memory back that holds nothing: at once if it is more than this connection's share, or else when it was not
    /// needed for a while.
    fn settle(&mut self, budget: &mut Budget, now: Instant) {
        let quiet = now.saturating_duration_since(self.moved) >= SETTLED;
        let (received, sent) = (self.socket().recv_queue(), self.socket().send_queue());
        let (received, sent) = (self.from_guest.live(received), self.from_host.live(sent));
        for (held, live, start) in
            [(&mut self.from_guest.held, received, 0), (&mut self.from_host.held, sent, RING_BYTES)]
        {
            if (quiet || held.exceeds(budget))
                && let Err(error) = held.release(live, (&self.pages, start), budget)
            {
                tracing::warn!(%error, "memory of a connection cannot be given back");
                self.moved = now;
            }
        }
    }

    /// When memory that holds nothing is to be given back.
    pub(super) fn settles_at(&self, budget: &Budget) -> Option<Instant> {
        let (received, sent) = (self.socket().recv_queue(), self.socket().send_queue());
        let dead = self.from_guest.held.has_more_than(self.from_guest.live(received), budget)
            || self.from_host.held.has_more_than(self.from_host.live(sent), budget);
        dead.then(|| self.moved + SETTLED)
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
        self.from_guest.passed += moved as u64;
        let ended =
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if ended && !self.guest_ended && !socket.can_recv() {
            self.guest_ended = true;
            sys::shut_writing(&self.host);
        }
        moved
    }

    fn move_to_guest(&mut self, budget: &mut Budget) -> usize {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.handle);
        let mut moved = 0;
        while self.readable && !self.host_ended && socket.can_send() && moved < PIECE {
            let live = self.from_host.live(socket.send_queue());
            let most = self.from_host.held.room(live, budget).min(PIECE);
            if most == 0 {
                break;
            }
            let host = &self.host;
            let received = socket.send(|room| {
                let room = if room.len() > most { &mut room[..most] } else { room };
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
                Ok(Ok(count)) => {
                    moved += count;
                    let at = (live.at + live.len) % RING_BYTES;
                    self.from_host.held.wrote(Span { at, len: count }, budget);
                    self.from_host.end = (at + count) % RING_BYTES;
                }
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
        matches!(self.socket().state(), State::Closed | State::TimeWait | State::Listen)
    }

    /// Closes the host's end: in order if both sides have ended in order, or if there never was another.
    pub(super) fn close(mut self, budget: &mut Budget) {
        self.from_guest.held.forget(budget);
        self.from_host.held.forget(budget);
        if self.agreed && !(self.host_ended && self.guest_ended) {
            sys::reset(self.host);
        }
    }

    #[cfg(test)]
    pub(super) fn resident(&self) -> usize {
        self.pages.resident()
    }
}
