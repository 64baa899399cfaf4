//! What the shim holds: descriptors by name, the process each belongs to, and how it ended.

use std::{
    collections::BTreeMap,
    ops::Bound,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    net::RecvFlags,
    process::Pid,
};

use super::protocol::{Exited, MAX_KEY, MAX_PROCESSES, Reply, Report, receive};

/// One process the engine has asked for.
#[derive(Debug)]
struct Entry {
    /// The helper, while it works.
    helper: Option<Pid>,
    /// The process that the helper made, once it has said so.
    process: Option<Pid>,
    exit: Option<Exited>,
    /// Whether the connected engine knows of the exit.
    told: bool,
    /// The engine wants to hear no more of it than its exit.
    released: bool,
    /// Whether the first of `held` is the process's input.
    input: bool,
    /// The last is the socket of the report, which stays unread in it: an engine that dies half way
    /// leaves it to the next.
    held: Vec<OwnedFd>,
}

impl Entry {
    /// Reads the report, if it has come, and leaves it where it is.
    fn learn(&mut self) {
        if self.process.is_some() {
            return;
        }
        let Some(socket) = self.held.last() else { return };
        if let Ok(Some((Report::Pid(pid), _))) =
            receive::<Report>(socket, RecvFlags::PEEK | RecvFlags::DONTWAIT)
        {
            self.process = i32::try_from(pid).ok().and_then(Pid::from_raw);
        }
    }

    /// Nothing will happen to it any more.
    fn is_over(&self) -> bool {
        self.helper.is_none() && (self.process.is_none() || self.exit.is_some())
    }

    fn lives(&self) -> bool {
        self.helper.is_some() || (self.process.is_some() && self.exit.is_none())
    }
}

/// All entries, by name.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<String, Entry>);

