//! Questions over TCP (RFC 7766): each message is behind its length. The host's names are answered here, everything else is
//! asked of a name server over a connection of its own, so that an answer may be of any size.
//!
//! The guest's connection is a relay like any other (see [`crate::tcp`]); what it leads to is the other end of this socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::message::Question;
use super::{ATTEMPTS, PATIENCE, QUESTION_BYTES};
use crate::config::Config;
use crate::sys;

const LENGTH_BYTES: usize = 2;
/// Bytes taken from a socket at a time.
const PIECE: usize = 4096;
/// Bytes that wait for a socket before no more are taken for it: at least an answer.
const WAITING: usize = 64 << 10;
/// What answers are still waited for when the guest has ended its side.
const LAST_WORDS: Duration = Duration::from_secs(8);

/// What a connection needs of the rest of the name server.
pub(super) struct Means<'a> {
    pub(super) config: &'a Config,
    pub(super) servers: &'a [SocketAddr],
    /// Has the connection told of what happens to a socket.
    pub(super) watch: &'a mut dyn FnMut(&OwnedFd) -> io::Result<()>,
    pub(super) now: Instant,
}

/// A connection of the guest's to the name server.
pub(super) struct Stream {
    guest: OwnedFd,
    guest_ended: bool,
    received: Vec<u8>,
    answers: Vec<u8>,
    server: Option<Server>,
    /// When it has waited too long for something.
    pub(super) ends: Option<Instant>,
    pub(super) in_line: bool,
}

/// The connection to a name server.
struct Server {
    socket: OwnedFd,
    connected: bool,
    /// How many were asked, with this one.
    attempts: usize,
    questions: Vec<u8>,
    received: Vec<u8>,
    unanswered: usize,
}

/// What came of reading.
enum Read {
    Bytes,
    Nothing,
    End,
}

impl Stream {
    pub(super) fn new(guest: OwnedFd) -> Self {
        Stream {
            guest,
            guest_ended: false,
            received: Vec::new(),
            answers: Vec::new(),
            server: None,
            ends: None,
            in_line: false,
        }
    }

    /// Does what can be done; false when the connection is over.
    pub(super) fn work(&mut self, means: &mut Means<'_>) -> bool {
        self.try_to_work(means).unwrap_or(false) && !self.is_over()
    }

    fn is_over(&self) -> bool {
        let answered = self.server.as_ref().is_none_or(|server| server.unanswered == 0);
        self.guest_ended && answered && self.answers.is_empty()
    }

    /// Goes on after [`ends`](Self::ends); false when the connection is over.
    pub(super) fn expire(&mut self, means: &mut Means<'_>) -> bool {
        self.ends = None;
        if self.guest_ended {
            return false;
        }
        if let Some(server) = self.server.take_if(|server| !server.connected) {
            self.ask_next(server, means);
        }
        self.work(means)
    }

    fn try_to_work(&mut self, means: &mut Means<'_>) -> io::Result<bool> {
        loop {
            let mut busy = false;
            let waiting = self.server.as_ref().map_or(0, |server| server.questions.len());
            if !self.guest_ended && waiting < WAITING && self.answers.len() < WAITING {
                match read(&self.guest, &mut self.received)? {
                    Read::Bytes => busy = true,
                    Read::Nothing => {}
                    Read::End => {
                        self.guest_ended = true;
                        self.ends = Some(means.now + LAST_WORDS);
                    }
                }
                while let Some(query) = message(&mut self.received) {
                    self.ask(&query, means);
                }
                if self.received.len() > LENGTH_BYTES + QUESTION_BYTES {
                    return Ok(false);
                }
            }
            if let Some(mut server) = self.server.take() {
                if !server.connected {
                    if sys::outcome(&server.socket).is_err() {
                        self.ask_next(server, means);
                        continue;
                    }
                    server.connected = sys::is_connected(&server.socket);
                    if server.connected && !self.guest_ended {
                        self.ends = None;
                    }
                }
                let mut ended = false;
                if server.connected {
                    busy |= write(&server.socket, &mut server.questions)?;
                    if self.answers.len() < WAITING {
                        match read(&server.socket, &mut server.received)? {
                            Read::Bytes => busy = true,
                            Read::Nothing => {}
                            Read::End => ended = true,
                        }
                        while let Some(answer) = message(&mut server.received) {
                            server.unanswered = server.unanswered.saturating_sub(1);
                            push(&mut self.answers, &answer);
                        }
                    }
                }
                if ended && server.unanswered > 0 {
                    // The guest sees the end, too, and may ask again.
                    self.guest_ended = true;
                } else if !ended {
                    self.server = Some(server);
                }
            }
            busy |= write(&self.guest, &mut self.answers)?;
            if !busy {
                return Ok(true);
            }
        }
    }

