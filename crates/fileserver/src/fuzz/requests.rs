//! Requests of a guest, one behind the other: any opcode, file, handle, name, length, and room for the answer.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fuzzing::fuzz;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::Share;
use crate::file_system::SharedFiles;
use crate::hostile::{Guest, INIT, ROOM, init, message};

/// Descriptors of files that the guest knows.
const DESCRIPTORS: usize = 16;
/// What the process may grow by one input, in KiB. The longest message, of which there is a copy or two, has 1 MiB.
const GROWTH: u64 = 64 << 10;
/// The longest part of a file that is reserved or copied: this machine's disk is not to be filled.
const MOST_BYTES: u64 = 1 << 20;

const FALLOCATE: u32 = 43;
const COPY_FILE_RANGE: u32 = 47;
const DESTROY: u32 = 38;

/// In an input, the opcodes of our own.
const OWN: [(u8, u32); 2] = [(0xfe, 8192), (0xff, 8193)];
/// Bytes before a request's body: opcode, file, room for the answer with some flags, length of the body.
const PREFIX: usize = 5;
/// Another user than root asks.
const USER: u8 = 0x10;
/// The header says that the message is longer than it is.
const LONGER: u8 = 0x20;
/// The header says that it is shorter.
const SHORTER: u8 = 0x40;

/// A share, and beside it what nobody may touch.
struct Canary {
    folder: TempDir,
    watch: OwnedFd,
}

impl Canary {
    fn new() -> Canary {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        for watched in [folder.path(), &outside, &outside.join("file")] {
            inotify::add_watch(&watch, watched, WatchFlags::ALL_EVENTS).unwrap();
        }
        Canary { folder, watch }
    }

    fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    /// The share as each input finds it.
    fn lay_out(&self) {
        let share = self.share();
        if share.exists() {
            fs::remove_dir_all(&share).unwrap();
        }
        fs::create_dir_all(share.join("sub")).unwrap();
        fs::write(share.join("file"), "text of the share").unwrap();
        fs::write(share.join("sub/other"), "").unwrap();
        symlink("../outside", share.join("link")).unwrap();
        while self.touched().is_some() {}
    }

    /// What was opened, looked into or changed beside the share.
    fn touched(&self) -> Option<CString> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.watch, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) if event.file_name() == Some(c"share") => {}
                Ok(event) => return Some(event.file_name().unwrap_or(c"?").to_owned()),
                Err(Errno::AGAIN) => return None,
                Err(error) => panic!("reading events: {error}"),
            }
        }
    }

    /// How many files of the share this process has open.
    fn open(&self) -> usize {
        let share = self.share();
        let open = fs::read_dir("/proc/self/fd").unwrap().filter(|entry| {
            let entry = entry.as_ref().unwrap();
            // Other tests close theirs meanwhile.
            fs::read_link(entry.path()).is_ok_and(|path| path.starts_with(&share))
        });
        open.count()
    }
}

/// The most memory that this process had since [`begin_peak`], in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn begin_peak() -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

/// Takes the next request off an input: the message, and how much room there is for its answer.
fn take(input: &mut &[u8]) -> Option<(Vec<u8>, u32)> {
    let (prefix, rest) = input.split_first_chunk::<PREFIX>()?;
    let [opcode, node, flags, low, high] = *prefix;
    let (body, rest) = rest.split_at(usize::from(u16::from_le_bytes([low, high])).min(rest.len()));
    *input = rest;
    let own = OWN.into_iter().find(|(byte, _)| *byte == opcode);
    let opcode = own.map_or(u32::from(opcode), |(_, opcode)| opcode);
    let node = if node == u8::MAX { u64::MAX } else { node.into() };
    let mut message = message(opcode, node, body);
    if flags & USER != 0 {
        message[24..28].copy_from_slice(&999_u32.to_le_bytes());
        message[28..32].copy_from_slice(&999_u32.to_le_bytes());
    }
    let length = u32::try_from(message.len()).unwrap();
    let said = match (flags & LONGER != 0, flags & SHORTER != 0) {
        (true, true) => u32::MAX,
        (true, false) => length + 0x1000,
        (false, true) => length / 2,
        (false, false) => length,
    };
    message[..4].copy_from_slice(&said.to_le_bytes());
    let room = [ROOM, ROOM, ROOM, ROOM, 0, 1, 16, 100][usize::from(flags % 8)];
    Some((message, room))
}

