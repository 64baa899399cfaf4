//! What the shim holds: descriptors by name, the process each belongs to, and how it ended.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{net::RecvFlags, process::Pid};

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

    fn lives(&self) -> bool {
        self.helper.is_some() || (self.process.is_some() && self.exit.is_none())
    }

    /// Takes note that a child has ended; whether it was this entry's.
    fn ended(&mut self, pid: Pid, code: i32) -> bool {
        if self.helper == Some(pid) {
            self.learn();
            self.helper = None;
            if self.process.is_none() {
                // Nothing was made: the helper's own end is all there is to tell.
                self.exit = Some(Exited::now(code));
            }
            return true;
        }
        // A process reaches us only when its helper has ended, but we may hear of the process first.
        if self.helper.is_some() {
            self.learn();
        }
        if self.process == Some(pid) && self.exit.is_none() {
            self.exit = Some(Exited::now(code));
            return true;
        }
        false
    }
}

/// All entries.
#[derive(Debug, Default)]
pub(super) struct Table {
    held: BTreeMap<String, Entry>,
    /// Released, and alive. Their names can be taken again.
    leaving: Vec<(String, Entry)>,
    /// The ends of those that were released before, for the engine that did so.
    last_words: VecDeque<Reply>,
}

impl Table {
    /// Why nothing can be held under `key`, if so.
    pub(super) fn objection(&self, key: &str) -> Option<&'static str> {
        if key.is_empty() || key.len() > MAX_KEY {
            Some("unusable name")
        } else if self.held.contains_key(key) {
            Some("the name is taken")
        } else if self.held.len() + self.leaving.len() >= MAX_PROCESSES {
            Some("too many processes")
        } else {
            None
        }
    }

    pub(super) fn insert(&mut self, key: String, helper: Pid, held: Vec<OwnedFd>, input: bool) {
        let entry = Entry { helper: Some(helper), process: None, exit: None, told: false, input, held };
        self.held.insert(key, entry);
    }

    /// Drops the input held under `key`.
    pub(super) fn close_input(&mut self, key: &str) {
        if let Some(entry) = self.held.get_mut(key)
            && std::mem::take(&mut entry.input)
            && !entry.held.is_empty()
        {
            entry.held.remove(0);
        }
    }

    /// Drops the descriptors held under `key`, and the entry itself once it is over.
    pub(super) fn release(&mut self, key: &str) {
        let Some(mut entry) = self.held.remove(key) else { return };
        entry.learn();
        if entry.lives() {
            // The report is still to come.
            let report = entry.held.pop().filter(|_| entry.process.is_none());
            entry.held = report.into_iter().collect();
            self.leaving.push((key.to_owned(), entry));
        }
    }

    /// Takes note that a child has ended with this exit code. Children that nobody asked for are
    /// forgotten: what a container leaves behind in a shared pid namespace.
    pub(super) fn ended(&mut self, pid: Pid, code: i32) {
        if self.held.values_mut().any(|entry| entry.ended(pid, code)) {
            return;
        }
        if self.leaving.iter_mut().any(|(_, entry)| entry.ended(pid, code)) {
            let (leaving, gone): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.leaving).into_iter().partition(|(_, entry)| entry.lives());
            self.leaving = leaving;
            for (key, entry) in gone {
                // Of a name that means another process by now nothing can be said.
                if let Some(exit) = entry.exit.filter(|_| !self.held.contains_key(&key)) {
                    self.last_words.truncate(MAX_PROCESSES);
                    self.last_words.push_back(Reply::Exit { key, exit });
                }
            }
        }
    }

    /// Exits that the connected engine does not know of. One returned is taken for told.
    pub(super) fn next_exit(&mut self) -> Option<Reply> {
        if let Some(last) = self.last_words.pop_front() {
            return Some(last);
        }
        self.held.iter_mut().find_map(|(key, entry)| {
            let exit = entry.exit.filter(|_| !entry.told)?;
            entry.told = true;
            Some(Reply::Exit { key: key.clone(), exit })
        })
    }

    /// Forgets what the engine knew: another one is connected.
    pub(super) fn new_engine(&mut self) {
        self.held.values_mut().for_each(|entry| entry.told = false);
        self.last_words.clear();
    }

    /// The first entry after `key`.
    pub(super) fn after(&mut self, key: Option<&str>) -> Option<(Reply, Vec<BorrowedFd<'_>>)> {
        let start = key.map_or(Bound::Unbounded, Bound::Excluded);
        let (key, entry) = self.held.range_mut::<str, _>((start, Bound::Unbounded)).next()?;
        entry.learn();
        entry.told |= entry.exit.is_some();
        let reply = Reply::Held {
            key: key.clone(),
            process: entry.process.map(|pid| pid.as_raw_nonzero().get().unsigned_abs()),
            exit: entry.exit,
            starting: entry.helper.is_some(),
        };
        Some((reply, entry.held.iter().map(AsFd::as_fd).collect()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.leaving.is_empty()
    }

    /// Whether a process that was asked for still lives.
    pub(super) fn lives(&self) -> bool {
        !self.leaving.is_empty() || self.held.values().any(Entry::lives)
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
    fn a_released_name_can_be_taken_before_its_process_has_ended() {
        let mut table = Table::default();
        let (ours, theirs) = report_sockets();
        table.insert("c".into(), pid(10), vec![ours], false);
        send(&theirs, &Report::Pid(11), &[]).unwrap();
        table.ended(pid(10), 0);
        table.release("c");
        assert_eq!(table.objection("c"), None);
        let (ours, _theirs) = report_sockets();
        table.insert("c".into(), pid(20), vec![ours], false);
        table.ended(pid(11), 137);
        assert!(table.next_exit().is_none());
        assert!(!table.is_empty());
        table.ended(pid(20), 1);
        assert!(table.next_exit().is_some());
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
