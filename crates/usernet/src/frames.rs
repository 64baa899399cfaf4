//! Frames, and what carries them.
//!
//! A frame is an Ethernet frame behind a virtio-net header (virtio 1.2, section 5.1.6): [`HEADER_BYTES`] bytes, little
//! endian, by which either side leaves checksums and the cutting into segments to the other. A frame of TCP data is so
//! up to 64 KiB long whatever the link's MTU is, which is what makes this network fast: a packet costs the same whether it
//! is short or long.

use std::io;

/// Bytes of the header before each frame: `struct virtio_net_hdr_v1`.
pub const HEADER_BYTES: usize = 12;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET_BYTES: usize = 14;

/// The longest frame with its header: that of the longest IP packet.
pub const FRAME_BYTES: usize = HEADER_BYTES + ETHERNET_BYTES + 65_535;

/// What the guest's side of a link takes off our hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// Takes packets whose TCP or UDP checksum is yet to be completed (`VIRTIO_NET_F_GUEST_CSUM`).
    pub checksum: bool,
    /// Takes TCP packets over IPv4 that are longer than its maximum segment size (`VIRTIO_NET_F_GUEST_TSO4`).
    pub tso4: bool,
    /// The same over IPv6.
    pub tso6: bool,
}

/// The guest's link. All calls come from [`Network::exchange`](crate::Network::exchange).
pub trait Frames {
    /// Takes the next frame of the guest into `frame`, which has [`FRAME_BYTES`]; returns its length with its header.
    /// `None` if there is none now. A frame that is longer is dropped by the link.
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>>;

    /// Gives a frame with its header to the guest. False if the guest has no room for it now: the same frame is given
    /// again at the next exchange, which MUST come about when there is room.
    fn send(&mut self, frame: &[u8]) -> io::Result<bool>;

    /// What may be left to the guest.
    fn offloads(&self) -> Offloads;
}

/// What the header says of a packet that goes to the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Where the checksummed part of the frame begins, and how far behind it the checksum is.
    pub(crate) checksum: Option<(u16, u16)>,
    /// The segments' size, and the length of all headers before the data.
    pub(crate) segments: Option<Segments>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segments {
    pub(crate) v6: bool,
    pub(crate) headers: u16,
    pub(crate) size: u16,
}

const NEEDS_CHECKSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        if let Some((start, offset)) = self.checksum {
            bytes[0] = NEEDS_CHECKSUM;
            bytes[6..8].copy_from_slice(&start.to_le_bytes());
            bytes[8..10].copy_from_slice(&offset.to_le_bytes());
        }
        if let Some(segments) = self.segments {
            bytes[1] = if segments.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
            bytes[2..4].copy_from_slice(&segments.headers.to_le_bytes());
            bytes[4..6].copy_from_slice(&segments.size.to_le_bytes());
        }
        // One buffer holds the frame; a device that spreads it over more writes how many.
        bytes[10] = 1;
        bytes
    }
}
