//! Conversations of datagrams: UDP and pings, each with a socket of its own that is closed when nothing was said for a
//! while.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::icmp::{self, Unreachable};
use crate::outbox::Outbox;
use crate::poller::{Deadlines, Id, Owner, Poller};
use crate::sys;

/// How long a conversation is kept after its last datagram: RFC 4787, section 4.3, asks for two minutes at least.
const IDLE: Duration = Duration::from_secs(180);
/// The same while nobody has answered.
const UNANSWERED: Duration = Duration::from_secs(60);
/// The same for pings and questions for a name, which are answered at once or never.
const SHORT: Duration = Duration::from_secs(15);
const NAME_SERVER_PORT: u16 = 53;

/// Datagrams given to the guest before another conversation has its turn.
const TURN: usize = 64;

/// The longest answer to a ping.
const MESSAGE_BYTES: usize = 65_535;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Udp,
    /// The guest's port is the ping's identifier; the other is 0.
    Ping,
}

/// What makes datagrams one conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) guest: SocketAddr,
    pub(crate) peer: SocketAddr,
}

struct Flow {
    key: Key,
    socket: OwnedFd,
    last_used: Instant,
    answered: bool,
    readable: bool,
    /// It is in the line of those who have something for the guest.
    in_line: bool,
}

impl Flow {
    fn ends_at(&self) -> Instant {
        let patience = match self.key.kind {
            Kind::Ping => SHORT,
            Kind::Udp if self.key.peer.port() == NAME_SERVER_PORT => SHORT,
            Kind::Udp if self.answered => IDLE,
            Kind::Udp => UNANSWERED,
        };
        self.last_used + patience
    }
}

/// All conversations.
pub(crate) struct Datagrams {
    flows: HashMap<Id, Flow>,
    by_key: HashMap<Key, Id>,
    line: VecDeque<Id>,
    deadlines: Deadlines,
    most: usize,
    message: Box<[u8]>,
    told_of_pings: bool,
}

impl Datagrams {
    pub(crate) fn new(most: usize) -> Self {
        Datagrams {
            flows: HashMap::new(),
            by_key: HashMap::new(),
            line: VecDeque::new(),
            deadlines: Deadlines::default(),
            most,
            message: vec![0; MESSAGE_BYTES].into(),
            told_of_pings: false,
        }
    }

    /// Sends a datagram of the guest. One that the socket does not take now is lost, as datagrams are.
    ///
    /// # Errors
    /// Those that the guest should hear of.
    pub(crate) fn send(
        &mut self,
        config: &Config,
        key: Key,
        payload: &[u8],
        poller: &mut Poller,
    ) -> io::Result<()> {
        let now = Instant::now();
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => self.open(config, key, poller, now)?,
        };
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(()) };
        flow.last_used = now;
        match sys::send(&flow.socket, payload) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result.map(|_| ()),
        }
    }

    fn open(&mut self, config: &Config, key: Key, poller: &mut Poller, now: Instant) -> io::Result<Id> {
        let socket = match key.kind {
            Kind::Udp => {
                let mut target = key.peer;
                if config.is_host(target.ip()) {
                    target.set_ip(sys::loopback(target.ip())[0]);
                }
                sys::datagram(target)?
            }
            Kind::Ping => sys::ping(key.peer.ip()).inspect_err(|error| {
                if error.kind() == io::ErrorKind::PermissionDenied && !self.told_of_pings {
                    self.told_of_pings = true;
                    tracing::warn!(
                        "pings of the guest are refused: this host does not let its users ping \
                         (sysctl net.ipv4.ping_group_range)"
                    );
                }
            })?,
        };
        if self.flows.len() >= self.most
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, flow)| flow.last_used).map(|(id, _)| *id)
        {
            self.close(oldest);
        }
        let id = poller.add(&socket, Owner::Datagram)?;
        let flow = Flow { key, socket, last_used: now, answered: false, readable: false, in_line: false };
        self.deadlines.push(flow.ends_at(), id);
        self.flows.insert(id, flow);
        self.by_key.insert(key, id);
        Ok(id)
    }

    fn close(&mut self, id: Id) {
        if let Some(flow) = self.flows.remove(&id) {
            self.by_key.remove(&flow.key);
        }
    }

    pub(crate) fn on_event(&mut self, id: Id, readable: bool) {
        if let Some(flow) = self.flows.get_mut(&id)
            && readable
        {
            flow.readable = true;
            if !std::mem::replace(&mut flow.in_line, true) {
                self.line.push_back(id);
            }
        }
    }

    /// Gives the guest what has come for it, as far as it has room; false if there was nothing to do.
    pub(crate) fn serve(&mut self, config: &Config, out: &mut Outbox<'_>) -> bool {
        let mut busy = false;
        for _ in 0..self.line.len() {
            if !out.has_room() {
                break;
            }
            let Some(id) = self.line.pop_front() else { break };
            let Some(flow) = self.flows.get_mut(&id) else { continue };
            busy = true;
            for _ in 0..TURN {
                if !flow.readable || !out.has_room() {
                    break;
                }
                deliver(config, flow, &mut self.message, out);
            }
            if flow.readable {
                self.line.push_back(id);
            } else {
                flow.in_line = false;
            }
        }
        busy
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Closes what was idle for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(id) = self.deadlines.pop_due(now) {
            match self.flows.get(&id).map(Flow::ends_at) {
                Some(ends) if ends > now => self.deadlines.push(ends, id),
                Some(_) => self.close(id),
                None => {}
            }
        }
    }

    pub(crate) fn reset(&mut self) {
        self.flows.clear();
        self.by_key.clear();
        self.line.clear();
        self.deadlines.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }
}

/// Gives one datagram to the guest, or the reason why none will come.
fn deliver(config: &Config, flow: &mut Flow, message: &mut [u8], out: &mut Outbox<'_>) {
    let received = match flow.key.kind {
        Kind::Udp => out.udp_from(flow.key.peer, flow.key.guest, |room| sys::receive(&flow.socket, room)),
        Kind::Ping => sys::receive(&flow.socket, message).map(|len| {
            if let Some(message) = message.get(..len) {
                icmp::answer(&flow.key, message, out);
            }
        }),
    };
    match received {
        Ok(()) => {
            flow.answered = true;
            flow.last_used = Instant::now();
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => flow.readable = false,
        // The socket's error is told once and is then gone.
        Err(error) => match Unreachable::of(&error) {
            Some(why) if flow.key.kind == Kind::Udp => {
                icmp::datagram_unreachable(config, flow.key.guest, flow.key.peer, why, out);
            }
            _ => {
                flow.readable = false;
                tracing::debug!(%error, "a conversation of datagrams");
            }
        },
    }
}
