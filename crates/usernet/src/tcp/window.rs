//! How much the guest may send. smoltcp tells it of all room in a connection's ring; here that is made less where the
//! budget has less, and what the guest sends beyond is cut off before it takes memory.
//!
//! Sequence numbers are those of the guest's bytes (RFC 9293, section 3.4) and wrap.

use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpOption, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::outbox::{HOP_LIMIT, IPV4_BYTES, IPV6_BYTES, Outbox};

/// A window that has become larger by less is not worth a packet.
const WORTH_TELLING: usize = 2048;

pub(super) struct Window {
    /// Up to where the guest may send.
    edge: u32,
    /// Up to where it was told that it may.
    told: u32,
    /// By how many bits windows are shifted (RFC 7323).
    shift: u8,
    /// Behind the last of our own bytes, and of the guest's that we said to have.
    sent: u32,
    acknowledged: u32,
}

/// How far `to` is behind `from`; less than nothing if it is before it.
pub(super) fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

impl Window {
    pub(super) fn new(first: u32) -> Self {
        Window { edge: first, told: first, shift: 0, sent: 0, acknowledged: first }
    }

    /// Learns the first number of a guest that was asked for a connection, from the segment that agrees to it.
    pub(super) fn agreed(&mut self, segment: &[u8], first: u32) {
        // Windows are shifted if both want it.
        let shifts =
            TcpPacket::new_checked(segment).is_ok_and(|segment| shift_of(segment.options()).is_some());
        let shift = if shifts { self.shift } else { 0 };
        *self = Window { shift, sent: self.sent, ..Window::new(first) };
    }

    /// Sets how many bytes the guest may send behind `next`, the first that is not here.
    pub(super) fn set(&mut self, next: u32, room: usize) {
        self.edge = next.wrapping_add(u32::try_from(room).unwrap_or(0));
    }

    /// Looks at a packet that smoltcp sends, and makes its window less.
    pub(super) fn limit(&mut self, packet: &mut [u8]) {
        let ip_bytes =
            if packet.first().is_some_and(|byte| byte >> 4 == 6) { IPV6_BYTES } else { IPV4_BYTES };
        let Some(Ok(mut segment)) = packet.get_mut(ip_bytes..).map(TcpPacket::new_checked) else { return };
        if segment.rst() {
            return;
        }
        let TcpSeqNumber(sequence) = segment.seq_number();
        let end = sequence.cast_unsigned().wrapping_add(u32::try_from(segment.segment_len()).unwrap_or(0));
        if segment.syn() || distance(self.sent, end) > 0 {
            self.sent = end;
        }
        if !segment.ack() {
            // It asks for a connection, and is answered without data.
            self.shift = shift_of(segment.options_mut()).unwrap_or(0);
            return;
        }
        let TcpSeqNumber(acknowledged) = segment.ack_number();
        self.acknowledged = acknowledged.cast_unsigned();
        // The window of the first packet is not shifted, but says how those after it are.
        let shift = if segment.syn() { 0 } else { self.shift };
        let offered = u32::from(segment.window_len()) << shift;
        let allowed = u32::try_from(distance(self.acknowledged, self.edge)).unwrap_or(0);
        let window = u16::try_from(offered.min(allowed) >> shift).unwrap_or(u16::MAX);
        segment.set_window_len(window);
        self.told = self.acknowledged.wrapping_add(u32::from(window) << shift);
        if segment.syn() {
            self.shift = shift_of(segment.options_mut()).unwrap_or(0);
        }
    }

    /// Tells the guest that it may send more, if that is much more than it knows. `next` is the first byte that is not
    /// here. smoltcp does so for a window that it made small itself.
    pub(super) fn tell(&mut self, next: u32, guest: SocketAddr, peer: SocketAddr, out: &mut Outbox<'_>) {
        let length = |edge: u32| usize::try_from(distance(next, edge)).unwrap_or(0);
        let (knows, may) = (length(self.told), length(self.edge));
        if may < WORTH_TELLING || may / 2 < knows {
            return;
        }
        let repr = TcpRepr {
            src_port: peer.port(),
            dst_port: guest.port(),
            control: TcpControl::None,
            seq_number: TcpSeqNumber(self.sent.cast_signed()),
            ack_number: Some(TcpSeqNumber(self.acknowledged.cast_signed())),
            // `limit` makes it what it is.
            window_len: u16::MAX,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (from, to) = (peer.ip().into(), guest.ip().into());
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, repr.buffer_len(), HOP_LIMIT);
        let ignored = ChecksumCapabilities::ignored();
        out.tcp(ip.buffer_len(), None, |packet| {
            ip.emit(&mut *packet, &ignored);
            let segment = &mut packet[ip.header_len()..];
            repr.emit(&mut TcpPacket::new_unchecked(segment), &from, &to, &ignored);
            self.limit(packet);
        });
    }
}

/// By how many bits the windows that follow are shifted, if that is said.
fn shift_of(mut options: &[u8]) -> Option<u8> {
    while let Ok((rest, option)) = TcpOption::parse(options) {
        match option {
            TcpOption::WindowScale(shift) => return Some(shift.min(14)),
            TcpOption::EndOfList => break,
            _ => options = rest,
        }
        if options.is_empty() {
            break;
        }
    }
    None
}
