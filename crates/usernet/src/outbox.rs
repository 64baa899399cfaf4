//! Frames on their way to the guest: headers are put before packets here, and nowhere else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr,
};

use crate::checksum;
use crate::config::Mac;
use crate::frames::{ETHERNET_BYTES, FRAME_BYTES, Frames, HEADER_BYTES, Header, Offloads, Segments};

/// Where an IP packet begins in a frame.
const PACKET_AT: usize = HEADER_BYTES + ETHERNET_BYTES;
pub(crate) const IPV4_BYTES: usize = 20;
pub(crate) const IPV6_BYTES: usize = 40;
pub(crate) const UDP_BYTES: usize = 8;
pub(crate) const HOP_LIMIT: u8 = 64;

/// What lasts between exchanges.
pub(crate) struct Stock {
    buffer: Box<[u8]>,
    /// The length of a frame in `buffer` that the guest had no room for.
    held: Option<usize>,
    gateway: Mac,
    /// The guest's Ethernet address, once it has sent something.
    pub(crate) guest: Option<Mac>,
    mtu: u16,
}

impl Stock {
    pub(crate) fn new(gateway: Mac, mtu: u16) -> Self {
        Stock { buffer: vec![0; FRAME_BYTES].into(), held: None, gateway, guest: None, mtu }
    }

    /// Forgets what the guest had no room for, and the guest.
    pub(crate) fn reset(&mut self) {
        self.held = None;
        self.guest = None;
    }
}

/// The way to the guest during one exchange.
pub(crate) struct Outbox<'a> {
    stock: &'a mut Stock,
    frames: &'a mut dyn Frames,
    offloads: Offloads,
    /// The link failed. Told at the exchange's end.
    failure: Option<io::Error>,
}

impl<'a> Outbox<'a> {
    pub(crate) fn new(stock: &'a mut Stock, frames: &'a mut dyn Frames) -> Self {
        let offloads = frames.offloads();
        Outbox { stock, frames, offloads, failure: None }
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        self.failure.map_or(Ok(()), Err)
    }

