//! Packets of the socket device (section 5.10.6): a header of 44 bytes, then the payload.

use crate::devices::virtio::{Chain, QueueError, VirtQueue};
use crate::memory::GuestBuffer;

/// Length of `struct virtio_vsock_hdr`.
pub(super) const HEADER_BYTES: usize = 44;

/// VIRTIO_VSOCK_TYPE_STREAM
pub(super) const TYPE_STREAM: u16 = 1;

/// The longest payload a guest may send in one packet; Linux cuts its streams into pieces of this size.
const MAX_PAYLOAD: usize = 64 << 10;

/// What a packet is for (section 5.10.6, VIRTIO_VSOCK_OP_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
}

impl Op {
    const ALL: [(u16, Op); 7] = [
        (1, Op::Request),
        (2, Op::Response),
        (3, Op::Reset),
        (4, Op::Shutdown),
        (5, Op::Data),
        (6, Op::CreditUpdate),
        (7, Op::CreditRequest),
    ];

    fn from_code(code: u16) -> Option<Op> {
        Op::ALL.iter().find(|(known, _)| *known == code).map(|(_, op)| *op)
    }

    fn code(self) -> u16 {
        Op::ALL.iter().find(|(_, op)| *op == self).map_or(0, |(code, _)| *code)
    }
}

/// Directions that one side declares closed (section 5.10.6.5, VIRTIO_VSOCK_SHUTDOWN_*), seen from that side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shutdown {
    /// It will receive no more.
    pub(super) receive: bool,
    /// It will send no more.
    pub(super) send: bool,
}

impl Shutdown {
    pub(super) const BOTH: Shutdown = Shutdown { receive: true, send: true };

    pub(super) fn from_flags(flags: u32) -> Self {
        Shutdown { receive: flags & 1 != 0, send: flags & 2 != 0 }
    }

    pub(super) fn flags(self) -> u32 {
        u32::from(self.receive) | u32::from(self.send) << 1
    }

    /// What both declare, together: a closed direction never opens again.
    pub(super) fn and_also(self, more: Shutdown) -> Self {
        Shutdown { receive: self.receive || more.receive, send: self.send || more.send }
    }
}

/// A packet's header. Numbers are as on the wire, except for the operation, which may be unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_cid: u64,
    pub(super) target_cid: u64,
    pub(super) source_port: u32,
    pub(super) target_port: u32,
    pub(super) len: u32,
    pub(super) kind: u16,
    /// `None`: an operation this specification does not know.
    pub(super) op: Option<Op>,
    pub(super) flags: u32,
    /// The sender's receive buffer, in bytes.
    pub(super) buffer_bytes: u32,
    /// How many bytes the sender has taken out of that buffer since the connection began, modulo 2^32.
    pub(super) forwarded: u32,
}

impl Header {
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) | u32::from(u16_at(at + 2)) << 16;
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Header {
            source_cid: u64_at(0),
            target_cid: u64_at(8),
            source_port: u32_at(16),
            target_port: u32_at(20),
            len: u32_at(24),
            kind: u16_at(28),
            op: Op::from_code(u16_at(30)),
            flags: u32_at(32),
            buffer_bytes: u32_at(36),
            forwarded: u32_at(40),
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.source_cid.to_le_bytes());
        put(8, &self.target_cid.to_le_bytes());
        put(16, &self.source_port.to_le_bytes());
        put(20, &self.target_port.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.op.map_or(0, Op::code).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buffer_bytes.to_le_bytes());
        put(40, &self.forwarded.to_le_bytes());
        bytes
    }
}

/// A packet from the guest.
pub(super) struct GuestPacket<'m> {
    pub(super) header: Header,
    pub(super) payload: GuestBuffer<'m>,
}

impl<'m> GuestPacket<'m> {
    /// Reads a packet from a chain of the transmit queue. `None` if the chain is shorter than it says or the payload
    /// is longer than allowed: such a packet is dropped.
    pub(super) fn from_chain(chain: &Chain<'m>) -> Option<Self> {
        let mut bytes = [0; HEADER_BYTES];
        if chain.readable.copy_to(&mut bytes) < HEADER_BYTES {
            return None;
        }
        let header = Header::decode(&bytes);
        let len = usize::try_from(header.len).ok().filter(|&len| len <= MAX_PAYLOAD)?;
        let payload = chain.readable.part(HEADER_BYTES, len);
        (payload.len() == len).then_some(GuestPacket { header, payload })
    }
}

/// A buffer of the receive queue, checked to hold at least a header.
pub(super) struct ReceiveBuffer<'m> {
    chain: Chain<'m>,
}