/// Whether a request would take this machine's disk or time; none of them is read in another way than a small one.
fn takes_much(message: &[u8]) -> bool {
    let number = |at: usize| {
        message.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    };
    match u32::from_le_bytes(message[4..8].try_into().unwrap()) {
        // `struct fuse_fallocate_in`: handle, offset, length. `struct fuse_copy_file_range_in`: three of each file, length.
        FALLOCATE => (MOST_BYTES..1 << 62).contains(&number(56)),
        COPY_FILE_RANGE => number(80) > MOST_BYTES,
        _ => false,
    }
}

fn give(canary: &Canary, input: &[u8]) {
    canary.lay_out();
    let share = Share { path: canary.share(), read_only: false };
    let before = begin_peak();
    let files = SharedFiles::open(&[share], DESCRIPTORS).map_err(|(_, error)| error).unwrap();
    let mut guest = Guest::new(files);
    let mut requests = 0;
    let mut rest = input;
    while let Some((message, room)) = take(&mut rest) {
        if !takes_much(&message) {
            guest.send(&message, room);
            requests += 1;
        }
    }
    // Of each file that a request opens there are two descriptors at most.
    let open = canary.open();
    assert!(open <= DESCRIPTORS + 2 * requests + 1, "{open} are open");
    guest.send(&message(DESTROY, 0, &[]), ROOM);
    assert_eq!(canary.open(), 1, "the share alone stays open");
    let grown = peak().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} KiB more");
    assert_eq!(canary.touched(), None, "nothing outside the share is opened or changed");
}

/// A request as it stands in an input.
fn request(opcode: u8, node: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let [low, high] = u16::try_from(body.len()).unwrap().to_le_bytes();
    [&[opcode, node, 0, low, high], &body[..]].concat()
}