    pub(crate) fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        self.frames.receive(frame)
    }

    pub(crate) fn offloads(&self) -> Offloads {
        self.offloads
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.stock.mtu
    }

    /// Who the guest says it is on the link.
    pub(crate) fn know_guest(&mut self, address: Mac) {
        self.stock.guest = Some(address);
    }

    /// Whether a frame may be given now. What is given without is lost.
    pub(crate) fn has_room(&mut self) -> bool {
        if let Some(len) = self.stock.held {
            self.stock.held = None;
            self.send(len);
        }
        self.stock.held.is_none() && self.failure.is_none()
    }

    fn send(&mut self, len: usize) {
        match self.frames.send(&self.stock.buffer[..len]) {
            Ok(true) => {}
            Ok(false) => self.stock.held = Some(len),
            Err(error) => self.failure = Some(error),
        }
    }

    /// Gives a frame of `len` bytes behind its Ethernet header, which `fill` writes.
    fn frame(
        &mut self,
        target: Mac,
        protocol: EthernetProtocol,
        len: usize,
        header: Header,
        fill: impl FnOnce(&mut [u8]),
    ) {
        if !self.has_room() || PACKET_AT + len > FRAME_BYTES {
            return;
        }
        fill(&mut self.stock.buffer[PACKET_AT..PACKET_AT + len]);
        self.seal(target, protocol, len, header);
    }

    /// Puts the headers before what is in the buffer already, and gives it.
    fn seal(&mut self, target: Mac, protocol: EthernetProtocol, len: usize, header: Header) {
        self.stock.buffer[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        let repr = EthernetRepr {
            src_addr: EthernetAddress(self.stock.gateway),
            dst_addr: EthernetAddress(target),
            ethertype: protocol,
        };
        repr.emit(&mut EthernetFrame::new_unchecked(&mut self.stock.buffer[HEADER_BYTES..PACKET_AT]));
        self.send(PACKET_AT + len);
    }

    /// Gives something that is not IP.
    pub(crate) fn raw(
        &mut self,
        target: Mac,
        protocol: EthernetProtocol,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        self.frame(target, protocol, len, Header::default(), fill);
    }

    /// Gives an IP packet with `len` bytes behind its header, which `fill` writes, checksum and all.
    pub(crate) fn packet(
        &mut self,
        source: IpAddr,
        target: IpAddr,
        protocol: IpProtocol,
        hop_limit: u8,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let link = self.stock.guest.unwrap_or([0xff; 6]);
        let Some(header_bytes) = ip_header_bytes(source, target) else { return };
        self.frame(link, ethertype(source), header_bytes + len, Header::default(), |packet| {
            write_ip_header(packet, source, target, protocol, hop_limit);
            fill(&mut packet[header_bytes..]);
        });
    }

    /// Gives a UDP datagram to everyone on the link, for a guest without an address.
    pub(crate) fn broadcast_udp(&mut self, source: SocketAddr, port: u16, payload: &[u8]) {
        let target = SocketAddr::new(Ipv4Addr::BROADCAST.into(), port);
        let guest = self.stock.guest.replace([0xff; 6]);
        self.udp(source, target, payload);
        self.stock.guest = guest;
    }

    /// Gives a UDP datagram.
    pub(crate) fn udp(&mut self, source: SocketAddr, target: SocketAddr, payload: &[u8]) {
        let filled = self.udp_from(source, target, |room| {
            let room = room.get_mut(..payload.len()).ok_or(io::ErrorKind::FileTooLarge)?;
            room.copy_from_slice(payload);
            Ok(payload.len())
        });
        if let Err(error) = filled {
            tracing::debug!(%error, "a datagram does not fit the link");
        }
    }

    /// Gives a UDP datagram whose payload `fill` writes; it tells the length, or why there is none. One that is longer than
    /// the room it was given is dropped.
    ///
    /// # Errors
    /// Those of `fill`.
    pub(crate) fn udp_from(
        &mut self,
        source: SocketAddr,
        target: SocketAddr,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let Some(ip_bytes) = ip_header_bytes(source.ip(), target.ip()) else { return Ok(()) };
        if !self.has_room() {
            return Ok(());
        }
        let payload_at = ip_bytes + UDP_BYTES;
        let packet = &mut self.stock.buffer[PACKET_AT..PACKET_AT + usize::from(self.stock.mtu)];
        let len = fill(&mut packet[payload_at..])?;
        if len > packet.len() - payload_at {
            tracing::debug!(len, "a datagram for the guest is longer than its link takes");
            return Ok(());
        }
        let packet = &mut packet[..payload_at + len];
        let datagram_bytes = UDP_BYTES + len;
        write_ip_header(packet, source.ip(), target.ip(), IpProtocol::Udp, HOP_LIMIT);
        let datagram = &mut packet[ip_bytes..];
        datagram[0..2].copy_from_slice(&source.port().to_be_bytes());
        datagram[2..4].copy_from_slice(&target.port().to_be_bytes());
        // It fits: an MTU has 16 bits.
        datagram[4..6].copy_from_slice(&u16::try_from(datagram_bytes).unwrap_or(u16::MAX).to_be_bytes());
        let header = put_checksum(datagram, 6, source.ip(), target.ip(), IpProtocol::Udp, self.offloads);
        let link = self.stock.guest.unwrap_or([0xff; 6]);
        self.seal(link, ethertype(source.ip()), payload_at + len, header);
        Ok(())
    }

    /// Gives a TCP packet of `len` bytes with its IP header, all of which `fill` writes but for the checksums. If
    /// `segment` is given, the packet is for the guest to be cut into segments with so many bytes of data.
    pub(crate) fn tcp<R>(
        &mut self,
        len: usize,
        segment: Option<u16>,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let held = !self.has_room();
        // The caller has asked for room; what comes without is written where it does no harm.
        let mut lost = if held { vec![0; len] } else { Vec::new() };
        let packet = if held { &mut lost[..] } else { &mut self.stock.buffer[PACKET_AT..PACKET_AT + len] };
        let result = fill(packet);
        if held {
            return result;
        }
        if let Some((header, protocol)) = finish_tcp(packet, segment, self.offloads) {
            let link = self.stock.guest.unwrap_or([0xff; 6]);
            self.seal(link, protocol, len, header);
        }
        result
    }
}

