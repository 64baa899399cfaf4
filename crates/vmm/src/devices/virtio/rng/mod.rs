//! The entropy device (section 5.4): one queue of buffers that the host fills with random bytes.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use crate::devices::virtio::{DeviceError, Progress, QUEUE_SIZE, VirtQueue, VirtioDevice};
use crate::sys;

/// The most bytes that one request gets, so that a guest cannot keep the host busy with one huge buffer.
const MAX_REQUEST: usize = 64 << 10;

/// Requests served before other descriptors of the event loop have their turn.
const BATCH: usize = 64;

/// Random numbers from the host's kernel.
#[derive(Default)]
pub struct Rng {}

impl Rng {
    /// The device type of section 5.
    pub const ID: u32 = VIRTIO_ID_RNG;
}

impl VirtioDevice for Rng {
    fn name(&self) -> &str {
        "rng"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError> {
        let [queue] = queues else {
            return Ok(Progress::Idle);
        };
        queue.drain(BATCH, |queue| {
            let Some(chain) = queue.pop()? else {
                return Ok(false);
            };
            let wanted = chain.writable.part(0, MAX_REQUEST);
            let mut written = 0;
            let mut bytes = [0; 1024];
            while written < wanted.len() {
                let piece = &mut bytes[..(wanted.len() - written).min(1024)];
                sys::random_bytes(piece)
                    .map_err(|source| DeviceError::Host { what: "the host gives no random bytes", source })?;
                written += wanted.part(written, piece.len()).copy_from(piece);
            }
            queue.push_used(chain.head, u32::try_from(written).unwrap_or(u32::MAX))?;
            Ok(true)
        })
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::queue::testing::{Driver, READ, WRITE, memory};

    #[test]
    fn buffers_are_filled_with_different_bytes() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        driver.add_chain(&[(0x10_0000, 16, WRITE), (0x20_0000, 16, WRITE)]);
        driver.add_chain(&[(0x30_0000, 32, WRITE)]);
        assert_eq!(Rng::default().process(&mut [driver.as_queue(0)]).unwrap(), Progress::Idle);
        assert_eq!(driver.take_used(), [(0, 32), (2, 32)]);
        assert_eq!(driver.interrupts.0.get(), 1);
        let first = [driver.read(0x10_0000, 16), driver.read(0x20_0000, 16)].concat();
        let second = driver.read(0x30_0000, 32);
        assert_ne!(first, second);
        assert_ne!(first[..16], first[16..]);
        assert_ne!(second, [0; 32]);
    }

    #[test]
    fn a_huge_buffer_gets_the_maximum_and_a_read_only_one_nothing() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        driver.add_chain(&[(0x10_0000, 1 << 20, WRITE)]);
        driver.add_chain(&[(0x30_0000, 32, READ)]);
        Rng::default().process(&mut [driver.as_queue(0)]).unwrap();
        assert_eq!(driver.take_used(), [(0, 64 << 10), (1, 0)]);
        assert_eq!(driver.read(0x30_0000, 32), [0; 32]);
    }

    #[test]
    fn a_broken_queue_is_the_guests_fault() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        driver.add_chain(&[(0xffff_0000, 32, WRITE)]);
        let result = Rng::default().process(&mut [driver.as_queue(0)]);
        assert!(matches!(result, Err(DeviceError::Guest(_))));
    }
}