fn long(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn short(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// What guests do. The first two requests of each make the share file 2.
fn sessions() -> Vec<Vec<u8>> {
    let lookup = |node: u8, name: &[u8]| request(1, node, &[name]);
    let begin = || vec![request(u8::try_from(INIT).unwrap(), 1, &[&init()]), lookup(1, b"0\0")];
    let read_write = u32::try_from(libc::O_RDWR).unwrap();
    let open = |node: u8| request(14, node, &[&short(&[read_write, 0])]);
    let looks = [
        lookup(2, b"file\0"),
        lookup(2, b"sub\0"),
        lookup(2, b"link\0"),
        lookup(5, b"file\0"),
        lookup(2, b"..\0"),
        lookup(4, b"../../outside/file\0"),
        lookup(2, b"/etc/passwd\0"),
        lookup(2, &[[b'x'; 256].as_slice(), b"\0"].concat()),
        request(3, 3, &[&long(&[0, 0])]),
        request(5, 5, &[]),
        request(17, 3, &[]),
        request(34, 3, &[&long(&[4])]),
        request(2, 3, &[&long(&[1])]),
        request(42, 0, &[&short(&[2, 0]), &long(&[3, 1, 4, 1])]),
    ];
    // Handle, offset, length, and what else there is.
    let contents = [
        lookup(2, b"file\0"),
        open(3),
        open(3),
        request(15, 3, &[&long(&[1, 0]), &short(&[4096, 0]), &long(&[0]), &short(&[0, 0])]),
        request(16, 3, &[&long(&[1, 4]), &short(&[5, 2]), &long(&[0]), &short(&[1024, 0]), b"bytes"]),
        request(43, 3, &[&long(&[1, 0, 9000]), &short(&[3, 0])]),
        request(43, 3, &[&long(&[1, 0, 9000]), &short(&[16, 0])]),
        request(46, 3, &[&long(&[1, 0]), &short(&[4, 0])]),
        request(47, 3, &[&long(&[1, 0, 3, 2, 100, 10, 0])]),
        request(20, 3, &[&long(&[1, 0])]),
        request(25, 3, &[&long(&[1, 0, 0])]),
        request(50, 2, &[&long(&[0])]),
        request(18, 3, &[&long(&[1]), &short(&[0, 0]), &long(&[0])]),
    ];
    // What is valid, padding, handle, size, lock, times, their nanoseconds, mode, user, group.
    let setattr = |valid: u32, size: u64, mode: u32| {
        request(
            4,
            3,
            &[&short(&[valid, 0]), &long(&[1, size, 0, 5, 6, 7]), &short(&[1, 2, 3, mode, 0, 999, 998, 0])],
        )
    };
    let changes = [
        lookup(2, b"file\0"),
        setattr(1, 0, 0o4755),
        setattr(6, 0, 0),
        setattr(8 | 1 << 11, 3, 0),
        setattr(0x1b0, 0, 0),
        request(21, 3, &[&short(&[5, 0]), b"user.a\0value"]),
        request(21, 3, &[&short(&[5, 0, 0, 0]), b"user.a\0value"]),
        request(21, 3, &[&short(&[5, 0, 0, 0]), b"user.containers.override_stat\x000:0:7"]),
        request(22, 3, &[&short(&[100, 0]), b"user.a\0"]),
        request(23, 3, &[&short(&[100, 0])]),
        request(24, 3, &[b"user.a\0"]),
    ];
    let flags = u32::try_from(libc::O_CREAT | libc::O_RDWR).unwrap();
    let names = [
        request(35, 2, &[&short(&[flags, 0o644, 0o22, 0]), b"made\0"]),
        request(35, 2, &[&short(&[flags, 0o644, 0o22, 0]), b"../made\0"]),
        request(51, 2, &[&short(&[read_write, 0o600, 0, 0]), b"/\0"]),
        request(9, 2, &[&short(&[0o755, 0o22]), b"folder\0"]),
        request(8, 2, &[&short(&[libc::S_IFIFO | 0o600, 0, 0, 0]), b"pipe\0"]),
        request(6, 2, &[b"l\0../outside/file\0"]),
        request(13, 5, &[&long(&[3]), b"linked\0"]),
        request(12, 2, &[&long(&[5]), b"made\0file\0"]),
        request(45, 2, &[&long(&[2]), &short(&[2, 0]), b"file\0sub\0"]),
        request(45, 2, &[&long(&[2]), &short(&[1, 0]), b"file\0..\0"]),
        request(10, 2, &[b"file\0"]),
        request(11, 2, &[b"folder\0"]),
        request(14, 6, &[&short(&[0, 0])]),
    ];
    let list = |opcode: u8, node: u8, handle: u64| {
        request(opcode, node, &[&long(&[handle, 0]), &short(&[4096, 0]), &long(&[0]), &short(&[0, 0])])
    };
    let lists = [
        request(27, 2, &[&short(&[0, 0])]),
        list(28, 2, 1),
        list(44, 2, 1),
        list(44, 1, 0),
        request(30, 2, &[&long(&[1, 0])]),
        request(29, 2, &[&long(&[1]), &short(&[0, 0]), &long(&[0])]),
    ];
    let events = [
        request(0xfe, 2, &[]),
        request(9, 2, &[&short(&[0o755, 0o22]), b"folder\0"]),
        request(0xfe, 3, &[]),
        request(10, 2, &[b"file\0"]),
        request(0xff, 0, &[&short(&[1, 0]), &long(&[2, 1])]),
        request(11, 2, &[b"folder\0"]),
        request(0xfe, 0, &[]),
        request(38, 0, &[]),
        request(u8::try_from(INIT).unwrap(), 1, &[&init()]),
        lookup(1, b"0\0"),
    ];
    let parts: [&[Vec<u8>]; 6] = [&looks, &contents, &changes, &names, &lists, &events];
    let mut sessions: Vec<_> = parts.iter().map(|part| [&begin(), *part].concat().concat()).collect();
    sessions.push([&begin(), &parts.concat()[..]].concat().concat());
    sessions
}

#[test]
fn requests() {
    let canary = Canary::new();
    fuzz("requests", sessions(), 3000, |input| give(&canary, input));
}

/// That the target sees what it is there to see.
#[test]
fn a_touched_canary_is_noticed() {
    let canary = Canary::new();
    canary.lay_out();
    assert_eq!(canary.touched(), None);
    fs::read(canary.folder.path().join("outside/file")).unwrap();
    assert!(canary.touched().is_some());
    fs::write(Path::join(canary.folder.path(), "new"), "").unwrap();
    assert!(std::iter::from_fn(|| canary.touched()).any(|name| *name == *c"new"));
}

/// That the sessions reach what they are there for.
#[test]
fn what_guests_do_in_the_samples_is_done() {
    let canary = Canary::new();
    let mut done = BTreeSet::new();
    for session in sessions() {
        canary.lay_out();
        let share = Share { path: canary.share(), read_only: false };
        let files = SharedFiles::open(&[share], DESCRIPTORS).map_err(|(_, error)| error).unwrap();
        let mut guest = Guest::new(files);
        let mut rest = &session[..];
        while let Some((message, room)) = take(&mut rest) {
            if guest.send(&message, room) > 0 && guest.error() == 0 {
                done.insert(u32::from_le_bytes(message[4..8].try_into().unwrap()));
            }
        }
    }
    // All that have an answer but for those that the server does not know, and the removal of what is not empty.
    let expected = (1..=51).filter(|opcode| ![2, 7, 19, 25, 38, 42, 48, 49].contains(opcode));
    let expected = expected.filter(|opcode| !(31..=34).contains(opcode) && !(36..=41).contains(opcode));
    let expected: BTreeSet<u32> = expected.chain([8192]).collect();
    assert_eq!(done, expected);
}
