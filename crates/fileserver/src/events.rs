//! What happens to the host's files, for those who watch them in the guest (inotify(7)).
//!
//! The guest's kernel tells of each file that somebody begins to watch, and always has one request waiting to be answered
//! with what happened since; both are requests of our own patch to it (`vm-image/patches`). That a watch ended it tells with
//! that request, when an event found nobody. Only what is watched in the guest is watched here, by inotify as well.
//!
//! What the guest does itself is an event here too, of which its own kernel has told its watchers: each request says what
//! events it makes ([`Node::changes`], [`Node::changes_in`]), and those are left out.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::node::{FileId, Node, Nodes};
use crate::opened::Descriptor;
use crate::owner::HostUser;

/// What the guest is told of. A file's own removal is not among it: the host's kernel waits with that until we close it.
const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF);

/// Events that wait for the guest to ask; as many as the host's kernel keeps (`fs.inotify.max_queued_events`).
const MAX_WAITING: usize = 16 << 10;

/// What a guest may watch: the user's other programs need some of what the host's kernel lets him (`fs.inotify.max_user_watches`).
const MAX_WATCHED: usize = 64 << 10;

/// Bytes of events that are read at once. One has 272 at most.
const BUFFER: usize = 4096;

/// In numbers by which the guest connects both sides of a rename: they are not those of its own kernel.
const HOSTS_COOKIE: u32 = 1 << 31;

/// All that is watched, and what happened to it.
pub(crate) struct Events {
    /// None if this user of the host has no more of them (`fs.inotify.max_user_instances`).
    inotify: Result<OwnedFd, Errno>,
    user: HostUser,
    nodes: Arc<Nodes>,
    state: Mutex<State>,
    /// What the request at hand does itself.
    own: Arc<Own>,
}

#[derive(Default)]
struct State {
    /// By the number of the host's watch.
    places: HashMap<i32, Place>,
    /// By the guest's number of a file.
    watched: HashMap<u64, Watched>,
    waiting: VecDeque<Event>,
    /// Behind those that wait, some were lost.
    lost: bool,
    /// The guest unmounts the shares.
    ended: bool,
}

/// A file or folder that is watched on the host.
struct Place {
    id: FileId,
    /// The same file in several shares has several numbers.
    nodes: Vec<(u64, Arc<Node>)>,
    /// Watched folders in this one. That they were removed is told by it alone.
    folders: Vec<u64>,
}

/// What the guest watches.
struct Watched {
    place: i32,
    /// Where the folder is that it is in.
    above: Option<i32>,
    /// How often the guest has said so.
    times: u64,
}

/// Something that happened (`struct fuse_event`).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) node: u64,
    pub(crate) times: u64,
    pub(crate) mask: u32,
    pub(crate) cookie: u32,
    pub(crate) name: Option<CString>,
}

impl Event {
    /// Bytes before the name.
    const HEADER: usize = 32;

    fn bytes(&self) -> usize {
        let name = self.name.as_deref().map_or(0, |name| name.count_bytes() + 1);
        Event::HEADER + name.next_multiple_of(8)
    }

    fn write_to(&self, answer: &mut Vec<u8>) {
        let name = self.name.as_deref().unwrap_or(c"").to_bytes();
        let end = answer.len() + self.bytes();
        answer.extend_from_slice(&self.node.to_le_bytes());
        answer.extend_from_slice(&self.times.to_le_bytes());
        for number in [self.mask, self.cookie, u32::try_from(name.len()).unwrap_or(0), 0] {
            answer.extend_from_slice(&number.to_le_bytes());
        }
        answer.extend_from_slice(name);
        answer.resize(end, 0);
    }
}

/// What a request does itself.
#[derive(Default)]
pub(crate) struct Own {
    /// Somebody watches something: it is worth the while.
    counts: AtomicBool,
    changes: Mutex<Vec<Change>>,
}

struct Change {
    of: FileId,
    /// None: of the file itself.
    name: Option<CString>,
    mask: ReadFlags,
}

impl Own {
    /// Whether it is worth the while.
    pub(crate) fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed)
    }

    fn add(&self, change: impl FnOnce() -> Change) {
        if self.counts() {
            self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change());
        }
    }
}

impl Node {
    /// The request at hand makes these events of the file, by whatever name.
    pub(crate) fn changes(&self, mask: ReadFlags) {
        self.own.add(|| Change { of: self.id, name: None, mask });
    }

    /// The request at hand makes these events of what is in the folder by this name.
    pub(crate) fn changes_in(&self, name: &CStr, mask: ReadFlags) {
        self.own.add(|| Change { of: self.id, name: Some(name.to_owned()), mask });
    }
}

impl Events {
    pub(crate) fn new(user: HostUser, nodes: Arc<Nodes>, own: Arc<Own>) -> Events {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        if let Err(error) = &inotify {
            tracing::warn!(
                "containers hear nothing of files that change on the host: {error}; is \
                 fs.inotify.max_user_instances too low?"
            );
        }
        Events { inotify, user, nodes, state: Mutex::default(), own }
    }

