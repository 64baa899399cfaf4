//! The file system device (Virtual I/O Device, version 1.2, section 5.11): FUSE requests come by its queues.

use std::io::{Read as _, Write as _};
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::io::Errno;
use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode};
use virtiofsd::server::Server;
use vm_memory::{Bytes as _, GuestAddress};
use vmm::devices::virtio::{DeviceError, Progress, QUEUE_SIZE, QueueError, VirtQueue, VirtioDevice};
use vmm::memory::GuestMemory;

use crate::events::Events;
use crate::file_system::SharedFiles;
use crate::nameless;

/// One for requests that must not wait (that the guest forgot a file), one for all others.
const QUEUE_SIZES: [u16; 2] = [QUEUE_SIZE; 2];

/// Requests that are served before the other queue and the emulator have their turn.
const BATCH: usize = 64;

/// Bytes of `struct fuse_out_header`.
pub(crate) const ANSWER_HEADER: usize = 16;

/// Requests of our patch to the guest's kernel: a file is watched from now on; what has happened to those that are?
const WATCH: u32 = 8192;
const EVENTS: u32 = 8193;

/// The device.
pub(crate) struct Fs {
    server: Server<SharedFiles>,
    files: SharedFiles,
    events: Arc<Events>,
    question: Option<Question>,
}

/// The guest asks what has happened. It is answered when something has.
struct Question {
    /// The number of its queue.
    queue: usize,
    head: u16,
    unique: u64,
    /// Where the answer goes.
    room: Vec<(GuestAddress, usize)>,
}

/// What becomes of a request.
pub(crate) enum Served {
    /// It has an answer of so many bytes.
    Now(u32),
    /// It will have one when something has happened.
    Later,
}

impl Fs {
    pub(crate) fn new(files: SharedFiles) -> Fs {
        let events = files.events();
        Fs { server: Server::new(files.clone()), files, events, question: None }
    }

    /// Serves a request that came by a queue.
    pub(crate) fn serve<M>(&mut self, memory: &GuestMemory, queue: usize, chain: DescriptorChain<M>) -> Served
    where
        M: Deref<Target = GuestMemory> + Clone,
    {
        // Outside the guest's memory there is nowhere to answer to.
        let (Ok(mut reader), Ok(writer)) =
            (Reader::new(memory, chain.clone()), Writer::new(memory, chain.clone()))
        else {
            return Served::Now(0);
        };
        let header = reader.clone().read_obj::<InHeader>().ok();
        // The library takes it for granted that the beginning of an answer has room.
        if writer.available_bytes() < ANSWER_HEADER && header.is_some_and(|header| has_answer(&header)) {
            return Served::Now(0);
        }
        match header {
            Some(header) if header.opcode == WATCH => {
                Served::Now(answer(writer, header.unique, self.watch(header.nodeid)))
            }
            Some(header) if header.opcode == EVENTS => {
                if self.question.is_some() {
                    return Served::Now(answer(writer, header.unique, Err(Errno::BUSY)));
                }
                self.hear(&mut reader);
                let head = chain.head_index();
                let room =
                    chain.writable().map(|part| (part.addr(), usize::try_from(part.len()).unwrap_or(0)));
                self.question = Some(Question { queue, head, unique: header.unique, room: room.collect() });
                Served::Later
            }
            // The library reads no more of it than that it is one.
            Some(header) if header.opcode == Opcode::TmpFile as u32 => {
                Served::Now(nameless::serve(&self.files, reader, writer))
            }
            _ => {
                let answered = self.server.handle_message(reader, writer, None::<&mut ()>);
                let answered =
                    answered.inspect_err(|error| tracing::debug!("a request cannot be read: {error}"));
                Served::Now(answered.ok().and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0))
            }
        }
    }

    /// The guest watches a file from now on; or, if it is none, wants to hear nothing any more.
    fn watch(&self, node: u64) -> Result<(), Errno> {
        match node {
            0 => {
                self.events.end();
                Ok(())
            }
            node => self.events.watch(node),
        }
    }

    /// Reads which events found nobody (`struct fuse_events_in`).
    fn hear(&self, reader: &mut Reader<'_>) {
        let skipped = reader.read_obj::<InHeader>().is_ok();
        let (mut count, mut padding) = ([0; 4], [0; 4]);
        let read = |part: &mut [u8; 4]| reader.read_exact(part).is_ok();
        if !skipped || ![&mut count, &mut padding].into_iter().all(read) {
            return;
        }
        let mut entry = [0; 16];
        for _ in 0..u32::from_le_bytes(count) {
            if reader.read_exact(&mut entry).is_err() {
                return;
            }
            if let ([node, times], _) = entry.as_chunks::<8>() {
                self.events.unwatch(u64::from_le_bytes(*node), u64::from_le_bytes(*times));
            }
        }
    }

    /// Answers the guest's question, if it has asked by this queue, and something has happened.
    fn tell(&mut self, queue: &mut VirtQueue<'_>) -> Result<(), QueueError> {
        let Some(question) = self.question.take_if(|question| question.queue == queue.index()) else {
            return Ok(());
        };
        let room: usize = question.room.iter().map(|(_, bytes)| *bytes).sum();
        let (error, events) = match self.events.take(room.saturating_sub(ANSWER_HEADER)) {
            Some(Ok(events)) => (0, events),
            Some(Err(error)) => (-error.raw_os_error(), Vec::new()),
            None => {
                self.question = Some(question);
                return Ok(());
            }
        };
        let length = u32::try_from(ANSWER_HEADER + events.len()).unwrap_or(0);
        let mut answer = Vec::with_capacity(ANSWER_HEADER + events.len());
        answer.extend_from_slice(&length.to_le_bytes());
        answer.extend_from_slice(&error.to_le_bytes());
        answer.extend_from_slice(&question.unique.to_le_bytes());
        answer.extend(events);
        let mut rest = &answer[..];
        for (address, bytes) in question.room {
            let (part, others) = rest.split_at(bytes.min(rest.len()));
            // Where its memory is not, the guest gets no answer.
            if queue.memory().write_slice(part, address).is_err() {
                return queue.push_used(question.head, 0);
            }
            rest = others;
        }
        queue.push_used(question.head, length)
    }
}

