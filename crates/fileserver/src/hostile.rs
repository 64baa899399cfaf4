//! Requests that no kernel would send: the server answers or does not, lives on, and leaves alone what is no share.

use std::fs;
use std::os::unix::fs::symlink;

use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::{Bytes as _, GuestAddress};
use vmm::memory::GuestMemory;

use crate::Share;
use crate::device::{Fs, Served};
use crate::file_system::SharedFiles;

const REQUEST: u64 = 0x1_0000;
const ANSWER: u64 = 0x8_0000;
pub(crate) const ROOM: u32 = 0x2_0000;
/// `struct fuse_in_header`: length, opcode, unique, node, user, group, process, lengths of extensions.
const HEADER: usize = 40;
/// `struct fuse_out_header`: length, error, unique.
const ANSWER_HEADER: u32 = 16;
/// The number of each request.
const UNIQUE: u64 = 7;
pub(crate) const INIT: u32 = 26;
const LOOKUP: u32 = 1;
/// Opcodes end some way below.
const OPCODES: u64 = 55;
const ROUNDS: u32 = 20_000;

/// Numbers that follow from the first one (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }
}

/// A guest that sends what it likes.
pub(crate) struct Guest {
    memory: GuestMemory,
    device: Fs,
}

impl Guest {
    pub(crate) fn new(files: SharedFiles) -> Guest {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        Guest { memory, device: Fs::new(files) }
    }

    /// Sends a request in two pieces, with room for an answer in two; gives the answer's length.
    pub(crate) fn send(&mut self, message: &[u8], room: u32) -> u32 {
        self.memory.write_slice(message, GuestAddress(REQUEST)).unwrap();
        let half = message.len() / 2;
        let parts = [
            (REQUEST, half, 0),
            (REQUEST + half as u64, message.len() - half, 0),
            (ANSWER, usize::try_from(room / 3).unwrap(), 2),
            (ANSWER + u64::from(room / 3), usize::try_from(room - room / 3).unwrap(), 2),
        ];
        let descriptors: Vec<RawDescriptor> = parts
            .into_iter()
            .filter(|(_, length, _)| *length > 0)
            .map(|(address, length, flags)| {
                RawDescriptor::from(Descriptor::new(address, u32::try_from(length).unwrap(), flags, 0))
            })
            .collect();
        if descriptors.is_empty() {
            return 0;
        }
        let queue = MockSplitQueue::new(&self.memory, 16);
        let chain = queue.build_desc_chain(&descriptors).unwrap();
        let Served::Now(length) = self.device.serve(&self.memory, 1, chain) else { return 0 };
        assert!(length <= room, "{length} bytes for {message:?}, which has room for {room}");
        // Its header says the same, and of which request it is the answer.
        if length > 0 {
            assert!(length >= ANSWER_HEADER);
            assert_eq!(self.answer(0) & u64::from(u32::MAX), u64::from(length), "{message:?}");
            assert_eq!(Some(self.answer(8)), message.get(8..16).map(number), "{message:?}");
        }
        length
    }

    /// The error of the last answer, or 0.
    pub(crate) fn error(&self) -> i32 {
        self.memory.read_obj(GuestAddress(ANSWER + 4)).unwrap()
    }

    fn answer(&self, at: u64) -> u64 {
        self.memory.read_obj(GuestAddress(ANSWER + at)).unwrap()
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// The first request of a guest that knows version 7.40, and everything that there is.
pub(crate) fn init() -> Vec<u8> {
    let init = [7_u32, 40, 1 << 20, u32::MAX, u32::MAX].map(u32::to_le_bytes).concat();
    [&init[..], &[0; 44]].concat()
}

/// A request of root's.
pub(crate) fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap();
    let mut message = Vec::new();
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(&opcode.to_le_bytes());
    message.extend_from_slice(&UNIQUE.to_le_bytes());
    message.extend_from_slice(&node.to_le_bytes());
    message.extend_from_slice(&[0; 16]);
    message.extend_from_slice(body);
    message
}

#[test]
fn requests_of_any_bytes_are_outlived_and_stay_inside() {
    let folder = tempfile::tempdir().unwrap();
    let (inside, outside) = (folder.path().join("share"), folder.path().join("outside"));
    for place in [&inside, &outside] {
        fs::create_dir_all(place.join("sub")).unwrap();
        fs::write(place.join("file"), "kept").unwrap();
    }
    symlink(&outside, inside.join("link")).unwrap();
    let files = SharedFiles::open(&[Share { path: inside.clone(), read_only: false }], 100)
        .map_err(|(_, e)| e)
        .unwrap();
    let mut guest = Guest::new(files);
    assert!(guest.send(&message(INIT, 1, &init()), ROOM) > ANSWER_HEADER);
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let names: [&[u8]; 12] = [
        b"0\0",
        b"file\0",
        b"sub\0",
        b"link\0",
        b"..\0",
        b".\0",
        b"/etc/passwd\0",
        b"../outside/file\0",
        b"a\0b\0",
        b"file\0new\0",
        b"\0",
        b"user.containers.override_stat\0",
    ];
    for _ in 0..ROUNDS {
        let own = numbers.one_of(&[8192, 8193]);
        let known = u32::try_from(numbers.below(OPCODES)).unwrap();
        let opcode = if numbers.below(20) == 0 { own } else { known };
        let node = numbers.one_of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, u64::MAX]);
        let mut body = Vec::new();
        for _ in 0..numbers.below(14) {
            let any = numbers.next();
            let small = numbers.below(9);
            body.extend_from_slice(
                &numbers.one_of(&[0, small, 1 << 20, 1 << 63, any, u64::MAX]).to_le_bytes(),
            );
        }
        body.truncate(usize::try_from(numbers.below(body.len() as u64 + 1)).unwrap());
        if numbers.below(4) > 0 {
            body.extend_from_slice(numbers.one_of(&names));
        }
        let mut request = message(opcode, node, &body);
        if numbers.below(20) == 0 {
            let length = u32::try_from(numbers.next() & 0xffff_ffff).unwrap();
            request[..4].copy_from_slice(&length.to_le_bytes());
        }
        if numbers.below(20) == 0 {
            request.truncate(usize::try_from(numbers.below(request.len() as u64 + 1)).unwrap());
        }
        let room = numbers.one_of(&[ROOM, ROOM, ROOM, 0, 1, 16, 100]);
        guest.send(&request, room);
    }
    // It goes on: the share is there, and what is behind the link has not been touched.
    guest.send(&message(INIT, 1, &init()), ROOM);
    assert!(guest.send(&message(LOOKUP, 1, b"0\0"), ROOM) > ANSWER_HEADER);
    assert_eq!(guest.answer(0) >> 32, 0, "no error");
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}