    fn ask(&mut self, query: &[u8], means: &mut Means<'_>) {
        let Some(question) = Question::parse(query) else { return };
        if let Some(answer) = question.answer_here(query, means.config) {
            return push(&mut self.answers, &answer);
        }
        match &mut self.server {
            Some(server) => {
                push(&mut server.questions, query);
                server.unanswered += 1;
            }
            None => {
                let mut questions = Vec::new();
                push(&mut questions, query);
                self.dial(0, questions, 1, means);
            }
        }
    }

    /// Asks the name server that comes after one that could not be reached.
    fn ask_next(&mut self, failed: Server, means: &mut Means<'_>) {
        self.dial(failed.attempts, failed.questions, failed.unanswered, means);
    }

    /// Connects to the name server after `attempts` others, or tells the guest that there is none left.
    fn dial(
        &mut self,
        mut attempts: usize,
        mut questions: Vec<u8>,
        unanswered: usize,
        means: &mut Means<'_>,
    ) {
        while attempts < ATTEMPTS.min(means.servers.len()) {
            let server = means.servers[attempts];
            attempts += 1;
            let dialed = sys::dial(server).and_then(|socket| (means.watch)(&socket).map(|()| socket));
            match dialed {
                Ok(socket) => {
                    let received = Vec::new();
                    let server =
                        Server { socket, connected: false, attempts, questions, received, unanswered };
                    self.server = Some(server);
                    if !self.guest_ended {
                        self.ends = Some(means.now + PATIENCE);
                    }
                    return;
                }
                Err(error) => tracing::debug!(%server, %error, "a name server cannot be asked over TCP"),
            }
        }
        while let Some(query) = message(&mut questions) {
            if let Some(question) = Question::parse(&query) {
                push(&mut self.answers, &question.failure(&query));
            }
        }
    }
}

/// Appends a message behind its length.
fn push(bytes: &mut Vec<u8>, message: &[u8]) {
    // No message here is longer: they came behind a length, or are shorter than one that did.
    if let Ok(len) = u16::try_from(message.len()) {
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(message);
    }
}

/// Takes the first message, if it is whole.
fn message(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let len = usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
    let message = bytes.get(LENGTH_BYTES..LENGTH_BYTES + len)?.to_vec();
    bytes.drain(..LENGTH_BYTES + len);
    Some(message)
}

fn read(socket: &OwnedFd, bytes: &mut Vec<u8>) -> io::Result<Read> {
    let mut piece = [0; PIECE];
    match sys::receive_stream(socket, &mut piece) {
        Ok(0) => Ok(Read::End),
        Ok(count) => {
            bytes.extend_from_slice(&piece[..count]);
            Ok(Read::Bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Nothing),
        Err(error) => Err(error),
    }
}

/// Whether anything was written.
fn write(socket: &OwnedFd, bytes: &mut Vec<u8>) -> io::Result<bool> {
    if bytes.is_empty() {
        return Ok(false);
    }
    match sys::send(socket, bytes) {
        Ok(count) => {
            bytes.drain(..count);
            Ok(count > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}
