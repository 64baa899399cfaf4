//! The socket device (section 5.10): stream connections between host and guest.
//!
//! It is the machine's only way in: clients' sockets are handed to it ([`Vsock::connect_stream`]) and come out of an
//! `AF_VSOCK` listener in the guest. So it carries everything that a socket carries: bytes both ways with
//! back-pressure, each side's half-close, resets.
//!
//! From the wire up:
//! * `packet`: headers, and packets in guest memory.
//! * `csm`: one connection's protocol state: phase, credit, which directions are closed.
//! * `host_end`: one connection's socket on the host.
//! * `connection`: the two together.
//! * `muxer`: all connections, their events, and whose turn it is to send.
//! * `handle`: how the rest of the host reaches the device.
//!
//! Bytes move between a socket and guest memory in one system call, without a copy of ours, except for small packets
//! from the guest, which are gathered, and for what the host's end does not take at once: up to
//! 256 KiB per connection, the credit that the guest is given.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use self::handle::Mailbox;
pub use self::handle::{OnConnection, Vsock};
use self::muxer::{Limits, Muxer};
use self::packet::GuestPacket;
use crate::devices::virtio::{DeviceError, Progress, QUEUE_SIZE, VirtQueue, VirtioDevice};

mod connection;
mod csm;
mod handle;
mod host_end;
mod muxer;
mod packet;
#[cfg(test)]
mod tests;

/// The host's address (VMADDR_CID_HOST).
pub const HOST_CID: u64 = 2;

/// How long the guest may take to answer a request for a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Receive, transmit, event. Nothing is ever put into the event queue: it tells of migrations.
const QUEUE_SIZES: [u16; 3] = [QUEUE_SIZE; 3];

/// Connections at a time, so that a guest cannot use up the host's memory and descriptors.
const MAX_CONNECTIONS: usize = 4096;

/// Packets taken from the guest before it is answered.
const BATCH: usize = 64;

/// Rounds of taking and sending before other descriptors of the event loop have their turn.
const ROUNDS: usize = 16;

/// The device's side of all connections.
pub struct VsockDevice {
    muxer: Muxer,
    mailbox: Arc<Mailbox>,
    config: [u8; 8],
}

impl VsockDevice {
    /// The device type of section 5.
    pub const ID: u32 = VIRTIO_ID_VSOCK;

    /// A device whose guest has the address `guest_cid`, and the host's handle to it.
    pub fn new(guest_cid: u32) -> io::Result<(Self, Vsock)> {
        let limits = Limits { connections: MAX_CONNECTIONS, connect_timeout: CONNECT_TIMEOUT };
        VsockDevice::with_limits(guest_cid, limits)
    }

    fn with_limits(guest_cid: u32, limits: Limits) -> io::Result<(Self, Vsock)> {
        let mailbox = Arc::new(Mailbox::new()?);
        let guest_cid = u64::from(guest_cid);
        let muxer = Muxer::new(guest_cid, limits, Arc::clone(&mailbox))?;
        let handle = Vsock::new(Arc::clone(&mailbox));
        Ok((VsockDevice { muxer, mailbox, config: guest_cid.to_le_bytes() }, handle))
    }
}

impl VirtioDevice for VsockDevice {
    fn name(&self) -> &str {
        "vsock"
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn event_source(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.event_fd())
    }

    fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError> {
        let [receive, transmit, ..] = queues else {
            return Ok(Progress::Idle);
        };
        for _ in 0..ROUNDS {
            let mut busy = self
                .muxer
                .poll()
                .map_err(|source| DeviceError::Host { what: "sockets cannot be watched", source })?;

            transmit.disable_kicks()?;
            for _ in 0..BATCH {
                if self.muxer.is_behind_with_resets() {
                    break;
                }
                let Some(chain) = transmit.pop()? else {
                    break;
                };
                match GuestPacket::from_chain(&chain) {
                    Some(packet) => self.muxer.receive(&packet),
                    None => tracing::debug!("the guest sent a packet that lies about its length"),
                }
                transmit.push_used(chain.head, 0)?;
                busy = true;
            }
            self.muxer.flush();
            transmit.notify()?;

            if self.muxer.wants_to_send() {
                receive.disable_kicks()?;
                busy |= self.muxer.send(receive)?;
                receive.notify()?;
            }

            if !busy {
                // Before resting: ask for the kicks that could end the rest, and look once more.
                let packets = !self.muxer.is_behind_with_resets() && transmit.enable_kicks()?;
                let buffers = self.muxer.wants_to_send() && receive.enable_kicks()?;
                if !packets && !buffers {
                    return Ok(Progress::Idle);
                }
            }
        }
        Ok(Progress::Again)
    }

    fn reset(&mut self) {
        self.muxer.forget_guest();
    }
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}
