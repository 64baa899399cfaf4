//! The network device (section 5.1): Ethernet frames between the guest and a [`Network`].
//!
//! A frame is an Ethernet frame behind the header of section 5.1.6, [`HEADER_BYTES`] long, which both sides hand on as it
//! is: the device leaves checksums and segments to whoever is on the other side, and never looks into a frame.

use std::io;
use std::os::fd::BorrowedFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

pub use crate::devices::virtio::Progress;
use crate::devices::virtio::{DeviceError, QUEUE_SIZE, QueueError, VirtQueue, VirtioDevice};
use crate::memory::GuestBuffer;

/// Bytes of the header before each frame: `struct virtio_net_hdr_v1`.
pub const HEADER_BYTES: usize = 12;

/// Where in it stands over how many buffers the frame is spread (`num_buffers`).
const BUFFERS_AT: usize = 10;

/// Receive and transmit.
const QUEUE_SIZES: [u16; 2] = [QUEUE_SIZE; 2];

/// Times that the network is asked to work before other descriptors of the event loop have their turn.
const ROUNDS: usize = 4;

/// What the guest takes off the network's hands: the features of the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    pub guest_csum: bool,
    pub guest_tso4: bool,
    pub guest_tso6: bool,
}

/// The guest's side, as a [`Network`] sees it while it works.
pub trait Frames {
    /// Takes the next frame of the guest with its header into `frame`; returns its length. `None` if there is none now.
    /// A frame that is longer than `frame` is dropped.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>>;

    /// Gives a frame with its header to the guest. False if it has no buffers for it now; when it has, the network is
    /// asked to work.
    fn send(&mut self, frame: &[u8]) -> io::Result<bool>;

    fn offloads(&self) -> Offloads;
}

/// Whom the guest's frames go to.
pub trait Network: Send {
    /// A descriptor that becomes readable when [`work`](Self::work) is to be called though the guest did nothing. It
    /// MUST stay the same for the network's life.
    fn event_source(&self) -> BorrowedFd<'_>;

    /// Does all work at hand, or some of it, and never waits. The guest may send frames with checksums and segments
    /// left to do (`VIRTIO_NET_F_CSUM`, `VIRTIO_NET_F_HOST_TSO4` and `…6`).
    ///
    /// # Errors
    /// Those of `guest`, and those that leave the guest without a network for ever.
    fn work(&mut self, guest: &mut dyn Frames) -> io::Result<Progress>;

    /// The guest's driver has gone: it has forgotten everything.
    fn reset(&mut self);
}

/// A network card.
pub struct Net {
    network: Box<dyn Network>,
    features: u64,
    config: [u8; 12],
}

impl Net {
    /// The device type of section 5.
    pub const ID: u32 = VIRTIO_ID_NET;

    /// A card with the Ethernet address `mac` on a link whose packets have up to `mtu` bytes.
    pub fn new(mac: [u8; 6], mtu: u16, network: Box<dyn Network>) -> Self {
        // Section 5.1.4: address, status, pairs of queues, MTU.
        let mut config = [0; 12];
        config[..6].copy_from_slice(&mac);
        config[6..8].copy_from_slice(&u16::try_from(VIRTIO_NET_S_LINK_UP).unwrap_or(1).to_le_bytes());
        config[8..10].copy_from_slice(&1_u16.to_le_bytes());
        config[10..].copy_from_slice(&mtu.to_le_bytes());
        Net { network, features: 0, config }
    }
}

impl VirtioDevice for Net {
    fn name(&self) -> &str {
        "net"
    }

    fn features(&self) -> u64 {
        [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_MTU,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_STATUS,
        ]
        .into_iter()
        .fold(0, |features, bit| features | 1 << bit)
    }

    fn negotiated(&mut self, features: u64) {
        self.features = features;
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn event_source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.network.event_source())
    }

    fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError> {
        let [receive, transmit] = queues else {
            return Ok(Progress::Idle);
        };
        for _ in 0..ROUNDS {
            transmit.disable_kicks()?;
            receive.disable_kicks()?;
            let mut guest =
                Guest { receive, transmit, features: self.features, starved: false, broken: None };
            let worked = self.network.work(&mut guest);
            let (starved, broken) = (guest.starved, guest.broken.take());
            // What a broken queue makes of the network's errors is not the cause.
            if let Some(error) = broken {
                return Err(error.into());
            }
            let progress =
                worked.map_err(|source| DeviceError::Host { what: "the guest's network failed", source })?;
            transmit.notify()?;
            receive.notify()?;
            if progress == Progress::Idle {
                // Before resting: ask for the kicks that could end the rest, and look once more.
                let packets = transmit.enable_kicks()?;
                let buffers = starved && receive.enable_kicks()?;
                if !packets && !buffers {
                    return Ok(Progress::Idle);
                }
            }
        }
        Ok(Progress::Again)
    }

    fn reset(&mut self) {
        self.network.reset();
    }
}

