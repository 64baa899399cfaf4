//! Names: the router answers for the host, and passes every other question on to the host's own name servers as it is.
//!
//! * `message`: what is in a message, as far as it must be known.
//! * `resolvers`: the host's name servers and search domains.
//! * `stream`: questions over TCP. Here are those by UDP.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::outbox::Outbox;
use crate::poller::{Deadlines, Id, Owner, Poller};
use crate::sys;

mod message;
mod resolvers;
mod stream;

use self::message::Question;
use self::resolvers::Resolvers;
use self::stream::{Means, Stream};

pub(crate) const PORT: u16 = 53;

/// How long a name server has to answer before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a question is asked before the guest is told that it failed. It asks again by itself after some five seconds.
const ATTEMPTS: usize = 4;
/// The longest question that is passed on. A name takes 255 bytes, and what is said beside it little.
const QUESTION_BYTES: usize = 4096;
/// The longest answer that UDP carries.
const ANSWER_BYTES: usize = 65_535;

/// A question on its way.
struct Pending {
    guest: SocketAddr,
    /// The address of ours that was asked.
    asked: SocketAddr,
    query: Box<[u8]>,
    socket: OwnedFd,
    server: SocketAddr,
    /// How often it was asked so far.
    attempts: usize,
    ends: Instant,
    readable: bool,
    in_line: bool,
}

/// The name server.
pub(crate) struct Dns {
    pending: HashMap<Id, Pending>,
    streams: HashMap<Id, Stream>,
    line: VecDeque<Id>,
    deadlines: Deadlines,
    resolvers: Resolvers,
    most: usize,
    answer: Box<[u8]>,
}

impl Dns {
    pub(crate) fn new(config: &Config) -> Self {
        Dns {
            pending: HashMap::new(),
            streams: HashMap::new(),
            line: VecDeque::new(),
            deadlines: Deadlines::default(),
            resolvers: Resolvers::new(&config.resolv_conf, config.name_server_port),
            most: config.limits.questions,
            answer: vec![0; ANSWER_BYTES].into(),
        }
    }

    /// The host's search domains.
    pub(crate) fn search(&mut self) -> &[String] {
        self.resolvers.search()
    }

    /// A connection to the name server: the end that is the guest's.
    ///
    /// # Errors
    /// When there are too many, or no descriptors.
    pub(crate) fn connect(&mut self, poller: &mut Poller) -> io::Result<OwnedFd> {
        if self.streams.len() >= self.most {
            tracing::debug!("too many connections to the name server at a time");
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (theirs, ours) = sys::pair()?;
        let id = poller.add(&ours, Owner::Dns)?;
        self.streams.insert(id, Stream::new(ours));
        Ok(theirs)
    }

    /// Gives a connection its turn, after its deadline or else when something has happened.
    fn stream(&mut self, id: Id, config: &Config, poller: &mut Poller, now: Instant, overdue: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let noted = stream.ends;
        let mut watch = |socket: &OwnedFd| poller.add_again(socket, Owner::Dns, id);
        let mut means = Means { config, servers: self.resolvers.servers(), watch: &mut watch, now };
        let goes_on = if overdue { stream.expire(&mut means) } else { stream.work(&mut means) };
        // One that is overdue is noted no more.
        if let Some(noted) = noted
            && (!goes_on || stream.ends != Some(noted))
        {
            self.deadlines.remove(noted, id);
        }
        match stream.ends {
            _ if !goes_on => drop(self.streams.remove(&id)),
            Some(ends) => self.deadlines.push(ends, id),
            None => {}
        }
    }

    /// Takes a datagram to the name server's port.
    pub(crate) fn ask(
        &mut self,
        config: &Config,
        (guest, asked): (SocketAddr, SocketAddr),
        query: &[u8],
        poller: &mut Poller,
        out: &mut Outbox<'_>,
    ) {
        if query.len() > QUESTION_BYTES {
            return;
        }
        let Some(question) = Question::parse(query) else { return };
        if let Some(answer) = question.answer_here(query, config) {
            out.udp(asked, guest, &answer);
            return;
        }
        if self.pending.len() >= self.most {
            tracing::debug!("too many questions for names at a time");
            return;
        }
        match self.dial(0) {
            Some((socket, server, attempts)) => match poller.add(&socket, Owner::Dns) {
                Ok(id) => {
                    let ends = Instant::now() + PATIENCE;
                    let pending = Pending {
                        guest,
                        asked,
                        query: query.into(),
                        socket,
                        server,
                        attempts,
                        ends,
                        readable: false,
                        in_line: false,
                    };
                    send(&pending);
                    self.deadlines.push(ends, id);
                    self.pending.insert(id, pending);
                }
                Err(error) => tracing::warn!(%error, "a name server's socket cannot be watched"),
            },
            None => out.udp(asked, guest, &question.failure(query)),
        }
    }

    /// A socket to the name server that is to be asked after `attempts` others, and how many attempts that makes. `None`
    /// when it is time to give up.
    fn dial(&mut self, mut attempts: usize) -> Option<(OwnedFd, SocketAddr, usize)> {
        let servers = self.resolvers.servers();
        while attempts < ATTEMPTS {
            let server = servers.get(attempts.checked_rem(servers.len())?)?;
            attempts += 1;
            match sys::datagram(*server) {
                Ok(socket) => return Some((socket, *server, attempts)),
                Err(error) => tracing::debug!(%server, %error, "a name server cannot be asked"),
            }
        }
        None
    }

    pub(crate) fn on_event(&mut self, id: Id, readable: bool) {
        if let Some(pending) = self.pending.get_mut(&id)
            && readable
        {
            pending.readable = true;
            if !std::mem::replace(&mut pending.in_line, true) {
                self.line.push_back(id);
            }
        }
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.in_line, true)
        {
            self.line.push_back(id);
        }
    }

