//! Speaking netlink: messages of attributes, and sockets that carry them to the kernel.
//!
//! What this engine asks of rtnetlink and nf_tables is a dozen messages, so that it encodes them itself:
//! `docs/decisions/0007-networks.md`. Formats are those of `netlink(7)` and `rtnetlink(7)`.

mod link;

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt},
};

pub(super) use link::{Interface, Links, NewUpper, NewVeth, Upper};

/// The kernel's own messages begin after this.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_REPLACE: u16 = 0x100;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;

/// Bytes of a message's head: length, type, flags, sequence number, port.
const HEAD: usize = 16;
/// The longest answer: links with many attributes need a few KiB.
const ANSWER: usize = 64 << 10;
/// The largest transaction sent at once, in bytes.
const SEND_BUFFER: usize = 16 << 20;

/// How long the kernel may take; it answers when it is done, and a lost answer must not hang anyone.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message being written. Attributes are aligned to four bytes, as the kernel wants them.
#[derive(Debug, Clone)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// `flags` beside `NLM_F_REQUEST`.
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend([0; 8]);
        Self(bytes)
    }

    /// A fixed part, which follows the head.
    pub(super) fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.align();
        self
    }

    pub(super) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, value);
        self
    }

    pub(super) fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    pub(super) fn u16(self, kind: u16, value: u16) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In this machine's byte order, as rtnetlink has it.
    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// In network byte order, as nf_tables has it.
    pub(super) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// With a zero at its end.
    pub(super) fn text(mut self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
        self
    }

    /// An attribute of attributes.
    pub(super) fn nest(mut self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0; 4]);
        let mut filled = fill(self);
        let length = filled.0.len() - start;
        filled.set_head(start, length, kind | NLA_F_NESTED);
        filled
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(value);
        let length = self.0.len() - start;
        self.set_head(start, length, kind);
        self.align();
    }

    fn set_head(&mut self, start: usize, length: usize, kind: u16) {
        // What does not fit is refused by the kernel, which finds the message cut short.
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
    }

    fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32, more_flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | more_flags;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// A netlink socket. It belongs for ever to the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

/// An answer of the kernel that is no error: its type, and what follows the head.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) payload: Vec<u8>,
}

impl Socket {
    pub(super) fn route() -> io::Result<Self> {
        // Its number is 0.
        Self::open(None)
    }

    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    /// `sock_diag(7)`.
    pub(super) fn diagnostics() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::SOCK_DIAG))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        // Without the privilege, large transactions fail with a message of their own.
        let _ = sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER);
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Sends one message, and waits until the kernel has done what it says.
    pub(super) fn request(&mut self, message: Message) -> io::Result<()> {
        self.transaction(vec![message])
    }

    /// Sends messages as one: the kernel does all or, of a batch of nf_tables, nothing.
    pub(super) fn transaction(&mut self, messages: Vec<Message>) -> io::Result<()> {
        self.exchange(messages, NLM_F_ACK).map(drop)
    }

    /// Asks for one thing.
    pub(super) fn get(&mut self, message: Message) -> io::Result<Answer> {
        self.exchange(vec![message], 0)?.ok_or_else(|| io::Error::from(Errno::NOENT))
    }

    /// Asks for everything of a kind: what follows the head of each message of the answer.
    pub(super) fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence, NLM_F_DUMP);
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, &bytes, SendFlags::empty()))?;
        let mut all = Vec::new();
        self.receive(|head, payload| {
            match head.kind {
                _ if head.sequence != self.sequence => {}
                NLMSG_DONE => return Some(Ok(())),
                NLMSG_ERROR => return Some(Err(refusal(payload).unwrap_or_else(|| Errno::BADMSG.into()))),
                _ => all.push(payload.to_vec()),
            }
            None
        })?;
        Ok(all)
    }

    fn exchange(&mut self, messages: Vec<Message>, flags: u16) -> io::Result<Option<Answer>> {
        let first = self.sequence.wrapping_add(1);
        // Of a batch, the last message but for the mark of its end can be acknowledged.
        let acknowledged = messages.len().saturating_sub(2);
        let mut bytes = Vec::new();
        let mut awaited = first;
        for (position, message) in messages.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let mut more = 0;
            if position == acknowledged {
                awaited = self.sequence;
                more = flags;
            }
            bytes.extend(message.finish(self.sequence, more));
        }
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, &bytes, SendFlags::empty()))?;
        self.receive(|head, payload| {
            // An answer to a request before this one, which was given up.
            if head.sequence.wrapping_sub(first) > awaited.wrapping_sub(first) {
                return None;
            }
            if head.kind != NLMSG_ERROR {
                return Some(Ok(Some(Answer { payload: payload.to_vec() })));
            }
            match refusal(payload) {
                Some(error) => Some(Err(error)),
                None => (head.sequence == awaited).then_some(Ok(None)),
            }
        })
    }

    /// Shows what the kernel answers to `take`, message by message, until that has what it wants.
    fn receive<T>(&self, mut take: impl FnMut(Head, &[u8]) -> Option<io::Result<T>>) -> io::Result<T> {
        let mut buffer = vec![0; ANSWER];
        loop {
            let (length, _) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty())
            })?;
            let mut rest = &buffer[..length];
            while let Some((head, payload, next)) = split(rest) {
                rest = next;
                if let Some(taken) = take(head, payload) {
                    return taken;
                }
            }
        }
    }
}

/// What an `NLMSG_ERROR` says, unless it says that all is well.
fn refusal(payload: &[u8]) -> Option<io::Error> {
    let code = payload.first_chunk().map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

struct Head {
    kind: u16,
    sequence: u32,
}

/// The first of several messages, and the others.
fn split(bytes: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let message = bytes.get(..length).filter(|message| message.len() >= HEAD)?;
    let kind = u16::from_ne_bytes([message[4], message[5]]);
    let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Head { kind, sequence }, &message[HEAD..], rest))
}

/// The attributes that follow a fixed part of `skip` bytes.
pub(super) fn attributes(payload: &[u8], skip: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(skip..).unwrap_or_default();
    std::iter::from_fn(move || {
        let [low, high, kind_low, kind_high] = *rest.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let kind = u16::from_ne_bytes([kind_low, kind_high]) & !NLA_F_NESTED;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_aligned_and_come_back() {
        let message = Message::new(16, 0)
            .put(&[7; 4])
            .text(3, "lo")
            .nest(18, |inner| inner.u32(1, 9).u8(2, 1))
            .finish(5, NLM_F_ACK);
        assert_eq!(message.len() % 4, 0);
        let (head, payload, rest) = split(&message).unwrap();
        assert_eq!((head.kind, head.sequence, rest.len()), (16, 5, 0));
        let all: Vec<_> = attributes(payload, 4).collect();
        assert_eq!(all[0], (3, &b"lo\0"[..]));
        assert_eq!(all[1].0, 18);
        let inner: Vec<_> = attributes(all[1].1, 0).collect();
        assert_eq!(inner, [(1, &9u32.to_ne_bytes()[..]), (2, &[1][..])]);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        let message = Message::new(16, 0).text(3, "eth0").finish(1, 0);
        for length in 0..message.len() {
            assert!(split(&message[..length]).is_none());
        }
        // Attributes that claim to be longer than what there is.
        assert_eq!(attributes(&[200, 0, 1, 0, 1, 2, 3, 4], 0).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0], 0).count(), 0);
    }
}
