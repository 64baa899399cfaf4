//! Descriptors and deadlines: everything that can wake the network, in one descriptor.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use crate::sys::{self, Timer, Watch};

/// Whose socket an event is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Tcp,
    Datagram,
    Dns,
    Entrance,
}

/// Names one conversation of its owner for as long as the network lives.
pub(crate) type Id = u64;

const TIMER: u64 = u64::MAX;
const EVENTS: usize = 256;
/// Ids are counted from 0 up and never come near the bits that name the owner.
const OWNER_SHIFT: u32 = 56;

/// Waits for sockets, and for the next deadline.
pub(crate) struct Poller {
    watch: Watch,
    timer: Timer,
    set_to: Option<Instant>,
    next: Id,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let (watch, timer) = (Watch::new()?, Timer::new()?);
        watch.readable(timer.as_owned(), TIMER)?;
        Ok(Poller { watch, timer, set_to: None, next: 0 })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_owned().as_fd()
    }

    /// Watches a socket until it is closed.
    pub(crate) fn add(&mut self, socket: impl AsFd, owner: Owner) -> io::Result<Id> {
        let id = self.next;
        self.add_again(socket, owner, id)?;
        self.next += 1;
        Ok(id)
    }

    /// Watches another socket of the same conversation.
    pub(crate) fn add_again(&mut self, socket: impl AsFd, owner: Owner, id: Id) -> io::Result<()> {
        let owner: u64 = match owner {
            Owner::Tcp => 0,
            Owner::Datagram => 1,
            Owner::Dns => 2,
            Owner::Entrance => 3,
        };
        self.watch.changes(socket, owner << OWNER_SHIFT | id)
    }

    /// Passes on what has happened: whose socket may now be readable, and whose writable. False if nothing had.
    pub(crate) fn poll(&mut self, mut tell: impl FnMut(Owner, Id, bool, bool)) -> io::Result<bool> {
        let mut events = [sys::no_event(); EVENTS];
        let count = self.watch.wait(&mut events, Some(std::time::Duration::ZERO))?;
        for event in &events[..count] {
            let (token, readable, writable) = sys::told(event);
            let owner = match token >> OWNER_SHIFT {
                0 => Owner::Tcp,
                1 => Owner::Datagram,
                2 => Owner::Dns,
                3 => Owner::Entrance,
                _ => {
                    self.timer.clear();
                    self.set_to = None;
                    continue;
                }
            };
            tell(owner, token & ((1 << OWNER_SHIFT) - 1), readable, writable);
        }
        Ok(count > 0)
    }

    /// Has the descriptor become readable at `deadline`.
    pub(crate) fn wake_at(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        let Some(deadline) = deadline else { return Ok(()) };
        if self.set_to.is_none_or(|set| deadline < set) {
            self.timer.set(deadline.saturating_duration_since(now))?;
            self.set_to = Some(deadline);
        }
        Ok(())
    }
}

/// Deadlines of conversations. Each conversation is in here at most once, with a deadline no later than its true one.
#[derive(Default)]
pub(crate) struct Deadlines(BTreeSet<(Instant, Id)>);

impl Deadlines {
    pub(crate) fn push(&mut self, at: Instant, id: Id) {
        self.0.insert((at, id));
    }

    pub(crate) fn remove(&mut self, at: Instant, id: Id) {
        self.0.remove(&(at, id));
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes one whose time has come.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Id> {
        if self.first()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, id)| id)
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