    /// Passes answers on; false if there were none.
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
            busy = true;
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.in_line = false;
                self.stream(id, config, poller, now, false);
            }
            let Some(pending) = self.pending.get_mut(&id) else { continue };
            pending.in_line = false;
            while pending.readable {
                match sys::receive(&pending.socket, &mut self.answer) {
                    Ok(len) => {
                        // Not for this question: late, or forged. The right one may still come.
                        let Some(answer) = self.answer.get(..len) else { continue };
                        if message::answers(&pending.query, answer) {
                            out.udp(pending.asked, pending.guest, answer);
                            self.pending.remove(&id);
                            break;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => pending.readable = false,
                    // Nobody is there, or there is no way: the next one may do better.
                    Err(_) => {
                        self.ask_next(id, poller, out);
                        break;
                    }
                }
            }
        }
        busy
    }

    /// Asks another name server, or tells the guest that there is none left.
    fn ask_next(&mut self, id: Id, poller: &mut Poller, out: &mut Outbox<'_>) {
        let Some(mut pending) = self.pending.remove(&id) else { return };
        if let Some((socket, server, attempts)) = self.dial(pending.attempts)
            && poller.add_again(&socket, Owner::Dns, id).is_ok()
        {
            // The same one may just be slow: then its answer to the first attempt is as good.
            if server != pending.server {
                pending.socket = socket;
                pending.server = server;
                pending.readable = false;
            }
            pending.attempts = attempts;
            let now = Instant::now();
            // One that is not due yet is still noted.
            if pending.ends <= now {
                self.deadlines.push(now + PATIENCE, id);
            }
            pending.ends = now + PATIENCE;
            send(&pending);
            self.pending.insert(id, pending);
        } else if let Some(question) = Question::parse(&pending.query) {
            out.udp(pending.asked, pending.guest, &question.failure(&pending.query));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.first()
    }

    /// Asks again what was not answered in time.
    pub(crate) fn expire(
        &mut self,
        config: &Config,
        poller: &mut Poller,
        out: &mut Outbox<'_>,
        now: Instant,
    ) {
        while let Some(id) = self.deadlines.pop_due(now) {
            if self.streams.contains_key(&id) {
                self.stream(id, config, poller, now, true);
                continue;
            }
            match self.pending.get(&id).map(|pending| pending.ends) {
                Some(ends) if ends > now => self.deadlines.push(ends, id),
                Some(_) => self.ask_next(id, poller, out),
                None => {}
            }
        }
    }

    pub(crate) fn reset(&mut self) {
        self.pending.clear();
        self.streams.clear();
        self.line.clear();
        self.deadlines.clear();
    }
}

fn send(pending: &Pending) {
    if let Err(error) = sys::send(&pending.socket, &pending.query) {
        // The next name server is asked when this one's time is over.
        tracing::debug!(%error, "a question was not sent");
    }
}

/// For fuzzing.
#[cfg(test)]
pub(crate) fn take_anything(bytes: &[u8], address: std::net::Ipv4Addr) {
    message::take_anything(bytes, address);
    let list = resolvers::parse(&String::from_utf8_lossy(bytes), PORT);
    assert!(!list.servers.is_empty());
}