/// An answer that says whether it went well, and no more; returns its length.
fn answer(writer: Writer<'_>, unique: u64, result: Result<(), Errno>) -> u32 {
    answer_with(writer, unique, result.map(|()| Vec::new()))
}

/// An answer with something in it; returns its length.
pub(crate) fn answer_with(mut writer: Writer<'_>, unique: u64, result: Result<Vec<u8>, Errno>) -> u32 {
    let (error, body) = match result {
        Ok(body) => (0, body),
        Err(error) => (-error.raw_os_error(), Vec::new()),
    };
    let length = u32::try_from(ANSWER_HEADER + body.len()).unwrap_or(0);
    let mut message = Vec::with_capacity(ANSWER_HEADER + body.len());
    message.extend_from_slice(&length.to_le_bytes());
    message.extend_from_slice(&error.to_le_bytes());
    message.extend_from_slice(&unique.to_le_bytes());
    message.extend(body);
    writer.write_all(&message).map_or(0, |()| length)
}

/// Whether a request has an answer; those by which the guest forgets files have none.
fn has_answer(header: &InHeader) -> bool {
    let opcode = Opcode::try_from(header.opcode);
    !matches!(opcode, Ok(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt))
}

impl VirtioDevice for Fs {
    fn name(&self) -> &str {
        "fs"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        // Whoever shows the device to the guest has made up its tag and has the number of queues.
        &[]
    }

    fn event_source(&self) -> Option<BorrowedFd<'_>> {
        self.events.source()
    }

    fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError> {
        let mut progress = Progress::Idle;
        self.events.collect();
        for queue in queues {
            let memory = queue.memory();
            self.tell(queue)?;
            let of_queue = queue.drain(BATCH, |queue| -> Result<bool, DeviceError> {
                let Some(chain) = queue.pop_descriptors()? else {
                    return Ok(false);
                };
                let head = chain.head_index();
                // What others did until now is told apart from what the request does.
                self.events.collect_if_watched();
                self.tell(queue)?;
                let served = self.serve(memory, queue.index(), chain);
                self.events.collect_if_watched();
                if let Served::Now(written) = served {
                    queue.push_used(head, written)?;
                }
                self.tell(queue)?;
                // A guest's thread waits for this one, while the next may take the disk's time.
                queue.notify()?;
                Ok(true)
            })?;
            if of_queue == Progress::Again {
                progress = Progress::Again;
            }
        }
        Ok(progress)
    }

    fn reset(&mut self) {
        self.question = None;
        self.events.clear();
    }
}
