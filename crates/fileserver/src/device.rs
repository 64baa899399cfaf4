//! The file system device (Virtual I/O Device, version 1.2, section 5.11): FUSE requests come by its queues.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::fuse::{InHeader, Opcode};
use virtiofsd::server::Server;
use vmm::devices::virtio::{DeviceError, Progress, QUEUE_SIZE, VirtQueue, VirtioDevice};
use vmm::memory::GuestMemory;

use crate::file_system::SharedFiles;

/// One for requests that must not wait (that the guest forgot a file), one for all others.
const QUEUE_SIZES: [u16; 2] = [QUEUE_SIZE; 2];

/// Requests that are served before the other queue and the emulator have their turn.
const BATCH: usize = 64;

/// Bytes of `struct fuse_out_header`.
const ANSWER_HEADER: usize = 16;

/// The device.
pub(crate) struct Fs {
    server: Server<SharedFiles>,
}

impl Fs {
    pub(crate) fn new(files: SharedFiles) -> Fs {
        Fs { server: Server::new(files) }
    }

    /// Serves a request; returns how many bytes its answer has.
    pub(crate) fn serve<M>(&self, memory: &GuestMemory, chain: DescriptorChain<M>) -> u32
    where
        M: Deref<Target = GuestMemory> + Clone,
    {
        // Outside the guest's memory there is nowhere to answer to.
        let (Ok(reader), Ok(writer)) = (Reader::new(memory, chain.clone()), Writer::new(memory, chain))
        else {
            return 0;
        };
        // The library takes it for granted that the beginning of an answer has room.
        if writer.available_bytes() < ANSWER_HEADER && has_answer(&reader) {
            return 0;
        }
        let answered = self.server.handle_message(reader, writer, None::<&mut ()>);
        let answered = answered.inspect_err(|error| tracing::debug!("a request cannot be read: {error}"));
        answered.ok().and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0)
    }
}

/// Whether a request has one; those by which the guest forgets files have none.
fn has_answer(reader: &Reader<'_>) -> bool {
    let header = reader.clone().read_obj::<InHeader>();
    header.is_ok_and(|header| {
        let opcode = Opcode::try_from(header.opcode);
        !matches!(opcode, Ok(Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt))
    })
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

    fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError> {
        let mut progress = Progress::Idle;
        for queue in queues {
            let memory = queue.memory();
            let of_queue = queue.drain(BATCH, |queue| -> Result<bool, DeviceError> {
                let Some(chain) = queue.pop_descriptors()? else {
                    return Ok(false);
                };
                let head = chain.head_index();
                let written = self.serve(memory, chain);
                queue.push_used(head, written)?;
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

    fn reset(&mut self) {}
}
