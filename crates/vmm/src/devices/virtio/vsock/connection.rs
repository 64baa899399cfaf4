//! One connection: the protocol's state, the host's end, and what still has to be said to the guest.

use std::io;
use std::os::fd::BorrowedFd;

use super::csm::{BUFFER_BYTES, Closing, Credit, Phase};
use super::handle::Outcome;
use super::host_end::{HostEnd, Received};
use super::packet::{GuestPacket, Header, Op, ReceiveBuffer, Shutdown, TYPE_STREAM};
use super::{HOST_CID, muxer::Ports};
use crate::devices::virtio::{QueueError, VirtQueue};
use crate::memory::GuestBuffer;

/// Receive buffers that one read from the host fills at most.
const BUFFERS_PER_READ: usize = 32;

/// Packets or reads that a connection may do before the others have their turn.
const READS_PER_TURN: usize = 4;

/// What a connection's turn to send came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has nothing to say now.
    Done,
    /// It has more to say, and let the others go first.
    Again,
    /// It has something to say, but could say nothing of it: the guest supplied no buffer.
    NoBuffer,
    /// It came to its end; the guest must be sent a reset.
    Broken,
}

/// The guest broke the rules of a connection: it must be reset.
#[derive(Debug)]
pub(super) struct Violation;

/// A connection in any phase.
pub(super) struct Connection {
    pub(super) ports: Ports,
    pub(super) phase: Phase,
    guest_cid: u64,
    credit: Credit,
    closing: Closing,
    /// `None`: the host is done with this connection; it waits for the guest to let go.
    host: Option<HostEnd>,
    /// The request or response that has to go to the guest before anything else.
    opening: Option<Op>,
    /// The guest asked for our credit.
    credit_asked: bool,
    /// Who waits for the guest's answer.
    pub(super) outcome: Option<Outcome>,
    /// Whether it stands in the line of those that want to send.
    pub(super) in_line: bool,
    /// Whether small payloads of this batch wait to be written.
    pub(super) unflushed: bool,
}

impl Connection {
    /// A connection that the host opens.
    pub(super) fn outgoing(ports: Ports, guest_cid: u64, host: HostEnd, outcome: Option<Outcome>) -> Self {
        let mut connection = Connection::new(ports, guest_cid, host);
        connection.phase = Phase::Connecting;
        connection.opening = Some(Op::Request);
        connection.outcome = outcome;
        connection
    }

    /// A connection that the guest opened with `request`, and that the host accepts.
    pub(super) fn incoming(ports: Ports, request: &Header, host: HostEnd) -> Self {
        let mut connection = Connection::new(ports, request.source_cid, host);
        connection.opening = Some(Op::Response);
        connection.credit.learn(request);
        connection
    }

    fn new(ports: Ports, guest_cid: u64, host: HostEnd) -> Self {
        Connection {
            ports,
            phase: Phase::Open,
            guest_cid,
            credit: Credit::default(),
            closing: Closing::default(),
            host: Some(host),
            opening: None,
            credit_asked: false,
            outcome: None,
            in_line: false,
            unflushed: false,
        }
    }

    /// Whether a request is to be sent and was not: the guest knows nothing of this connection.
    pub(super) fn is_unknown_to_guest(&self) -> bool {
        self.opening == Some(Op::Request)
    }

    /// Whether only the guest still holds on to it.
    pub(super) fn is_waiting_for_reset(&self) -> bool {
        self.phase == Phase::Open && self.host.is_none()
    }

    /// Whether nothing is left to do: the guest has let go and the host's end has all bytes.
    pub(super) fn is_finished(&self) -> bool {
        self.phase == Phase::Draining && self.host.as_ref().is_none_or(|host| !host.has_backlog())
    }

    /// Whether [`take_turn`](Self::take_turn) would do anything.
    pub(super) fn wants_turn(&self) -> bool {
        match self.phase {
            Phase::Connecting => self.opening.is_some(),
            Phase::Open => {
                self.opening.is_some()
                    || self.closing.news_for_guest()
                    || self.credit_asked
                    || self.credit.update_due()
                    || (self.may_read() && self.credit.guest_space() > 0)
            }
            Phase::Draining => false,
        }
    }

    /// Whether the host may have bytes for the guest, and the guest would have them.
    fn may_read(&self) -> bool {
        let open = !self.closing.guest.receive && !self.closing.host.send;
        open && self.host.as_ref().is_some_and(|host| host.readable)
    }