impl Table {
    /// Why nothing can be held under `key`, if so.
    pub(super) fn objection(&self, key: &str) -> Option<&'static str> {
        if key.is_empty() || key.len() > MAX_KEY {
            Some("unusable name")
        } else if self.0.contains_key(key) {
            Some("the name is taken")
        } else if self.0.len() >= MAX_PROCESSES {
            Some("too many processes")
        } else {
            None
        }
    }

    pub(super) fn insert(&mut self, key: String, helper: Pid, held: Vec<OwnedFd>, input: bool) {
        let entry = Entry {
            helper: Some(helper),
            process: None,
            exit: None,
            told: false,
            released: false,
            input,
            held,
        };
        self.0.insert(key, entry);
    }

    /// Drops the input held under `key`.
    pub(super) fn close_input(&mut self, key: &str) {
        if let Some(entry) = self.0.get_mut(key)
            && std::mem::take(&mut entry.input)
            && !entry.held.is_empty()
        {
            entry.held.remove(0);
        }
    }

    /// Drops the descriptors held under `key`, and the entry itself once it is over.
    pub(super) fn release(&mut self, key: &str) {
        let Some(entry) = self.0.get_mut(key) else { return };
        entry.learn();
        entry.released = true;
        if entry.helper.is_none() {
            entry.held.clear();
        }
        if entry.is_over() {
            self.0.remove(key);
        }
    }

    /// Takes note that a child has ended with this exit code. Children that nobody asked for are forgotten: what a container
    /// leaves behind in a shared pid namespace.
    pub(super) fn ended(&mut self, pid: Pid, code: i32) {
        if let Some((key, entry)) = self.0.iter_mut().find(|(_, entry)| entry.helper == Some(pid)) {
            entry.learn();
            entry.helper = None;
            if entry.process.is_none() {
                // Nothing was made: the helper's own end is all there is to tell.
                entry.exit = Some(Exited::now(code));
            }
            if entry.released {
                entry.held.clear();
                if entry.is_over() {
                    let key = key.clone();
                    self.0.remove(&key);
                }
            }
            return;
        }
        // A process reaches us only when its helper has ended, but we may hear of the process first.
        for entry in self.0.values_mut().filter(|entry| entry.helper.is_some()) {
            entry.learn();
        }
        let ours = |entry: &&mut Entry| entry.process == Some(pid) && entry.exit.is_none();
        if let Some(entry) = self.0.values_mut().find(ours) {
            entry.exit = Some(Exited::now(code));
            entry.told = false;
        }
    }

    /// Exits that the connected engine does not know of. One returned is taken for told.
    pub(super) fn next_exit(&mut self) -> Option<Reply> {
        let (key, exit, gone) = self.0.iter_mut().find_map(|(key, entry)| {
            let exit = entry.exit.filter(|_| !entry.told)?;
            entry.told = true;
            Some((key.clone(), exit, entry.released && entry.is_over()))
        })?;
        if gone {
            self.0.remove(&key);
        }
        Some(Reply::Exit { key, exit })
    }

    /// Forgets what the engine knew: another one is connected.
    pub(super) fn new_engine(&mut self) {
        self.0.values_mut().for_each(|entry| entry.told = false);
    }

    /// The first entry after `key`.
    pub(super) fn after(&mut self, key: Option<&str>) -> Option<(Reply, Vec<BorrowedFd<'_>>)> {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        let (key, entry) = self.0.range_mut::<str, _>((start, Bound::Unbounded)).next()?;
        entry.learn();
        entry.told |= entry.exit.is_some();
        let reply = Reply::Held {
            key: key.clone(),
            process: entry.process.and_then(|pid| pid.as_raw_nonzero().get().try_into().ok()),
            exit: entry.exit,
            starting: entry.helper.is_some(),
        };
        Some((reply, entry.held.iter().map(AsFd::as_fd).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a process that was asked for still lives.
    pub(super) fn lives(&self) -> bool {
        self.0.values().any(Entry::lives)
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::shim::protocol::send;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    fn report_sockets() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn an_exit_is_kept_when_the_process_ends_before_its_helper_is_seen_to() {
        let mut table = Table::default();
        let (ours, theirs) = report_sockets();
        table.insert("c".into(), pid(10), vec![ours], false);
        send(&theirs, &Report::Pid(11), &[]).unwrap();
        table.ended(pid(11), 3);
        table.ended(pid(10), 0);
        let Some(Reply::Exit { key, exit }) = table.next_exit() else { panic!("no exit") };
        assert_eq!((key.as_str(), exit.code), ("c", 3));
        assert!(table.next_exit().is_none());
        // The next engine hears of it again, until one releases it.
        table.new_engine();
        assert!(table.next_exit().is_some());
        table.release("c");
        assert!(table.is_empty());
    }

    #[test]
    fn a_helper_that_reported_nothing_leaves_nothing_alive() {
        let mut table = Table::default();
        let (ours, theirs) = report_sockets();
        table.insert("c".into(), pid(10), vec![ours], false);
        send(&theirs, &Report::Error("no".into()), &[]).unwrap();
        assert!(table.lives());
        table.ended(pid(10), 1);
        assert!(!table.lives());
        assert!(table.next_exit().is_some());
        table.release("c");
        assert!(table.is_empty());
    }

    #[test]
    fn a_released_process_is_forgotten_when_its_exit_is_told() {
        let mut table = Table::default();
        let (ours, theirs) = report_sockets();
        table.insert("c/e".into(), pid(10), vec![ours], false);
        send(&theirs, &Report::Pid(11), &[]).unwrap();
        table.release("c/e");
        table.ended(pid(10), 0);
        table.ended(pid(99), 0);
        assert!(table.lives());
        table.ended(pid(11), 137);
        let Some(Reply::Exit { exit, .. }) = table.next_exit() else { panic!("no exit") };
        assert_eq!(exit.code, 137);
        assert!(table.is_empty());
    }

    #[test]
    fn input_is_closed_once() {
        let mut table = Table::default();
        let (ours, _theirs) = report_sockets();
        let (input, output) = rustix::pipe::pipe().unwrap();
        table.insert("c".into(), pid(10), vec![output, ours], true);
        table.close_input("c");
        assert_eq!(rustix::io::read(&input, &mut [0]).unwrap(), 0);
        table.close_input("c");
        assert_eq!(table.after(None).unwrap().1.len(), 1);
    }

    #[test]
    fn names_are_unique_and_short() {
        let mut table = Table::default();
        assert_eq!(table.objection("c"), None);
        table.insert("c".into(), pid(1), Vec::new(), false);
        assert!(table.objection("c").is_some());
        assert!(table.objection(&"x".repeat(MAX_KEY + 1)).is_some());
        assert!(table.objection("").is_some());
    }
}
