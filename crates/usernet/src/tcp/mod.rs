//! Connections: each TCP connection of the guest ends here, in a smoltcp socket, and goes on in one of the host's.
//!
//! The guest's request is answered only when the host's socket is connected, so that it hears what really happened: a
//! refusal is a reset, a host without a way to it an ICMP message, and silence is silence.
//!
//! Clients of the host's that are led to the guest are asked for in the guest, from the router's address. Their sockets are
//! connected already; when the guest refuses them, they are closed.
//!
//! smoltcp looks through all sockets of a set for each packet. Here every connection has a set of its own and packets are
//! led to it by their addresses, so that an idle connection costs nothing but memory.
//!
//! * `link`: smoltcp's view of the guest's link.
//! * `relay`: one connection and its two sockets.
//! * `ring`: the memory of all connections.
//! * `window`: how much the guest may send.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Instant;

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketSet};
use smoltcp::wire::HardwareAddress;

use crate::config::{Config, Destination, Limits};
use crate::dns;
use crate::frames::Offloads;
use crate::icmp::{self, Unreachable};
use crate::outbox::Outbox;
use crate::packet::{Packet, Segment};
use crate::poller::{Deadlines, Id, Owner, Poller};
use crate::sys;

mod link;
mod relay;
mod ring;
mod window;

use self::link::Link;
use self::relay::{Relay, Turn};
use self::ring::Budget;

/// The guest's end and the other.
type Key = (SocketAddr, SocketAddr);

/// Descriptors that the network leaves to the rest of the process.
const DESCRIPTORS_LEFT: usize = 256;

/// Ports of the router's that clients come from: none of those that it serves.
const FIRST_CLIENT_PORT: u16 = 1024;

struct Flow {
    key: Key,
    phase: Phase,
    in_line: bool,
    /// The earliest of its deadlines that is noted.
    deadline: Option<Instant>,
}

enum Phase {
    /// The host's socket is being connected.
    Dialing {
        socket: OwnedFd,
        /// The guest's request, without data.
        request: Box<[u8]>,
        /// Where to try next.
        next: Option<SocketAddr>,
        done: bool,
    },
    Open(Box<Relay>),
}

/// What connections need of the rest of the network.
pub(crate) struct Context<'a, 'o> {
    pub(crate) config: &'a Config,
    pub(crate) servers: &'a mut dns::Dns,
    pub(crate) poller: &'a mut Poller,
    pub(crate) out: &'a mut Outbox<'o>,
    pub(crate) now: Instant,
}

/// smoltcp's clock.
struct Clock(Instant);

impl Clock {
    fn at(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.0).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn back(&self, at: smoltcp::time::Instant) -> Instant {
        self.0 + std::time::Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
    }
}

/// All connections.
pub(crate) struct Tcp {
    interface: Option<(Interface, Offloads)>,
    clock: Clock,
    flows: HashMap<Id, Flow>,
    by_key: HashMap<Key, Id>,
    line: VecDeque<Id>,
    deadlines: Deadlines,
    limits: Limits,
    budget: Budget,
    dialing: usize,
    /// Without any socket, for packets that belong to no connection: smoltcp resets them.
    nobody: SocketSet<'static>,
    told_of_limit: bool,
    /// The port of the router's that the next client comes from, if it is free.
    next_port: u16,
}

impl Tcp {
    pub(crate) fn new(config: &Config) -> Self {
        let limits = config.limits;
        // A question over TCP has both ends of a connection within this process, and one to the name server.
        let others = limits.datagram_flows + 3 * limits.questions + DESCRIPTORS_LEFT;
        let open_files = sys::open_files();
        let room = open_files.saturating_sub(others).max(1);
        if room < limits.connections {
            tracing::warn!(
                open_files,
                "the guest gets {room} TCP connections at a time instead of {}: each takes an open file, of which \
                 {others} are kept for other things; raise the hard limit (ulimit -Hn, LimitNOFILE=)",
                limits.connections
            );
        }
        let limits = Limits { connections: limits.connections.min(room), ..limits };
        Tcp {
            interface: None,
            clock: Clock(Instant::now()),
            flows: HashMap::new(),
            by_key: HashMap::new(),
            line: VecDeque::new(),
            deadlines: Deadlines::default(),
            limits,
            budget: Budget::new(limits.buffers),
            dialing: 0,
            nobody: SocketSet::new(Vec::new()),
            told_of_limit: false,
            next_port: FIRST_CLIENT_PORT,
        }
    }