/// The queues during one call of the network.
struct Guest<'q, 'm> {
    receive: &'q mut VirtQueue<'m>,
    transmit: &'q mut VirtQueue<'m>,
    features: u64,
    /// It had no buffers for a frame.
    starved: bool,
    /// The driver broke a queue.
    broken: Option<QueueError>,
}

impl Guest<'_, '_> {
    fn has(&self, feature: u32) -> bool {
        self.features & 1 << feature != 0
    }

    fn check<T>(&mut self, result: Result<T, QueueError>) -> io::Result<T> {
        result.map_err(|error| {
            self.broken = Some(error);
            io::Error::other("the guest broke a queue")
        })
    }

    fn take(&mut self, frame: &mut [u8]) -> Result<Option<usize>, QueueError> {
        while let Some(chain) = self.transmit.pop()? {
            let len = chain.readable.copy_to(frame);
            self.transmit.push_used(chain.head, 0)?;
            if len == chain.readable.len() && len > HEADER_BYTES {
                return Ok(Some(len));
            }
            tracing::debug!(bytes = chain.readable.len(), "the guest sent something that is no frame");
        }
        Ok(None)
    }

    fn give(&mut self, frame: &[u8]) -> Result<bool, QueueError> {
        let spread = self.has(VIRTIO_NET_F_MRG_RXBUF);
        let mut buffer = GuestBuffer::default();
        let mut heads = Vec::new();
        while buffer.len() < frame.len() {
            let Some(chain) = self.receive.pop()? else {
                self.receive.unpop(u16::try_from(heads.len()).unwrap_or(u16::MAX));
                self.starved = true;
                return Ok(false);
            };
            let len = chain.writable.len();
            if len == 0 || (!spread && len < frame.len()) {
                let queue = self.receive.index();
                return Err(QueueError::BufferTooSmall { queue, len, need: frame.len() });
            }
            buffer.extend_from(&chain.writable, 0, usize::MAX);
            heads.push((chain.head, len));
        }
        let (header, data) = frame.split_at(HEADER_BYTES.min(frame.len()));
        buffer.copy_from(header);
        let count = u16::try_from(heads.len()).unwrap_or(u16::MAX);
        buffer.part(BUFFERS_AT, 2).copy_from(&count.to_le_bytes());
        buffer.part(HEADER_BYTES, usize::MAX).copy_from(data);
        let mut rest = frame.len();
        let used: Vec<(u16, u32)> = heads
            .into_iter()
            .map(|(head, len)| {
                let filled = len.min(rest);
                rest -= filled;
                (head, u32::try_from(filled).unwrap_or(u32::MAX))
            })
            .collect();
        self.receive.push_used_together(&used)?;
        Ok(true)
    }
}

