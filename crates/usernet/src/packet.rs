//! A packet of the guest, taken apart. Everything here comes from the guest and is checked before it is believed.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6Packet, TcpPacket, UdpPacket};

use crate::outbox::IPV6_BYTES;

/// An IP packet that is whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) target: IpAddr,
    pub(crate) protocol: IpProtocol,
    pub(crate) hop_limit: u8,
    /// What is behind the headers.
    pub(crate) payload: &'a [u8],
    /// The packet with its headers, without what the frame may have behind it.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// `None` for what is no IP packet, lies about its length, or is a fragment.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Self> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        if packet.header_len() < 20 || packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        Some(Packet {
            source: packet.src_addr().into(),
            target: packet.dst_addr().into(),
            protocol: packet.next_header(),
            hop_limit: packet.hop_limit(),
            payload: packet.payload(),
            bytes: bytes.get(..usize::from(packet.total_len()))?,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Self> {
        let packet = Ipv6Packet::new_checked(bytes).ok()?;
        let (mut protocol, mut payload) = (packet.next_header(), packet.payload());
        // The only extension that a host sends unasked: what it reports of its multicast groups is no concern here, but
        // what follows may be.
        if protocol == IpProtocol::HopByHop {
            let extension = Ipv6ExtHeader::new_checked(payload).ok()?;
            protocol = extension.next_header();
            payload = payload.get((usize::from(extension.header_len()) + 1) * 8..)?;
        }
        Some(Packet {
            source: packet.src_addr().into(),
            target: packet.dst_addr().into(),
            protocol,
            hop_limit: packet.hop_limit(),
            payload,
            bytes: bytes.get(..packet.total_len())?,
        })
    }

    /// The ports of a TCP segment or UDP datagram, with their addresses: the guest's and the other's.
    fn endpoints(&self, source: u16, target: u16) -> (SocketAddr, SocketAddr) {
        (SocketAddr::new(self.source, source), SocketAddr::new(self.target, target))
    }

    /// The packet as a TCP segment.
    pub(crate) fn tcp(&self) -> Option<Segment> {
        let segment = TcpPacket::new_checked(self.payload).ok()?;
        let (guest, peer) = self.endpoints(segment.src_port(), segment.dst_port());
        if guest.port() == 0 || peer.port() == 0 {
            return None;
        }
        let opens = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
        let agrees = segment.syn() && segment.ack() && !segment.rst() && !segment.fin();
        let smoltcp::wire::TcpSeqNumber(sequence) = segment.seq_number();
        Some(Segment {
            guest,
            peer,
            opens,
            agrees,
            resets: segment.rst(),
            sequence: sequence.cast_unsigned(),
            len: segment.payload().len(),
        })
    }

    /// The packet with no more than the first `keep` bytes of its TCP segment's data.
    pub(crate) fn cut(&self, keep: usize) -> Option<Vec<u8>> {
        const FLAGS_AT: usize = 13;
        const FIN: u8 = 1;
        let segment_at = self.bytes.len() - self.payload.len();
        let header_bytes = usize::from(TcpPacket::new_checked(self.payload).ok()?.header_len());
        let len = segment_at + header_bytes + keep;
        if len >= self.bytes.len() {
            return Some(self.bytes.to_vec());
        }
        let mut cut = self.bytes[..len].to_vec();
        // What ends the data comes behind it.
        cut[segment_at + FLAGS_AT] &= !FIN;
        match self.source {
            IpAddr::V4(_) => {
                let mut packet = Ipv4Packet::new_unchecked(&mut cut);
                packet.set_total_len(u16::try_from(len).ok()?);
                packet.fill_checksum();
            }
            IpAddr::V6(_) => {
                let payload = len.checked_sub(IPV6_BYTES)?;
                Ipv6Packet::new_unchecked(&mut cut).set_payload_len(u16::try_from(payload).ok()?);
            }
        }
        Some(cut)
    }

    /// The packet as a UDP datagram: the guest's end, the other, what it carries.
    pub(crate) fn udp(&self) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
        let datagram = UdpPacket::new_checked(self.payload).ok()?;
        let (guest, peer) = self.endpoints(datagram.src_port(), datagram.dst_port());
        Some((guest, peer, datagram.payload()))
    }
}

/// What is to be known of a TCP segment before its connection is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) guest: SocketAddr,
    pub(crate) peer: SocketAddr,
    /// Asks for a connection.
    pub(crate) opens: bool,
    /// Agrees to one.
    pub(crate) agrees: bool,
    pub(crate) resets: bool,
    /// The number of its first byte, or of what opens or ends.
    pub(crate) sequence: u32,
    /// Bytes of data.
    pub(crate) len: usize,
}