    /// Learns what may be left to the guest. MUST come first in each exchange.
    pub(crate) fn adapt(&mut self, out: &mut Outbox<'_>, now: Instant) {
        let offloads = out.offloads();
        if self.interface.as_ref().is_some_and(|(_, known)| *known == offloads) {
            return;
        }
        let mut config = InterfaceConfig::new(HardwareAddress::Ip);
        // Whatever the standard library seeds its tables with: the kernel's random numbers.
        config.random_seed = RandomState::new().hash_one(0);
        let mut interface = Interface::new(config, &mut Link::new(None, out, None), self.clock.at(now));
        interface.set_any_ip(true);
        self.interface = Some((interface, offloads));
    }

    /// Takes a segment of the guest.
    pub(crate) fn take(&mut self, packet: &Packet<'_>, segment: Segment, context: &mut Context<'_, '_>) {
        let key = (segment.guest, segment.peer);
        let known = self.by_key.get(&key).copied();
        match known.and_then(|id| Some((id, self.flows.get_mut(&id)?))) {
            Some((id, Flow { phase: Phase::Dialing { .. }, .. })) if segment.resets => self.close(id),
            // A repeated request waits as the first does.
            Some((_, Flow { phase: Phase::Dialing { .. }, .. })) => {}
            Some((id, Flow { phase: Phase::Open(relay), in_line, .. })) => {
                let Some((interface, _)) = &mut self.interface else { return };
                let at = self.clock.at(context.now);
                relay.take((packet, segment), interface, context.out, &mut self.budget, at);
                if !std::mem::replace(in_line, true) {
                    self.line.push_back(id);
                }
            }
            None if segment.opens => self.request(key, packet, context),
            // An address that no machine has answers nothing.
            None if segment.resets || context.config.destination(packet.target) == Destination::None => {}
            None => self.refuse(packet.bytes, context.out, context.now),
        }
    }

    /// Answers a packet with a reset.
    fn refuse(&mut self, packet: &[u8], out: &mut Outbox<'_>, now: Instant) {
        if let Some((interface, _)) = &mut self.interface {
            let now = self.clock.at(now);
            interface.poll_ingress_single(now, &mut Link::new(Some(packet), out, None), &mut self.nobody);
        }
    }

    /// Whether a packet belongs to a connection with who is behind the guest.
    pub(crate) fn was_led_to(&self, packet: &Packet<'_>) -> bool {
        packet.tcp().is_some_and(|segment| self.by_key.contains_key(&(segment.guest, segment.peer)))
    }

    /// Asks the guest, or who is behind it, for a connection with a client of the host's.
    pub(crate) fn lead_in(
        &mut self,
        guest: SocketAddrV4,
        client: OwnedFd,
        config: &Config,
        poller: &mut Poller,
        now: Instant,
    ) {
        if self.flows.len() >= self.limits.connections {
            return self.tell_of_limit();
        }
        // `adapt` comes first in each exchange.
        let Some((interface, _)) = &mut self.interface else { return };
        let (by_key, next) = (&self.by_key, &mut self.next_port);
        // One of these is free, as there are not so many connections.
        let free = (0..=by_key.len()).find_map(|_| {
            let key = (guest.into(), SocketAddr::new(config.gateway.into(), *next));
            *next = next.checked_add(1).unwrap_or(FIRST_CLIENT_PORT);
            (!by_key.contains_key(&key)).then_some(key)
        });
        let Some(key) = free else { return };
        let led = poller
            .add(&client, Owner::Tcp)
            .and_then(|id| Ok((id, Relay::asking(client, key, interface, now)?)));
        match led {
            Ok((id, relay)) => {
                let phase = Phase::Open(Box::new(relay));
                self.flows.insert(id, Flow { key, phase, in_line: true, deadline: None });
                self.by_key.insert(key, id);
                self.line.push_back(id);
            }
            Err(error) => tracing::warn!(%error, "a client cannot be led to {guest}"),
        }
    }

