//! Virtio devices (Virtual I/O Device, OASIS, version 1.2).
//!
//! A device is a state machine over its queues. It is driven by a transport, which owns the queues' addresses and the
//! notifications, and it never learns which one: the same code serves an emulator in another process and, later, CPUs
//! in this one. To add a device: a folder like `rng/`, a line below, a line in `builder.rs`.

use std::io;
use std::os::fd::BorrowedFd;

pub mod blk;
pub mod net;
pub mod queue;
pub mod rng;
pub mod vsock;

pub use queue::{Chain, QueueError, VirtQueue};

/// The size of every queue. It is not ours to choose: QEMU's virtio-mmio offers this to the driver whatever the device
/// would have.
pub const QUEUE_SIZE: u16 = 1024;

/// Queues that any device of ours may have.
pub const MAX_QUEUES: usize = 8;

/// What a device did with the queues it was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All work that is possible was done. Call again after a kick or an event.
    Idle,
    /// There is more to do. Call again soon; other descriptors of the event loop come first.
    Again,
}

/// Why a device cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The guest broke the rules of a queue. Its driver must reset the device; the machine lives on.
    #[error("the guest's driver broke a virtqueue")]
    Guest(#[from] QueueError),
    /// The host failed us. The machine has to end.
    #[error("{what}")]
    Host { what: &'static str, source: io::Error },
}

/// A virtio device, as a transport drives it.
///
/// All calls come from one thread. What the guest supplies is checked by the device: a transport checks nothing.
pub trait VirtioDevice: Send {
    /// The device's name in messages and thread names, 8 bytes at most.
    fn name(&self) -> &str;

    /// Feature bits of the device type (section 5, bits 0 to 23). The transport adds those of the ring and itself.
    fn features(&self) -> u64;

    /// What the driver took of the features, before it starts a queue.
    fn negotiated(&mut self, _features: u64) {}

    /// The largest size of each queue, in order. Each is a power of two; there are at most [`MAX_QUEUES`].
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space, as the guest reads it (little endian).
    fn config(&self) -> &[u8];

    /// A descriptor that becomes readable when the device wants [`process`](Self::process) to be called though no
    /// queue was kicked. It MUST stay the same for the device's life.
    fn event_source(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Does all work at hand. Called after a kick of any queue and when the event source is readable.
    ///
    /// `queues` has as many entries as [`queue_sizes`](Self::queue_sizes); those the driver did not start are empty.
    fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError>;

    /// Forgets everything that came from the driver: it has stopped the device or broken it.
    fn reset(&mut self);
}