impl Frames for Guest<'_, '_> {
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        let taken = self.take(frame);
        self.check(taken)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        let given = self.give(frame);
        self.check(given)
    }

    fn offloads(&self) -> Offloads {
        Offloads {
            guest_csum: self.has(VIRTIO_NET_F_GUEST_CSUM),
            guest_tso4: self.has(VIRTIO_NET_F_GUEST_TSO4),
            guest_tso6: self.has(VIRTIO_NET_F_GUEST_TSO6),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::devices::virtio::queue::testing::{Driver, READ, WRITE, memory};

    #[derive(Default)]
    struct Kept {
        came: Vec<Vec<u8>>,
        to_give: Vec<Vec<u8>>,
    }

    /// Keeps what comes, and gives what it is told to.
    struct Recorder {
        source: OwnedFd,
        frames: Arc<Mutex<Kept>>,
    }

    impl Network for Recorder {
        fn event_source(&self) -> BorrowedFd<'_> {
            self.source.as_fd()
        }

        fn work(&mut self, guest: &mut dyn Frames) -> io::Result<Progress> {
            let mut frames = self.frames.lock().unwrap();
            let mut frame = [0; 100];
            while let Some(len) = guest.receive(&mut frame)? {
                frames.came.push(frame[..len].to_vec());
            }
            while let Some(frame) = frames.to_give.first() {
                if !guest.send(frame)? {
                    break;
                }
                frames.to_give.remove(0);
            }
            Ok(Progress::Idle)
        }

        fn reset(&mut self) {
            self.frames.lock().unwrap().to_give.clear();
        }
    }

    fn net() -> (Net, Arc<Mutex<Kept>>) {
        let frames = Arc::<Mutex<Kept>>::default();
        let source = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let recorder = Recorder { source, frames: Arc::clone(&frames) };
        (Net::new([2, 0, 0, 0, 0, 1], 1500, Box::new(recorder)), frames)
    }

    fn process(
        net: &mut Net,
        receive: &mut Driver<'_>,
        transmit: &mut Driver<'_>,
    ) -> Result<Progress, DeviceError> {
        net.process(&mut [receive.as_queue(0), transmit.as_queue(1)])
    }

    #[test]
    fn frames_of_the_guest_come_in_order_and_what_is_none_is_dropped() {
        let memory = memory();
        let (mut receive, mut transmit) = (Driver::new(&memory, 0x1000, 8), Driver::new(&memory, 0x8000, 8));
        let (mut net, frames) = net();
        transmit.write(0x10_0000, &[1; 100]);
        transmit.add_chain(&[(0x10_0000, 12, READ), (0x10_0000, 20, READ)]);
        // A header and nothing else, more than the network takes, and nothing to read.
        transmit.add_chain(&[(0x10_0000, 12, READ)]);
        transmit.add_chain(&[(0x10_0000, 101, READ)]);
        transmit.add_chain(&[(0x10_0000, 10, WRITE)]);
        transmit.add_chain(&[(0x10_0000, 13, READ)]);
        assert_eq!(process(&mut net, &mut receive, &mut transmit).unwrap(), Progress::Idle);
        assert_eq!(frames.lock().unwrap().came, [vec![1; 32], vec![1; 13]]);
        assert_eq!(transmit.take_used().len(), 5);
    }

    #[test]
    fn a_frame_is_spread_over_buffers_when_the_guest_likes_that() {
        let memory = memory();
        let (mut receive, mut transmit) = (Driver::new(&memory, 0x1000, 8), Driver::new(&memory, 0x8000, 8));
        let (mut net, frames) = net();
        net.negotiated(1 << VIRTIO_NET_F_MRG_RXBUF);
        let frame: Vec<u8> = (0..50).collect();
        frames.lock().unwrap().to_give.push(frame.clone());
        receive.add_chain(&[(0x10_0000, 20, WRITE)]);
        receive.add_chain(&[(0x10_1000, 20, WRITE)]);
        process(&mut net, &mut receive, &mut transmit).unwrap();
        // Too few, and they were given back.
        assert!(receive.take_used().is_empty());
        receive.add_chain(&[(0x10_2000, 20, WRITE)]);
        process(&mut net, &mut receive, &mut transmit).unwrap();
        let lengths: Vec<u32> = receive.take_used().iter().map(|(_, len)| *len).collect();
        assert_eq!(lengths, [20, 20, 10]);
        let got =
            [receive.read(0x10_0000, 20), receive.read(0x10_1000, 20), receive.read(0x10_2000, 10)].concat();
        assert_eq!(got[10..12], [3, 0], "the number of buffers");
        assert_eq!((&got[..10], &got[12..]), (&frame[..10], &frame[12..]));
    }

    #[test]
    fn a_guest_that_does_not_must_have_large_buffers() {
        let memory = memory();
        let (mut receive, mut transmit) = (Driver::new(&memory, 0x1000, 8), Driver::new(&memory, 0x8000, 8));
        let (mut net, frames) = net();
        net.negotiated(1 << VIRTIO_NET_F_GUEST_CSUM);
        frames.lock().unwrap().to_give.push(vec![5; 50]);
        receive.add_chain(&[(0x10_0000, 12, WRITE), (0x10_1000, 100, WRITE)]);
        process(&mut net, &mut receive, &mut transmit).unwrap();
        assert_eq!(receive.take_used(), [(0, 50)]);
        assert_eq!(receive.read(0x10_000a, 2), [1, 0]);
        frames.lock().unwrap().to_give.push(vec![5; 50]);
        receive.add_chain(&[(0x10_0000, 49, WRITE)]);
        let error = process(&mut net, &mut receive, &mut transmit).unwrap_err();
        assert!(matches!(error, DeviceError::Guest(QueueError::BufferTooSmall { need: 50, .. })), "{error}");
    }

    #[test]
    fn the_configuration_is_that_of_the_specification() {
        let (net, _) = net();
        assert_eq!(net.config(), [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5]);
        assert!(net.event_source().is_some());
    }
}