    /// The guest accepted our request.
    pub(super) fn on_response(&mut self, header: &Header) -> Result<(), Violation> {
        if self.phase != Phase::Connecting || self.is_unknown_to_guest() {
            return Err(Violation);
        }
        self.phase = Phase::Open;
        self.credit.learn(header);
        if let Some(outcome) = self.outcome.take() {
            // A caller that no longer waits has closed its end of the stream, which ends the connection.
            let _ = outcome.try_send(Ok(()));
        }
        Ok(())
    }

    /// The guest sent bytes.
    pub(super) fn on_data(
        &mut self,
        packet: &GuestPacket<'_>,
        epoll: BorrowedFd<'_>,
    ) -> Result<(), Violation> {
        if self.phase != Phase::Open || self.closing.guest.send {
            return Err(Violation);
        }
        self.credit.learn(&packet.header);
        self.credit.count_received(packet.header.len).map_err(|_| Violation)?;
        let host = self.host.as_mut().filter(|_| !self.closing.host.receive);
        match host.map(|host| host.write(&packet.payload, epoll)) {
            Some(Ok(sent)) => self.count_forwarded(sent),
            // Nobody reads any more: the bytes are dropped.
            Some(Err(_)) | None => self.stop_delivering(),
        }
        Ok(())
    }

    /// What the guest says of its buffer, in packets without effect of their own.
    pub(super) fn on_credit(&mut self, header: &Header, asked: bool) {
        self.credit.learn(header);
        self.credit_asked |= asked;
    }

    /// The guest closes one or both directions.
    pub(super) fn on_shutdown(&mut self, header: &Header, epoll: BorrowedFd<'_>) -> Result<(), Violation> {
        if self.phase != Phase::Open {
            return Err(Violation);
        }
        self.credit.learn(header);
        self.closing.guest = self.closing.guest.and_also(Shutdown::from_flags(header.flags));
        if let Some(host) = &mut self.host {
            if self.closing.guest.receive {
                host.finish_reading();
            }
            if self.closing.guest.send && !host.has_backlog() {
                host.finish_writing();
            }
        }
        self.release_host_if_settled(epoll);
        Ok(())
    }

    /// Whether the guest has closed both directions, and waits for a reset to forget the connection.
    pub(super) fn guest_is_done(&self) -> bool {
        self.closing.guest == Shutdown::BOTH
    }

    /// Whether the guest ended its stream in order, so that what it sent must reach the host.
    pub(super) fn guest_ended_in_order(&self) -> bool {
        self.closing.guest.send
    }

    /// The guest has let go: only the backlog is left to do.
    pub(super) fn drain(&mut self) {
        self.phase = Phase::Draining;
        self.opening = None;
    }

    /// Events of the host's socket.
    pub(super) fn on_host_event(&mut self, input: bool, output: bool, hung_up: bool, epoll: BorrowedFd<'_>) {
        let Some(host) = &mut self.host else {
            return;
        };
        if input || hung_up {
            host.readable = true;
        }
        if hung_up {
            // The peer takes no more bytes. Those that it sent can still be read.
            self.stop_delivering();
        } else if output {
            if host.unblock(epoll).is_ok() {
                self.flush(epoll);
            } else {
                self.stop_delivering();
            }
        }
    }

    /// Writes what waits for the host.
    pub(super) fn flush(&mut self, epoll: BorrowedFd<'_>) {
        let Some(host) = &mut self.host else {
            return;
        };
        match host.flush(epoll) {
            Ok(sent) => {
                if self.closing.guest.send && !host.has_backlog() {
                    host.finish_writing();
                }
                self.count_forwarded(sent);
                self.release_host_if_settled(epoll);
            }
            Err(_) => self.stop_delivering(),
        }
    }

    /// The host takes no more bytes: drops what waits for it. The guest will be told.
    fn stop_delivering(&mut self) {
        if let Some(host) = &mut self.host {
            host.drop_backlog();
        }
        self.credit.count_all_forwarded();
        self.closing.host.receive = true;
    }

    fn count_forwarded(&mut self, bytes: usize) {
        // Never more than the buffer, which is a u32.
        self.credit.count_forwarded(u32::try_from(bytes).unwrap_or(BUFFER_BYTES));
    }

    /// Closes the host's end once neither direction has a byte to come.
    fn release_host_if_settled(&mut self, epoll: BorrowedFd<'_>) {
        if self.closing.settled() && self.host.as_ref().is_some_and(|host| !host.has_backlog()) {
            self.close_host(epoll);
        }
    }

    /// Closes the host's end now.
    pub(super) fn close_host(&mut self, epoll: BorrowedFd<'_>) {
        if let Some(host) = self.host.take() {
            host.close(epoll);
        }
    }