    fn tell_of_limit(&mut self) {
        if !std::mem::replace(&mut self.told_of_limit, true) {
            tracing::warn!(
                connections = self.flows.len(),
                dialing = self.dialing,
                "the guest has too many connections; it gets no more for now"
            );
        }
    }

    /// The guest asks for a connection.
    fn request(&mut self, key: Key, packet: &Packet<'_>, context: &mut Context<'_, '_>) {
        let Context { config, servers, poller, out, now } = context;
        let now = *now;
        let (_, peer) = key;
        let (target, next) = match config.destination(peer.ip()) {
            Destination::Outside => (Some(peer), None),
            Destination::Host => {
                let [first, second] =
                    sys::loopback(peer.ip()).map(|address| SocketAddr::new(address, peer.port()));
                (Some(first), Some(second))
            }
            // The name server is here.
            Destination::Gateway if peer.port() == dns::PORT => (None, None),
            Destination::Gateway => return self.refuse(packet.bytes, out, now),
            Destination::Nobody => {
                return icmp::unreachable(config, packet.bytes, Unreachable::Host, out);
            }
            Destination::None => return,
        };
        if self.dialing >= self.limits.dialing || self.flows.len() >= self.limits.connections {
            // It will ask again.
            return self.tell_of_limit();
        }
        let socket = match target {
            Some(target) => sys::dial(target),
            None => servers.connect(poller),
        };
        let dialed = socket.and_then(|socket| {
            let id = poller.add(&socket, Owner::Tcp)?;
            Ok((id, socket))
        });
        match dialed {
            Ok((id, socket)) => {
                // Whatever comes with it comes again when it is answered.
                let Some(request) = packet.cut(0).map(Vec::into_boxed_slice) else { return };
                let phase = Phase::Dialing { socket, request, next, done: false };
                self.flows.insert(id, Flow { key, phase, in_line: false, deadline: None });
                self.by_key.insert(key, id);
                self.dialing += 1;
            }
            Err(error) => self.fail(config, packet.bytes, &error, out, now),
        }
    }