fn ethertype(address: IpAddr) -> EthernetProtocol {
    if address.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 }
}

fn ip_header_bytes(source: IpAddr, target: IpAddr) -> Option<usize> {
    match (source, target) {
        (IpAddr::V4(_), IpAddr::V4(_)) => Some(IPV4_BYTES),
        (IpAddr::V6(_), IpAddr::V6(_)) => Some(IPV6_BYTES),
        _ => None,
    }
}

/// Writes the IP header of `packet`, which is as long as header and payload.
pub(crate) fn write_ip_header(
    packet: &mut [u8],
    source: IpAddr,
    target: IpAddr,
    protocol: IpProtocol,
    hop_limit: u8,
) {
    match (source, target) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let payload_len = packet.len().saturating_sub(IPV4_BYTES);
            let repr = Ipv4Repr { src_addr, dst_addr, next_header: protocol, payload_len, hop_limit };
            repr.emit(&mut Ipv4Packet::new_unchecked(packet), &ChecksumCapabilities::default());
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let payload_len = packet.len().saturating_sub(IPV6_BYTES);
            let repr = Ipv6Repr { src_addr, dst_addr, next_header: protocol, payload_len, hop_limit };
            repr.emit(&mut Ipv6Packet::new_unchecked(packet));
        }
        _ => {}
    }
}

/// Fills in a checksum at `at` in a UDP datagram or TCP segment: the whole of it, or for a guest that completes it the
/// pseudo header's.
fn put_checksum(
    segment: &mut [u8],
    at: u16,
    source: IpAddr,
    target: IpAddr,
    protocol: IpProtocol,
    offloads: Offloads,
) -> Header {
    let field = usize::from(at)..usize::from(at) + 2;
    segment[field.clone()].fill(0);
    let pseudo = checksum::pseudo_header(source, target, protocol.into(), segment.len());
    if offloads.checksum {
        segment[field].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
        let ip_bytes = if source.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
        let start = u16::try_from(ETHERNET_BYTES + ip_bytes).unwrap_or(u16::MAX);
        return Header { checksum: Some((start, at)), segments: None };
    }
    let sum = !checksum::fold(checksum::add(pseudo, segment));
    // In UDP, zero says that there is none; it has another spelling.
    let sum = if sum == 0 && protocol == IpProtocol::Udp { 0xffff } else { sum };
    segment[field].copy_from_slice(&sum.to_be_bytes());
    Header::default()
}

/// Fills in the checksums of a TCP packet of ours.
fn finish_tcp(
    packet: &mut [u8],
    segment: Option<u16>,
    offloads: Offloads,
) -> Option<(Header, EthernetProtocol)> {
    const CHECKSUM_AT: u16 = 16;
    const DATA_OFFSET_AT: usize = 12;
    let v6 = packet.first()? >> 4 == 6;
    let (source, target, ip_bytes): (IpAddr, IpAddr, usize) = if v6 {
        let ip = Ipv6Packet::new_checked(&*packet).ok()?;
        (ip.src_addr().into(), ip.dst_addr().into(), IPV6_BYTES)
    } else {
        let mut ip = Ipv4Packet::new_checked(&mut *packet).ok()?;
        ip.fill_checksum();
        (ip.src_addr().into(), ip.dst_addr().into(), IPV4_BYTES)
    };
    let payload = packet.get_mut(ip_bytes..)?;
    let tcp_bytes = usize::from(payload.get(DATA_OFFSET_AT)? >> 4) * 4;
    let mut header = put_checksum(payload, CHECKSUM_AT, source, target, IpProtocol::Tcp, offloads);
    let headers = u16::try_from(ETHERNET_BYTES + ip_bytes + tcp_bytes).ok()?;
    header.segments = segment.map(|size| Segments { v6, headers, size });
    Some((header, ethertype(source)))
}
