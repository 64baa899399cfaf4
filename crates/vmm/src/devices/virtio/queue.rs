//! A virtqueue as a device sees it: chains of guest buffers come out, used lengths go back.

use std::io;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryError};

use super::Progress;
use crate::memory::{GuestBuffer, GuestMemory};

/// How a transport tells the guest that buffers were used.
pub trait Interrupt {
    fn trigger(&self) -> io::Result<()>;
}

/// The guest's driver broke the rules of a queue (virtio 1.2, section 2.7): the queue is useless until it is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("queue {queue}: the rings are unusable")]
    Ring { queue: usize, source: virtio_queue::Error },
    #[error("queue {queue}: descriptor chain {head} loops, is cut off or has its parts in the wrong order")]
    Chain { queue: usize, head: u16 },
    #[error("queue {queue}: descriptor chain {head} leaves guest memory")]
    Address { queue: usize, head: u16, source: GuestMemoryError },
    #[error("queue {queue}: a buffer of {len} bytes is too small, {need} are needed")]
    BufferTooSmall { queue: usize, len: usize, need: usize },
    #[error("queue {queue}: the interrupt could not be raised")]
    Interrupt { queue: usize, source: io::Error },
}

/// A descriptor chain, fully read and checked: what the driver wrote, then what the device may write.
pub struct Chain<'m> {
    pub head: u16,
    pub readable: GuestBuffer<'m>,
    pub writable: GuestBuffer<'m>,
}

/// Section 2.7.8, `struct virtq_used`: flags and index, then elements of a chain's head and its length.
const USED_HEADER_BYTES: u64 = 4;
const USED_ELEMENT_BYTES: u64 = 8;

/// One queue during one call of a device.
pub struct VirtQueue<'a> {
    index: usize,
    /// `None`: not started by the driver, thus empty.
    queue: Option<&'a mut Queue>,
    memory: &'a GuestMemory,
    interrupt: &'a dyn Interrupt,
    /// Where the used ring stood when the first chain was returned of which the driver was not told yet.
    used_from: Option<u16>,
}

impl<'a> VirtQueue<'a> {
    /// `queue` is `None` while the driver has not started it.
    pub fn new(
        index: usize,
        queue: Option<&'a mut Queue>,
        memory: &'a GuestMemory,
        interrupt: &'a dyn Interrupt,
    ) -> Self {
        VirtQueue { index, queue, memory, interrupt, used_from: None }
    }