    /// Tells the guest why its request fails.
    fn fail(
        &mut self,
        config: &Config,
        request: &[u8],
        error: &io::Error,
        out: &mut Outbox<'_>,
        now: Instant,
    ) {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                self.refuse(request, out, now)
            }
            io::ErrorKind::TimedOut => {}
            _ => match Unreachable::of(error) {
                Some(why) => icmp::unreachable(config, request, why, out),
                None => tracing::warn!(%error, "a connection of the guest cannot be made"),
            },
        }
    }

    pub(crate) fn on_event(&mut self, id: Id, readable: bool, writable: bool) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        match &mut flow.phase {
            Phase::Dialing { done, .. } => *done |= writable,
            Phase::Open(relay) => relay.on_event(readable, writable),
        }
        if !std::mem::replace(&mut flow.in_line, true) {
            self.line.push_back(id);
        }
    }

    /// Moves what can be moved, as far as the guest has room; false if there was nothing to do.
    pub(crate) fn serve(
        &mut self,
        config: &Config,
        poller: &mut Poller,
        out: &mut Outbox<'_>,
        now: Instant,
    ) -> bool {
        let mut busy = false;
        for _ in 0..self.line.len() {
            if !out.has_room() {
                break;
            }
            let Some(id) = self.line.pop_front() else { break };
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            busy = true;
            flow.in_line = false;
            match flow.phase {
                Phase::Dialing { done: false, .. } => {}
                Phase::Dialing { .. } => {
                    if self.connected(config, id, poller, out, now) {
                        self.turn(id, out, now);
                    }
                }
                Phase::Open(_) => self.turn(id, out, now),
            }
        }
        busy
    }

    /// Finds out what became of a connection that was dialed. True if it is open now.
    fn connected(
        &mut self,
        config: &Config,
        id: Id,
        poller: &mut Poller,
        out: &mut Outbox<'_>,
        now: Instant,
    ) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        let Phase::Dialing { socket, next, done, .. } = &mut flow.phase else { return false };
        *done = false;
        let outcome = sys::outcome(&*socket);
        if outcome.is_ok() && !sys::is_connected(&*socket) {
            return false;
        }
        if outcome.is_err()
            && let Some(other) = next.take()
            && let Ok(another) = sys::dial(other)
            && poller.add_again(&another, Owner::Tcp, id).is_ok()
        {
            *socket = another;
            return false;
        }
        let Some(flow) = self.flows.remove(&id) else { return false };
        self.dialing -= 1;
        let Phase::Dialing { socket, request, .. } = flow.phase else { return false };
        let Some(packet) = Packet::parse(&request) else { return false };
        let Some(segment) = packet.tcp() else { return false };
        let opened = outcome.and_then(|()| Relay::answering(socket, flow.key.1, segment, now));
        match (opened, &mut self.interface) {
            (Ok(mut relay), Some((interface, _))) => {
                let at = self.clock.at(now);
                relay.take((&packet, segment), interface, out, &mut self.budget, at);
                let phase = Phase::Open(Box::new(relay));
                self.flows.insert(id, Flow { key: flow.key, phase, in_line: false, deadline: None });
                return true;
            }
            (Err(error), _) => self.fail(config, &request, &error, out, now),
            // `adapt` comes first in each exchange.
            (Ok(_), None) => {}
        }
        self.by_key.remove(&flow.key);
        false
    }

    /// Gives an open connection its turn.
    fn turn(&mut self, id: Id, out: &mut Outbox<'_>, now: Instant) {
        let Some((interface, _)) = &mut self.interface else { return };
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let Phase::Open(relay) = &mut flow.phase else { return };
        let at = self.clock.at(now);
        match relay.turn(interface, out, &mut self.budget, (now, at)) {
            Turn::Over => return self.close(id),
            Turn::Again => {
                flow.in_line = true;
                self.line.push_back(id);
            }
            Turn::Done => relay.tell_of_room(flow.key, out),
        }
        let protocol = relay.poll_at(interface, at).map(|at| self.clock.back(at));
        let Some(deadline) = protocol.into_iter().chain(relay.settles_at(&self.budget)).min() else { return };
        // What is overdue has just been tried.
        let deadline = deadline.max(now + std::time::Duration::from_millis(1));
        // One that is noted too early finds out then.
        if flow.deadline.is_none_or(|noted| deadline < noted) {
            if let Some(noted) = flow.deadline.replace(deadline) {
                self.deadlines.remove(noted, id);
            }
            self.deadlines.push(deadline, id);
        }
    }

    fn close(&mut self, id: Id) {
        let Some(flow) = self.flows.remove(&id) else { return };
        self.by_key.remove(&flow.key);
        if let Some(noted) = flow.deadline {
            self.deadlines.remove(noted, id);
        }
        match flow.phase {
            Phase::Dialing { .. } => self.dialing -= 1,
            Phase::Open(relay) => relay.close(&mut self.budget),
        }
        self.told_of_limit = false;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Gives a turn to those whose time has come.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.pop_due(now) {
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.deadline = None;
                if !std::mem::replace(&mut flow.in_line, true) {
                    self.line.push_back(id);
                }
            }
        }
    }

    /// Ends everything: the guest has forgotten it.
    pub(crate) fn reset(&mut self) {
        let ids: Vec<Id> = self.flows.keys().copied().collect();
        for id in ids {
            self.close(id);
        }
        self.line.clear();
        self.deadlines.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    #[cfg(test)]
    pub(crate) fn buffered(&self) -> (usize, usize) {
        let resident = |flow: &Flow| match &flow.phase {
            Phase::Open(relay) => relay.resident(),
            Phase::Dialing { .. } => 0,
        };
        (self.budget.used(), self.flows.values().map(resident).sum())
    }
}

/// The address as smoltcp has it.
fn listen_at(peer: SocketAddr) -> smoltcp::wire::IpListenEndpoint {
    let addr = match peer.ip() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => address.into(),
    };
    smoltcp::wire::IpListenEndpoint { addr: Some(addr), port: peer.port() }
}
