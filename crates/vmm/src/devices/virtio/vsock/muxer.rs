//! All connections of the device: finds the one a packet or an event belongs to, and shares the guest's buffers fairly.
//!
//! The muxer has an epoll instance of its own, so that the event loop that drives the device watches one descriptor
//! however many connections there are. Sockets are watched for edges: a connection remembers what it was told until a
//! system call says otherwise. Connections that want to send to the guest stand in a line; each does a bounded amount
//! of work and goes to its end. No timer runs unless the guest owes an answer to a request.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::HOST_CID;
use super::connection::{Connection, Turn, Violation};
use super::csm::{BUFFER_BYTES, Phase};
use super::handle::{Command, Mailbox, OnConnection, Outcome};
use super::host_end::HostEnd;
use super::packet::{GuestPacket, Header, Op, ReceiveBuffer, TYPE_STREAM};
use crate::devices::virtio::{QueueError, VirtQueue};
use crate::sys;

/// Resets that wait for a buffer of the guest. Beyond it no more packets are taken from the guest: it has to supply
/// buffers first.
const MAX_RESETS: usize = 256;

/// Events taken at a time.
const EVENTS: usize = 256;

/// Host ports of connections that the host opens: far from those that anything listens on.
const FIRST_PORT: u32 = 1 << 30;
const LAST_PORT: u32 = (1 << 31) - 1;

/// Tokens of descriptors that belong to no connection. Connections count up from 0.
const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// The name of a connection: with one guest, its two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// What a guest may use up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time. Beyond it both sides are refused.
    pub(super) connections: usize,
    /// How long the guest may take to answer a request.
    pub(super) connect_timeout: Duration,
}

/// A connection's number, never used twice. It is also its epoll token.
type Id = u64;

pub(super) struct Muxer {
    guest_cid: u64,
    limits: Limits,
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    connections: HashMap<Id, Connection>,
    /// Those of `connections` that the guest may know.
    by_ports: HashMap<Ports, Id>,
    listeners: HashMap<u32, OnConnection>,
    /// Connections that want to send to the guest.
    line: VecDeque<Id>,
    /// Connections that hold small payloads of the current batch back.
    unflushed: Vec<Id>,
    resets: VecDeque<Ports>,
    /// When the guest must have answered, in order.
    deadlines: VecDeque<(Instant, Id)>,
    timer: OwnedFd,
    timer_runs: bool,
    next_id: Id,
    next_port: u32,
}