    /// This queue's number in its device.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The guest's memory, in which the chains lie.
    pub fn memory(&self) -> &'a GuestMemory {
        self.memory
    }

    /// Takes the next chain that the driver made available as it stands there, for who reads and checks it himself.
    pub fn pop_descriptors(&mut self) -> Result<Option<DescriptorChain<&'a GuestMemory>>, QueueError> {
        let Some(queue) = self.queue.as_deref_mut() else {
            return Ok(None);
        };
        let mut chains =
            queue.iter(self.memory).map_err(|source| QueueError::Ring { queue: self.index, source })?;
        Ok(chains.next())
    }

    /// Takes the next chain that the driver made available.
    pub fn pop(&mut self) -> Result<Option<Chain<'a>>, QueueError> {
        let queue_index = self.index;
        let memory = self.memory;
        let Some(descriptors) = self.pop_descriptors()? else {
            return Ok(None);
        };
        let head = descriptors.head_index();
        let mut chain = Chain { head, readable: GuestBuffer::default(), writable: GuestBuffer::default() };
        // The iterator ends silently at a loop or a bad index; the last descriptor it gave then still has a successor.
        let mut complete = false;
        for descriptor in descriptors {
            let buffer = if descriptor.is_write_only() {
                &mut chain.writable
            } else if chain.writable.is_empty() {
                &mut chain.readable
            } else {
                // Section 2.7.4.2: device-writable parts come after all readable ones.
                return Err(QueueError::Chain { queue: queue_index, head });
            };
            let len = usize::try_from(descriptor.len()).unwrap_or(usize::MAX);
            buffer.push(memory, descriptor.addr(), len).map_err(|source| QueueError::Address {
                queue: queue_index,
                head,
                source,
            })?;
            complete = !descriptor.has_next();
        }
        if !complete {
            return Err(QueueError::Chain { queue: queue_index, head });
        }
        Ok(Some(chain))
    }

    /// Gives the last `count` popped chains back, unused: they will be popped again, in the same order.
    pub fn unpop(&mut self, count: u16) {
        if let Some(queue) = self.queue.as_deref_mut() {
            queue.set_next_avail(queue.next_avail().wrapping_sub(count));
        }
    }

    /// Returns a chain to the driver; `written` is how many bytes of its writable part were filled.
    pub fn push_used(&mut self, head: u16, written: u32) -> Result<(), QueueError> {
        self.push_used_together(&[(head, written)])
    }

    /// Returns several chains to the driver at once: it sees all of them or none. They are one packet's buffers, each
    /// with how many bytes of it were filled.
    pub fn push_used_together(&mut self, chains: &[(u16, u32)]) -> Result<(), QueueError> {
        let (Some(queue), Some((&(last, written), others))) =
            (self.queue.as_deref_mut(), chains.split_last())
        else {
            return Ok(());
        };
        let ring = |source| QueueError::Ring { queue: self.index, source };
        let first = queue.next_used();
        self.used_from.get_or_insert(first);
        // Section 2.7.8: the driver looks no further than the ring's index, which goes on with the last one.
        let mut at = first;
        for &(head, written) in others {
            if head >= queue.size() {
                return Err(ring(virtio_queue::Error::InvalidDescriptorIndex));
            }
            let slot = u64::from(at % queue.size());
            let address = queue.used_ring().saturating_add(USED_HEADER_BYTES + slot * USED_ELEMENT_BYTES);
            let [id, len] = [u32::from(head).to_le_bytes(), written.to_le_bytes()];
            let element = [id, len].concat();
            self.memory
                .write_slice(&element, GuestAddress(address))
                .map_err(|source| ring(virtio_queue::Error::GuestMemory(source)))?;
            at = at.wrapping_add(1);
        }
        queue.set_next_used(at);
        queue.add_used(self.memory, last, written).map_err(ring)
    }

    /// Interrupts the guest if chains were returned since the last call and the driver wants to hear of them.
    pub fn notify(&mut self) -> Result<(), QueueError> {
        let (Some(queue), Some(from)) = (self.queue.as_deref_mut(), self.used_from.take()) else {
            return Ok(());
        };
        let ring = |source| QueueError::Ring { queue: self.index, source };
        let mut wanted = queue.needs_notification(self.memory).map_err(ring)?;
        if queue.event_idx_enabled() {
            // The queue knows only of the last of those that were returned together.
            let address = queue.avail_ring().saturating_add(4 + 2 * u64::from(queue.size()));
            let event = self
                .memory
                .read_obj::<u16>(GuestAddress(address))
                .map_err(|source| ring(virtio_queue::Error::GuestMemory(source)))?;
            wanted |= is_between(u16::from_le(event), from, queue.next_used());
        }
        if wanted {
            self.interrupt.trigger().map_err(|source| QueueError::Interrupt { queue: self.index, source })?;
        }
        Ok(())
    }

    /// Has chains served until there are none left. `serve` takes one and returns it, or says that there is none. After
    /// `batch` of them it is somebody else's turn.
    pub fn drain<E: From<QueueError>>(
        &mut self,
        batch: usize,
        mut serve: impl FnMut(&mut Self) -> Result<bool, E>,
    ) -> Result<Progress, E> {
        loop {
            self.disable_kicks()?;
            for served in 0.. {
                if served == batch {
                    self.notify()?;
                    return Ok(Progress::Again);
                }
                if !serve(self)? {
                    break;
                }
            }
            self.notify()?;
            if !self.enable_kicks()? {
                return Ok(Progress::Idle);
            }
        }
    }

    /// Asks the driver for a kick at its next chain. True if a chain came in the meantime: no kick will tell of it.
    pub fn enable_kicks(&mut self) -> Result<bool, QueueError> {
        match self.queue.as_deref_mut() {
            Some(queue) => queue
                .enable_notification(self.memory)
                .map_err(|source| QueueError::Ring { queue: self.index, source }),
            None => Ok(false),
        }
    }

    /// Tells the driver that kicks are of no use now, because the queue is being worked on.
    pub fn disable_kicks(&mut self) -> Result<(), QueueError> {
        match self.queue.as_deref_mut() {
            Some(queue) => queue
                .disable_notification(self.memory)
                .map_err(|source| QueueError::Ring { queue: self.index, source }),
            None => Ok(()),
        }
    }
}

/// Whether a ring's index went past `event` on its way from `from` to `to` (section 2.7.10).
fn is_between(event: u16, from: u16, to: u16) -> bool {
    to.wrapping_sub(event).wrapping_sub(1) < to.wrapping_sub(from)
}

#[cfg(test)]
pub(crate) mod testing {
    //! A driver's side of a queue, for the tests of devices.

    use std::cell::Cell;

    use virtio_queue::{Queue, QueueT as _};
    use vm_memory::{Bytes as _, GuestAddress};

    use super::{Interrupt, VirtQueue};
    use crate::memory::GuestMemory;