    /// Reports a connection that did not come about.
    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        if let Some(outcome) = self.outcome.take() {
            let _ = outcome.try_send(Err(kind.into()));
        }
    }

    /// Says to the guest what is to be said, as far as buffers, credit and fairness allow.
    pub(super) fn take_turn(
        &mut self,
        queue: &mut VirtQueue<'_>,
        epoll: BorrowedFd<'_>,
    ) -> Result<Turn, QueueError> {
        let mut said = 0_usize;
        while self.wants_turn() {
            // One that has said something lets the others go first, be it for fairness or for want of buffers.
            if said > READS_PER_TURN {
                return Ok(Turn::Again);
            }
            match self.say_next(queue, epoll)? {
                Turn::Done => said += 1,
                Turn::NoBuffer if said > 0 => return Ok(Turn::Again),
                other => return Ok(other),
            }
        }
        Ok(Turn::Done)
    }

    /// Says the next thing: in order the opening, bytes, their end, credit.
    fn say_next(&mut self, queue: &mut VirtQueue<'_>, epoll: BorrowedFd<'_>) -> Result<Turn, QueueError> {
        if let Some(op) = self.opening {
            let sent = self.send(queue, op, 0)?;
            if sent {
                self.opening = None;
            }
            return Ok(if sent { Turn::Done } else { Turn::NoBuffer });
        }
        if self.may_read() && self.credit.guest_space() > 0 {
            return self.carry(queue);
        }
        let sent = if self.closing.news_for_guest() {
            let sent = self.send(queue, Op::Shutdown, self.closing.host.flags())?;
            if sent {
                self.closing.host_told = self.closing.host;
                self.release_host_if_settled(epoll);
            }
            sent
        } else {
            let sent = self.send(queue, Op::CreditUpdate, 0)?;
            self.credit_asked &= !sent;
            sent
        };
        Ok(if sent { Turn::Done } else { Turn::NoBuffer })
    }

    /// Reads once from the host into the guest's buffers.
    fn carry<'m>(&mut self, queue: &mut VirtQueue<'m>) -> Result<Turn, QueueError> {
        let Some(host) = &mut self.host else {
            return Ok(Turn::Done);
        };
        let space = usize::try_from(self.credit.guest_space()).unwrap_or(usize::MAX);
        let wanted = host.waiting().min(space);
        let mut target = GuestBuffer::default();
        let mut buffers: Vec<(ReceiveBuffer<'m>, usize)> = Vec::new();
        while buffers.len() < BUFFERS_PER_READ && target.len() < wanted {
            let Some(buffer) = ReceiveBuffer::pop(queue)? else {
                break;
            };
            let limit = space - target.len();
            let room = buffer.add_payload_to(&mut target, limit);
            buffers.push((buffer, room));
        }
        if buffers.is_empty() {
            return Ok(Turn::NoBuffer);
        }
        let mut rest = match host.receive(&target) {
            Received::Bytes(count) => count,
            Received::Nothing => 0,
            Received::End => {
                self.closing.host.send = true;
                0
            }
            Received::Broken => {
                queue.unpop(u16::try_from(buffers.len()).unwrap_or(0));
                return Ok(Turn::Broken);
            }
        };
        let filled = buffers.iter().scan(rest, |rest, (_, room)| {
            let used = *rest > 0;
            *rest = rest.saturating_sub(*room);
            Some(used)
        });
        let unused = filled.filter(|used| !used).count();
        // The queue gives buffers out in order, so the unused ones are the last.
        queue.unpop(u16::try_from(unused).unwrap_or(0));
        let used = buffers.len() - unused;
        for (buffer, room) in buffers.into_iter().take(used) {
            let len = u32::try_from(rest.min(room)).unwrap_or(0);
            rest = rest.saturating_sub(room);
            self.credit.count_sent(len);
            let header = self.header(Op::Data, len, 0);
            buffer.finish(queue, &header)?;
        }
        Ok(Turn::Done)
    }

    /// Sends a packet without payload; false if the guest supplied no buffer.
    fn send(&mut self, queue: &mut VirtQueue<'_>, op: Op, flags: u32) -> Result<bool, QueueError> {
        let Some(buffer) = ReceiveBuffer::pop(queue)? else {
            return Ok(false);
        };
        let header = self.header(op, 0, flags);
        buffer.finish(queue, &header)?;
        Ok(true)
    }

    fn header(&mut self, op: Op, len: u32, flags: u32) -> Header {
        Header {
            source_cid: HOST_CID,
            target_cid: self.guest_cid,
            source_port: self.ports.host,
            target_port: self.ports.guest,
            len,
            kind: TYPE_STREAM,
            op: Some(op),
            flags,
            buffer_bytes: BUFFER_BYTES,
            forwarded: self.credit.announce(),
        }
    }
}