    /// Becomes readable when something has happened.
    pub(crate) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().ok().map(|inotify| inotify.as_fd())
    }

    /// The guest watches a file from now on.
    pub(crate) fn watch(&self, number: u64) -> Result<(), Errno> {
        let node = self.nodes.find(number).ok_or(Errno::BADF)?;
        let inotify = self.inotify.as_ref().map_err(|error| *error)?;
        let mut state = self.lock();
        if let Some(watched) = state.watched.get_mut(&number) {
            watched.times += 1;
            return Ok(());
        }
        if state.watched.len() == MAX_WATCHED {
            return Err(Errno::NOSPC);
        }
        self.own.counts.store(true, Ordering::Relaxed);
        // A folder may be watched already because of one in it.
        let add = || inotify::add_watch(inotify, node.file()?.path(), WATCHED | WatchFlags::MASK_ADD);
        let place = node.with_access(self.user, Mode::RUSR, add).inspect_err(|error| {
            self.own.counts.store(!state.places.is_empty(), Ordering::Relaxed);
            if *error == Errno::NOSPC {
                tracing::warn!("too many files are watched: raise the host's fs.inotify.max_user_watches");
            }
        })?;
        state.place(place, node.id).nodes.push((number, Arc::clone(&node)));
        let above = self.watch_above(&mut state, inotify, number, &node);
        state.watched.insert(number, Watched { place, above, times: 1 });
        Ok(())
    }

    /// Has a folder's removal told by the one that it is in. Of the uppermost folder of a share that is outside.
    fn watch_above(&self, state: &mut State, inotify: &OwnedFd, number: u64, node: &Node) -> Option<i32> {
        if node.kind != FileType::Directory || node.is_share() {
            return None;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::openat(node.file().ok()?, c"..", flags, Mode::empty()).ok()?;
        let id = FileId::of(&rustix::fs::fstat(&above).ok()?);
        let above = Descriptor::new(above);
        let flags = WatchFlags::DELETE | WatchFlags::MASK_ADD;
        let place = inotify::add_watch(inotify, above.path(), flags).ok()?;
        state.place(place, id).folders.push(number);
        Some(place)
    }

    /// Nobody in the guest watches the file any more, unless it has said once more since that somebody does.
    pub(crate) fn unwatch(&self, number: u64, times: u64) {
        let mut state = self.lock();
        if state.watched.get(&number).is_some_and(|watched| watched.times == times) {
            self.remove(&mut state, number);
        }
    }

    /// The guest has forgotten the file.
    pub(crate) fn forget(&self, number: u64) {
        if self.own.counts() {
            self.remove(&mut self.lock(), number);
        }
    }

    fn remove(&self, state: &mut State, number: u64) {
        let Some(watched) = state.watched.remove(&number) else { return };
        self.leave(state, watched.place, |place| place.nodes.retain(|(node, _)| *node != number));
        if let Some(above) = watched.above {
            self.leave(state, above, |place| place.folders.retain(|folder| *folder != number));
        }
        self.own.counts.store(!state.places.is_empty(), Ordering::Relaxed);
    }

    /// Takes something away from a place, and ends its watch if nothing is left.
    fn leave(&self, state: &mut State, number: i32, take_away: impl FnOnce(&mut Place)) {
        let Some(place) = state.places.get_mut(&number) else { return };
        take_away(place);
        if place.nodes.is_empty() && place.folders.is_empty() {
            state.places.remove(&number);
            if let Ok(inotify) = &self.inotify {
                // The host's kernel may have removed it first.
                let _ = inotify::remove_watch(inotify, number);
            }
        }
    }

    /// The guest starts anew.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let numbers: Vec<u64> = state.watched.keys().copied().collect();
        for number in numbers {
            self.remove(&mut state, number);
        }
        state.waiting.clear();
        (state.lost, state.ended) = (false, false);
    }

    /// The guest wants to hear nothing any more.
    pub(crate) fn end(&self) {
        self.clear();
        self.lock().ended = true;
    }

    /// Takes in what happened, if there is anything of which it could have.
    pub(crate) fn collect_if_watched(&self) {
        if self.own.counts() {
            self.collect();
        }
    }

    /// Takes in what happened since the last call, without what the request at hand has done itself.
    pub(crate) fn collect(&self) {
        let Ok(inotify) = &self.inotify else { return };
        let own = std::mem::take(&mut *self.own.changes.lock().unwrap_or_else(PoisonError::into_inner));
        let mut buffer = [MaybeUninit::uninit(); BUFFER];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut state = self.lock();
        loop {
            match reader.next() {
                Ok(event) => self.take_in(&mut state, inotify, &event, &own),
                Err(Errno::INTR) => {}
                // There are no more.
                Err(_) => return,
            }
        }
    }

    fn take_in(&self, state: &mut State, inotify: &OwnedFd, event: &inotify::Event<'_>, own: &[Change]) {
        let mask = event.events();
        if mask.contains(ReadFlags::QUEUE_OVERFLOW) {
            state.lost = true;
            return;
        }
        let Some(place) = state.places.get(&event.wd()) else { return };
        if mask.contains(ReadFlags::IGNORED) {
            // Its file system was unmounted.
            let numbers: Vec<u64> = place.nodes.iter().map(|(number, _)| *number).collect();
            for number in numbers {
                self.remove(state, number);
            }
            return;
        }
        let is_own = own.iter().any(|change| place.is_own(event, change));
        let name = event.file_name();
        let is_folder_gone = name.is_some() && mask.contains(ReadFlags::DELETE | ReadFlags::ISDIR);
        // There may be many, and most events are none of theirs.
        let folders = if is_folder_gone { place.folders.clone() } else { Vec::new() };
        let nodes = place.nodes.clone();
        if mask.contains(ReadFlags::MOVE_SELF) {
            for (number, node) in &nodes {
                self.was_moved(state, inotify, *number, node);
            }
        }
        if is_own {
            return;
        }
        let removed = |number: &u64| self.nodes.find(*number).is_none_or(|node| node.is_removed());
        for number in folders.into_iter().filter(removed) {
            self.was_removed(state, number);
        }
        let cookie = if event.cookie() == 0 { 0 } else { event.cookie() | HOSTS_COOKIE };
        for (number, node) in nodes {
            state.happened(number, mask.bits(), cookie, name);
            let tells = match node.kind {
                // It may be gone from where it went before anybody watched it there.
                FileType::Directory => ReadFlags::MOVE_SELF,
                // The number of its names is an attribute.
                _ => ReadFlags::ATTRIB,
            };
            if name.is_none() && mask.contains(tells) && node.is_removed() {
                self.was_removed(state, number);
            }
        }
    }

    /// The file is gone, though somebody may have it open; with it goes who watches it.
    fn was_removed(&self, state: &mut State, number: u64) {
        state.happened(number, ReadFlags::DELETE_SELF.bits(), 0, None);
        self.remove(state, number);
    }

    /// A folder is in another one than before, perhaps.
    fn was_moved(&self, state: &mut State, inotify: &OwnedFd, number: u64, node: &Node) {
        let Some(watched) = state.watched.get_mut(&number) else { return };
        if let Some(old) = watched.above.take() {
            self.leave(state, old, |place| place.folders.retain(|folder| *folder != number));
        }
        let above = self.watch_above(state, inotify, number, node);
        if let Some(watched) = state.watched.get_mut(&number) {
            watched.above = above;
        }
    }

    /// What happened, as far as there is room for it in an answer of so many bytes. None if nothing did, and an error if
    /// nothing will.
    pub(crate) fn take(&self, room: usize) -> Option<Result<Vec<u8>, Errno>> {
        let mut state = self.lock();
        if std::mem::take(&mut state.ended) {
            return Some(Err(Errno::NODEV));
        }
        let mut answer = Vec::new();
        while let Some(event) = state.waiting.front() {
            if answer.len() + event.bytes() > room {
                break;
            }
            event.write_to(&mut answer);
            state.waiting.pop_front();
        }
        if state.lost && state.waiting.is_empty() && answer.len() + Event::HEADER <= room {
            state.lost = false;
            let mask = ReadFlags::QUEUE_OVERFLOW.bits();
            Event { node: 0, times: 0, mask, cookie: 0, name: None }.write_to(&mut answer);
        }
        (!answer.is_empty()).then_some(Ok(answer))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn place(&mut self, number: i32, id: FileId) -> &mut Place {
        self.places.entry(number).or_insert_with(|| Place { id, nodes: Vec::new(), folders: Vec::new() })
    }

    /// Notes an event for the guest.
    fn happened(&mut self, node: u64, mask: u32, cookie: u32, name: Option<&CStr>) {
        let Some(watched) = self.watched.get(&node) else { return };
        let event = Event { node, times: watched.times, mask, cookie, name: name.map(CStr::to_owned) };
        // Once told the same again is nothing new (inotify(7) does likewise).
        if self.lost || self.waiting.back() == Some(&event) {
            return;
        }
        if self.waiting.len() == MAX_WAITING {
            self.lost = true;
            return;
        }
        self.waiting.push_back(event);
    }
}

impl Place {
    /// Whether `change` is what `event` tells of.
    fn is_own(&self, event: &inotify::Event<'_>, change: &Change) -> bool {
        if !change.mask.intersects(event.events()) {
            return false;
        }
        match (event.file_name(), &change.name) {
            (None, None) => self.id == change.of,
            (Some(name), Some(changed)) => self.id == change.of && name == changed.as_c_str(),
            (Some(name), None) => {
                let folder = self.nodes.first().map(|(_, node)| node);
                folder.and_then(|folder| folder.file_at(name)) == Some(change.of)
                    || change.of.is_nameless(name)
            }
            (None, Some(_)) => false,
        }
    }
}