impl<'m> ReceiveBuffer<'m> {
    /// Takes the next buffer that the guest supplied.
    pub(super) fn pop(queue: &mut VirtQueue<'m>) -> Result<Option<Self>, QueueError> {
        let Some(chain) = queue.pop()? else {
            return Ok(None);
        };
        let len = chain.writable.len();
        if len <= HEADER_BYTES {
            return Err(QueueError::BufferTooSmall { queue: queue.index(), len, need: HEADER_BYTES + 1 });
        }
        Ok(Some(ReceiveBuffer { chain }))
    }

    /// Adds the space for payload, at most `limit` bytes of it, to `target`; returns how much that is.
    pub(super) fn add_payload_to(&self, target: &mut GuestBuffer<'m>, limit: usize) -> usize {
        let before = target.len();
        target.extend_from(&self.chain.writable, HEADER_BYTES, limit);
        target.len() - before
    }

    /// Completes the packet and returns the buffer to the guest. `header.len` bytes of payload MUST be in place.
    pub(super) fn finish(self, queue: &mut VirtQueue<'m>, header: &Header) -> Result<(), QueueError> {
        self.chain.writable.copy_from(&header.encode());
        let header_bytes = u32::try_from(HEADER_BYTES).unwrap_or(u32::MAX);
        queue.push_used(self.chain.head, header_bytes.saturating_add(header.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::queue::testing::{Driver, READ, memory};

    fn header() -> Header {
        Header {
            source_cid: 0x0102_0304_0506_0708,
            target_cid: 2,
            source_port: 0x1112_1314,
            target_port: 0x2122_2324,
            len: 5,
            kind: TYPE_STREAM,
            op: Some(Op::Data),
            flags: 3,
            buffer_bytes: 0x3132_3334,
            forwarded: 0x4142_4344,
        }
    }

    #[test]
    fn a_header_has_the_layout_of_the_specification() {
        let bytes = header().encode();
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[16..24], [0x14, 0x13, 0x12, 0x11, 0x24, 0x23, 0x22, 0x21]);
        assert_eq!(bytes[24..36], [5, 0, 0, 0, 1, 0, 5, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[36..], [0x34, 0x33, 0x32, 0x31, 0x44, 0x43, 0x42, 0x41]);
        assert_eq!(Header::decode(&bytes), header());
    }

    #[test]
    fn operations_survive_the_wire_and_unknown_ones_are_none() {
        for (code, op) in Op::ALL {
            assert_eq!((Op::from_code(code), op.code()), (Some(op), code));
        }
        assert_eq!((Op::from_code(0), Op::from_code(8)), (None, None));
        assert_eq!(Shutdown::from_flags(2), Shutdown { receive: false, send: true });
        assert_eq!(Shutdown::BOTH.flags(), 3);
    }

    #[test]
    fn a_payload_may_share_the_headers_buffer_or_be_scattered() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 16);
        driver.write(0x10_0000, &header().encode());
        driver.write(0x10_0000 + 44, b"hello");
        driver.write(0x20_0000, b"he");
        driver.write(0x20_0100, b"llo");
        driver.add_chain(&[(0x10_0000, 49, READ)]);
        driver.add_chain(&[(0x10_0000, 44, READ), (0x20_0000, 2, READ), (0x20_0100, 3, READ)]);
        driver.add_chain(&[(0x10_0000, 20, READ), (0x10_0014, 24, READ), (0x10_0000 + 44, 5, READ)]);
        let mut queue = driver.as_queue(0);
        for _ in 0..3 {
            let packet = GuestPacket::from_chain(&queue.pop().unwrap().unwrap()).unwrap();
            let mut payload = [0; 8];
            assert_eq!(packet.payload.copy_to(&mut payload), 5);
            assert_eq!((packet.header, &payload[..5]), (header(), &b"hello"[..]));
        }
    }

    #[test]
    fn packets_that_lie_about_their_length_are_dropped() {
        let memory = memory();
        let mut driver = Driver::new(&memory, 0x1000, 16);
        for len in [6, 64 * 1024 + 1, u32::MAX] {
            driver.write(0x10_0000, &Header { len, ..header() }.encode());
            driver.add_chain(&[(0x10_0000, 49, READ)]);
            assert!(GuestPacket::from_chain(&driver.as_queue(0).pop().unwrap().unwrap()).is_none(), "{len}");
        }
        driver.add_chain(&[(0x10_0000, 43, READ)]);
        assert!(GuestPacket::from_chain(&driver.as_queue(0).pop().unwrap().unwrap()).is_none());
    }
}