    pub(crate) const READ: u16 = 0;
    /// VIRTQ_DESC_F_NEXT
    pub(crate) const NEXT: u16 = 1;
    /// VIRTQ_DESC_F_WRITE
    pub(crate) const WRITE: u16 = 2;

    /// Counts interrupts.
    #[derive(Default)]
    pub(crate) struct Interrupts(pub(crate) Cell<usize>);

    impl Interrupt for Interrupts {
        fn trigger(&self) -> std::io::Result<()> {
            self.0.set(self.0.get() + 1);
            Ok(())
        }
    }

    /// 16 MiB of guest memory from address 0. Queues of tests lie below 1 MiB, buffers above.
    pub(crate) fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap()
    }

    /// One queue with its driver (section 2.7: descriptor table, available ring, used ring).
    pub(crate) struct Driver<'m> {
        memory: &'m GuestMemory,
        descriptors: u64,
        available: u64,
        used: u64,
        pub(crate) queue: Queue,
        pub(crate) interrupts: Interrupts,
        next_descriptor: u16,
        size: u16,
        seen_used: u16,
    }

    impl<'m> Driver<'m> {
        /// A queue of `size` (at most 256) whose rings lie in the 16 KiB from `base`, one per page or pages.
        pub(crate) fn new(memory: &'m GuestMemory, base: u64, size: u16) -> Self {
            let (descriptors, available, used) = (base, base + 0x1000, base + 0x2000);
            let mut queue = Queue::new(size).unwrap();
            queue.try_set_desc_table_address(GuestAddress(descriptors)).unwrap();
            queue.try_set_avail_ring_address(GuestAddress(available)).unwrap();
            queue.try_set_used_ring_address(GuestAddress(used)).unwrap();
            queue.set_ready(true);
            Driver {
                memory,
                descriptors,
                available,
                used,
                queue,
                interrupts: Interrupts::default(),
                next_descriptor: 0,
                size,
                seen_used: 0,
            }
        }

        pub(crate) fn as_queue(&mut self, index: usize) -> VirtQueue<'_> {
            VirtQueue::new(index, Some(&mut self.queue), self.memory, &self.interrupts)
        }

        /// Where descriptor table, available and used ring lie.
        pub(crate) fn rings(&self) -> (u64, u64, u64) {
            (self.descriptors, self.available, self.used)
        }

        fn u16_at(&self, address: u64) -> u16 {
            self.memory.read_obj(GuestAddress(address)).unwrap()
        }

        /// Stores one descriptor as it is.
        pub(crate) fn raw_descriptor(&mut self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
            let bytes =
                [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                    .concat();
            self.write(self.descriptors + 16 * u64::from(index), &bytes);
        }

        /// Puts a head into the available ring.
        pub(crate) fn offer(&mut self, head: u16) {
            let index = self.u16_at(self.available + 2);
            self.write(self.available + 4 + 2 * u64::from(index % self.size), &head.to_le_bytes());
            self.write(self.available + 2, &index.wrapping_add(1).to_le_bytes());
        }

        /// Offers a well-formed chain of (address, length, [`READ`] or [`WRITE`]); returns its head.
        pub(crate) fn add_chain(&mut self, parts: &[(u64, u32, u16)]) -> u16 {
            let head = self.next_descriptor % self.size;
            for (position, &(address, len, flags)) in parts.iter().enumerate() {
                let index = self.next_descriptor % self.size;
                let next = (index + 1) % self.size;
                let flags = if position + 1 < parts.len() { flags | NEXT } else { flags };
                self.raw_descriptor(index, address, len, flags, next);
                self.next_descriptor = self.next_descriptor.wrapping_add(1);
            }
            self.offer(head);
            head
        }

        /// The used elements (head, length) that the driver has not seen yet.
        pub(crate) fn take_used(&mut self) -> Vec<(u32, u32)> {
            let index = self.u16_at(self.used + 2);
            let mut used = Vec::new();
            while self.seen_used != index {
                let element = self.used + 4 + 8 * u64::from(self.seen_used % self.size);
                let [id, len] =
                    [element, element + 4].map(|at| self.memory.read_obj(GuestAddress(at)).unwrap());
                used.push((id, len));
                self.seen_used = self.seen_used.wrapping_add(1);
            }
            used
        }

        /// Whether fewer chains than `offered` in all came back and another half of the queue would not fit.
        pub(crate) fn queue_is_full(&self, offered: u64) -> bool {
            offered - u64::from(self.seen_used) >= u64::from(self.size / 2)
        }

        pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
            self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
        }

        pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
            let mut bytes = vec![0; len];
            self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            bytes
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Driver, NEXT, READ, WRITE, memory};
    use super::*;

    #[test]
    fn chains_returned_together_are_told_of_once_and_by_each_ones_place() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        driver.queue.set_event_idx(true);
        let heads: Vec<u16> = (0..3).map(|_| driver.add_chain(&[(0x10_0000, 64, WRITE)])).collect();
        // The driver wants to hear of the first one.
        driver.write(0x2000 + 4 + 2 * 8, &0_u16.to_le_bytes());
        let mut queue = driver.as_queue(0);
        while queue.pop().unwrap().is_some() {}
        queue.push_used_together(&[(heads[0], 1), (heads[1], 2), (heads[2], 3)]).unwrap();
        queue.notify().unwrap();
        queue.notify().unwrap();
        assert_eq!(driver.interrupts.0.get(), 1);
        let expected: Vec<(u32, u32)> = heads.iter().map(|head| u32::from(*head)).zip(1..).collect();
        assert_eq!(driver.take_used(), expected);
        assert!(driver.as_queue(0).push_used_together(&[(8, 1), (0, 1)]).is_err());
    }

    #[test]
    fn an_index_goes_past_an_event_also_where_it_wraps() {
        assert!(is_between(3, 3, 4) && is_between(3, 0, 4) && !is_between(4, 0, 4) && !is_between(2, 3, 4));
        assert!(
            is_between(u16::MAX, u16::MAX, 1) && is_between(0, u16::MAX, 1) && !is_between(1, u16::MAX, 1)
        );
    }

    #[test]
    fn a_chain_is_split_into_readable_and_writable_parts() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        let head = driver.add_chain(&[(0x10_0000, 16, READ), (0x20_0000, 100, READ), (0x30_0000, 1, WRITE)]);
        let mut queue = driver.as_queue(0);
        let chain = queue.pop().unwrap().expect("one chain is available");
        assert_eq!((chain.head, chain.readable.len(), chain.writable.len()), (head, 116, 1));
        assert!(queue.pop().unwrap().is_none());
        queue.push_used(chain.head, 1).unwrap();
        queue.notify().unwrap();
        queue.notify().unwrap();
        assert_eq!(driver.take_used(), [(u32::from(head), 1)]);
        assert_eq!(driver.interrupts.0.get(), 1, "one interrupt for one batch");
    }

    #[test]
    fn chains_that_were_given_back_come_again_in_order() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        let heads: Vec<u16> = (0..3).map(|_| driver.add_chain(&[(0x10_0000, 16, READ)])).collect();
        let mut queue = driver.as_queue(0);
        let first: Vec<u16> = (0..3).map(|_| queue.pop().unwrap().unwrap().head).collect();
        queue.unpop(2);
        let again: Vec<u16> = std::iter::from_fn(|| queue.pop().unwrap()).map(|chain| chain.head).collect();
        assert_eq!((first, again), (heads.clone(), heads[1..].to_vec()));
    }

    #[test]
    fn lying_chains_are_errors() {
        let memory = memory();
        // (flags, next, address) of descriptor 0: a loop onto itself, a successor outside the table, memory that is not there.
        for (flags, next, address) in
            [(NEXT, 0, 0x10_0000), (NEXT, 99, 0x10_0000), (READ, 0, 0xdead_0000_0000)]
        {
            let mut driver = Driver::new(&memory, 0x1000, 8);
            driver.raw_descriptor(0, address, 64, flags, next);
            driver.offer(0);
            assert!(driver.as_queue(0).pop().is_err(), "flags {flags} next {next} address {address:#x}");
        }
        let mut driver = Driver::new(&memory, 0x1000, 8);
        driver.add_chain(&[(0x10_0000, 16, WRITE), (0x20_0000, 16, READ)]);
        assert!(matches!(driver.as_queue(0).pop(), Err(QueueError::Chain { .. })));
        let mut driver = Driver::new(&memory, 0x1000, 8);
        driver.offer(77);
        assert!(driver.as_queue(0).pop().is_err(), "a head outside the table");
    }

    #[test]
    fn an_available_index_that_runs_away_is_an_error_not_a_loop() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 8);
        for _ in 0..9 {
            driver.offer(0);
        }
        assert!(matches!(driver.as_queue(0).pop(), Err(QueueError::Ring { .. })));
    }

    #[test]
    fn a_queue_that_was_not_started_is_empty() {
        let memory = memory();
        let interrupts = testing::Interrupts::default();
        let mut queue = VirtQueue::new(0, None, &memory, &interrupts);
        assert!(queue.pop().unwrap().is_none());
        assert!(!queue.enable_kicks().unwrap());
        queue.push_used(0, 0).unwrap();
        queue.notify().unwrap();
        assert_eq!(interrupts.0.get(), 0);
    }
}