impl Muxer {
    pub(super) fn new(guest_cid: u64, limits: Limits, mailbox: Arc<Mailbox>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, mailbox.wake_fd(), EventData::new_u64(WAKE), EventFlags::IN)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Muxer {
            guest_cid,
            limits,
            epoll,
            mailbox,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            listeners: HashMap::new(),
            line: VecDeque::new(),
            unflushed: Vec::new(),
            resets: VecDeque::new(),
            deadlines: VecDeque::new(),
            timer,
            timer_runs: false,
            next_id: 0,
            next_port: FIRST_PORT,
        })
    }

    /// Readable when [`poll`](Self::poll) has something to do.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Takes in what the host's side has to tell, without waiting; false if it was nothing.
    pub(super) fn poll(&mut self) -> io::Result<bool> {
        let mut events = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; EVENTS];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let count = match epoll::wait(&self.epoll, &mut events[..], Some(&now)) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            // The structure is packed: copy before use.
            let (flags, token) = (event.flags, event.data.u64());
            match token {
                WAKE => self.run_commands(),
                TIMER => self.expire(),
                id => self.host_event(id, flags),
            }
        }
        Ok(count > 0)
    }

    fn run_commands(&mut self) {
        for command in self.mailbox.take() {
            match command {
                Command::Connect { port, stream, outcome } => self.connect(port, stream, outcome),
                Command::Listen { port, on_connection } => {
                    self.listeners.insert(port, on_connection);
                }
            }
        }
    }

    /// Starts a connection to the guest. Dropping `stream` and `outcome` is how failure is told.
    fn connect(&mut self, port: u32, stream: OwnedFd, outcome: Option<Outcome>) {
        if !self.has_room() {
            tracing::warn!(port, connections = self.connections.len(), "too many connections to the machine");
            return;
        }
        let host = match HostEnd::new(stream, self.epoll.as_fd(), self.next_id) {
            Ok(host) => host,
            Err(error) => {
                tracing::warn!(port, %error, "a socket for the machine cannot be watched");
                return;
            }
        };
        let ports = self.free_ports(port);
        let id = self.insert(Connection::outgoing(ports, self.guest_cid, host, outcome));
        self.deadlines.push_back((Instant::now() + self.limits.connect_timeout, id));
        self.run_timer();
        self.want_turn(id);
    }

    /// A name for a new connection to the guest's `port`.
    fn free_ports(&mut self, port: u32) -> Ports {
        // Ends: there are more ports than connections.
        loop {
            let ports = Ports { host: self.next_port, guest: port };
            self.next_port = if self.next_port == LAST_PORT { FIRST_PORT } else { self.next_port + 1 };
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    fn insert(&mut self, connection: Connection) -> Id {
        let id = self.next_id;
        self.next_id += 1;
        self.by_ports.insert(connection.ports, id);
        self.connections.insert(id, connection);
        id
    }

    /// Whether one more connection may be had. If not, one that only the guest still holds on to makes room.
    fn has_room(&mut self) -> bool {
        if self.connections.len() < self.limits.connections {
            return true;
        }
        let waiting = self.connections.iter().find(|(_, connection)| connection.is_waiting_for_reset());
        let Some(id) = waiting.map(|(id, _)| *id) else {
            return false;
        };
        self.reset(id, io::ErrorKind::ConnectionAborted);
        true
    }

    /// Takes in a packet of the guest.
    pub(super) fn receive(&mut self, packet: &GuestPacket<'_>) {
        let header = &packet.header;
        if header.source_cid != self.guest_cid || header.target_cid != HOST_CID {
            return;
        }
        let ports = Ports { host: header.target_port, guest: header.source_port };
        let id = self.by_ports.get(&ports).copied();
        let (Some(op), TYPE_STREAM) = (header.op, header.kind) else {
            // Section 5.10.6.4.1: an unknown type is answered with a reset.
            match id {
                Some(id) => self.reset(id, io::ErrorKind::ConnectionReset),
                None => self.resets.push_back(ports),
            }
            return;
        };
        match (id, op) {
            (Some(id), Op::Reset) => self.on_reset(id),
            (None, Op::Reset) => {}
            (Some(id), op) => self.on_packet(id, op, packet),
            (None, Op::Request) => self.accept(ports, header),
            (None, _) => self.resets.push_back(ports),
        }
    }

    /// The guest opens a connection.
    fn accept(&mut self, ports: Ports, request: &Header) {
        if !self.listeners.contains_key(&ports.host) || !self.has_room() {
            self.resets.push_back(ports);
            return;
        }
        let pair = UnixStream::pair().and_then(|(ours, theirs)| {
            HostEnd::new(ours.into(), self.epoll.as_fd(), self.next_id).map(|host| (host, theirs))
        });
        match pair {
            Ok((host, theirs)) => {
                let id = self.insert(Connection::incoming(ports, request, host));
                self.want_turn(id);
                if let Some(on_connection) = self.listeners.get(&ports.host) {
                    on_connection(theirs);
                }
            }
            Err(error) => {
                tracing::warn!(port = ports.host, %error, "a connection of the machine cannot be accepted");
                self.resets.push_back(ports);
            }
        }
    }

    /// The guest lets go of a connection, or refuses it.
    fn on_reset(&mut self, id: Id) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        if connection.phase == Phase::Open && connection.guest_ended_in_order() {
            self.drain(id);
        } else {
            self.remove(id, io::ErrorKind::ConnectionRefused);
        }
    }

    /// A packet of a known connection that is no reset.
    fn on_packet(&mut self, id: Id, op: Op, packet: &GuestPacket<'_>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let epoll = self.epoll.as_fd();
        let header = &packet.header;
        let result = match op {
            Op::Response => connection.on_response(header),
            Op::Data => connection.on_data(packet, epoll),
            Op::CreditUpdate | Op::CreditRequest if connection.phase == Phase::Open => {
                connection.on_credit(header, op == Op::CreditRequest);
                Ok(())
            }
            Op::Shutdown => connection.on_shutdown(header, epoll),
            // A request of a connection that exists, or credit before it does.
            Op::Request | Op::Reset | Op::CreditUpdate | Op::CreditRequest => Err(Violation),
        };
        if let Err(Violation) = result {
            tracing::debug!(
                ?op,
                host = header.target_port,
                guest = header.source_port,
                "the guest broke a connection"
            );
            self.reset(id, io::ErrorKind::ConnectionReset);
            return;
        }
        if connection.guest_is_done() {
            // Section 5.10.6.5: the reset lets the guest forget the connection and use its port again.
            self.resets.push_back(connection.ports);
            self.drain(id);
            return;
        }
        if op == Op::Data && !connection.unflushed {
            connection.unflushed = true;
            self.unflushed.push(id);
        }
        self.want_turn(id);
    }

    /// Writes the small payloads that were held back for company. Called at the end of each batch of packets.
    pub(super) fn flush(&mut self) {
        for id in std::mem::take(&mut self.unflushed) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.unflushed = false;
                connection.flush(self.epoll.as_fd());
                self.settle(id);
            }
        }
    }

    fn host_event(&mut self, id: Id, flags: EventFlags) {
        // An event of a connection that ended earlier in this batch finds nothing.
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let input = flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::ERR);
        let output = flags.contains(EventFlags::OUT);
        connection.on_host_event(input, output, flags.contains(EventFlags::HUP), self.epoll.as_fd());
        self.settle(id);
    }

    /// Puts a connection where it belongs after a change: in the line, or away.
    fn settle(&mut self, id: Id) {
        if self.connections.get(&id).is_some_and(Connection::is_finished) {
            self.remove(id, io::ErrorKind::ConnectionAborted);
        } else {
            self.want_turn(id);
        }
    }

    fn want_turn(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(&id)
            && !connection.in_line
            && connection.wants_turn()
        {
            connection.in_line = true;
            self.line.push_back(id);
        }
    }

    /// The guest is done with a connection: keeps it until the host has all bytes.
    fn drain(&mut self, id: Id) {
        if let Some(connection) = self.connections.get_mut(&id) {
            self.by_ports.remove(&connection.ports);
            connection.drain();
            self.settle(id);
        }
    }

    /// Ends a connection for both sides.
    fn reset(&mut self, id: Id, kind: io::ErrorKind) {
        if let Some(connection) = self.connections.get(&id)
            && !connection.is_unknown_to_guest()
        {
            self.resets.push_back(connection.ports);
        }
        self.remove(id, kind);
    }

    /// Ends a connection for the host; `kind` is told to whoever waits for it to come about.
    fn remove(&mut self, id: Id, kind: io::ErrorKind) {
        let Some(mut connection) = self.connections.remove(&id) else {
            return;
        };
        // A draining connection's ports may already belong to another one.
        if self.by_ports.get(&connection.ports) == Some(&id) {
            self.by_ports.remove(&connection.ports);
        }
        connection.fail(kind);
        connection.close_host(self.epoll.as_fd());
    }

    /// Whether the guest must supply buffers before more of its packets are taken in.
    pub(super) fn is_behind_with_resets(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// Whether there is anything to say to the guest.
    pub(super) fn wants_to_send(&self) -> bool {
        !self.resets.is_empty() || !self.line.is_empty()
    }

    /// Gives everyone in the line a turn, as far as the guest's buffers go; false if nothing could be done.
    pub(super) fn send(&mut self, queue: &mut VirtQueue<'_>) -> Result<bool, QueueError> {
        let mut progress = false;
        while let Some(ports) = self.resets.front() {
            let Some(buffer) = ReceiveBuffer::pop(queue)? else {
                return Ok(progress);
            };
            buffer.finish(queue, &reset_header(self.guest_cid, *ports))?;
            self.resets.pop_front();
            progress = true;
        }
        for _ in 0..self.line.len() {
            let Some(id) = self.line.pop_front() else {
                break;
            };
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            match connection.take_turn(queue, self.epoll.as_fd())? {
                Turn::Done => {
                    connection.in_line = false;
                    self.settle(id);
                }
                Turn::Again => self.line.push_back(id),
                Turn::NoBuffer => {
                    self.line.push_front(id);
                    return Ok(progress);
                }
                Turn::Broken => self.reset(id, io::ErrorKind::ConnectionReset),
            }
            progress = true;
        }
        Ok(progress)
    }

    fn expire(&mut self) {
        sys::clear(self.timer.as_fd());
        self.timer_runs = false;
        let now = Instant::now();
        while let Some(&(deadline, id)) = self.deadlines.front() {
            let owed =
                self.connections.get(&id).is_some_and(|connection| connection.phase == Phase::Connecting);
            if owed && deadline > now {
                self.run_timer();
                return;
            }
            if owed {
                self.reset(id, io::ErrorKind::TimedOut);
            }
            self.deadlines.pop_front();
        }
    }

    /// Has the timer tell of the first deadline, if it does not run yet.
    fn run_timer(&mut self) {
        let Some(&(deadline, _)) = self.deadlines.front() else {
            return;
        };
        if std::mem::replace(&mut self.timer_runs, true) {
            return;
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        let value = Timespec {
            tv_sec: i64::try_from(rest.as_secs()).unwrap_or(i64::MAX),
            // 0 would stop the timer.
            tv_nsec: i64::from(rest.subsec_nanos().max(1)),
        };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec) {
            tracing::warn!(%error, "connections to a silent guest will not time out");
        }
    }

    /// The guest's driver has stopped. What it sent still goes to the host; requests that it never saw wait on.
    pub(super) fn forget_guest(&mut self) {
        self.resets.clear();
        let ids: Vec<Id> = self.connections.keys().copied().collect();
        for id in ids {
            match self.connections.get(&id) {
                Some(connection) if connection.is_unknown_to_guest() => {}
                Some(connection) if connection.phase == Phase::Connecting => {
                    self.remove(id, io::ErrorKind::ConnectionReset);
                }
                _ => self.drain(id),
            }
        }
    }
}

fn reset_header(guest_cid: u64, ports: Ports) -> Header {
    Header {
        source_cid: HOST_CID,
        target_cid: guest_cid,
        source_port: ports.host,
        target_port: ports.guest,
        len: 0,
        kind: TYPE_STREAM,
        op: Some(Op::Reset),
        flags: 0,
        buffer_bytes: BUFFER_BYTES,
        forwarded: 0,
    }
}
