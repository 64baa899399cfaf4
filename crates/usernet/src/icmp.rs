//! ICMP (RFC 792, RFC 4443): pings, and the word that something cannot be reached.

use std::io;
use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::IpProtocol;

use crate::checksum;
use crate::config::{Config, Destination};
use crate::datagram::{Datagrams, Key, Kind};
use crate::outbox::{IPV4_BYTES, IPV6_BYTES, Outbox, UDP_BYTES, write_ip_header};
use crate::packet::Packet;
use crate::poller::Poller;

/// Type, code, checksum, and four bytes that depend on the type.
pub(crate) const ICMP_BYTES: usize = 8;
const HOP_LIMIT: u8 = 64;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;
const UNREACHABLE_V6: u8 = 1;
const ECHO_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// What of a packet is sent back to say what could not be reached: all messages fit the smallest MTU.
const QUOTE_V4: usize = 548;
const QUOTE_V6: usize = 1232;

/// Why something cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Network,
    Host,
    Port,
    Prohibited,
}

impl Unreachable {
    /// What the host's kernel says of a socket, in these terms.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            libc::ECONNREFUSED => Some(Unreachable::Port),
            libc::EHOSTUNREACH | libc::EHOSTDOWN => Some(Unreachable::Host),
            libc::ENETUNREACH | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::ENETDOWN => {
                Some(Unreachable::Network)
            }
            libc::EACCES | libc::EPERM => Some(Unreachable::Prohibited),
            _ => None,
        }
    }

    fn code(self, v6: bool) -> u8 {
        match self {
            Unreachable::Network => 0,
            Unreachable::Host => {
                if v6 {
                    3
                } else {
                    1
                }
            }
            Unreachable::Port => {
                if v6 {
                    4
                } else {
                    3
                }
            }
            Unreachable::Prohibited => {
                if v6 {
                    1
                } else {
                    13
                }
            }
        }
    }
}

/// Tells the guest that `packet`, which it sent, did not get where it should.
pub(crate) fn unreachable(config: &Config, packet: &[u8], why: Unreachable, out: &mut Outbox<'_>) {
    let Some(lost) = Packet::parse(packet) else { return };
    let v6 = lost.source.is_ipv6();
    let router = if v6 { config.gateway_v6().into() } else { IpAddr::V4(config.gateway) };
    // That a port is closed is said by who has the port.
    let source = if why == Unreachable::Port { lost.target } else { router };
    let quote = &lost.bytes[..lost.bytes.len().min(if v6 { QUOTE_V6 } else { QUOTE_V4 })];
    let kind = if v6 { UNREACHABLE_V6 } else { UNREACHABLE };
    send(source, lost.source, (kind, why.code(v6)), [0; 4], quote, out);
}

/// The same for a datagram that is gone, of which the ends are known.
pub(crate) fn datagram_unreachable(
    config: &Config,
    guest: SocketAddr,
    peer: SocketAddr,
    why: Unreachable,
    out: &mut Outbox<'_>,
) {
    let ip_bytes = if guest.is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
    let mut packet = [0; IPV6_BYTES + UDP_BYTES];
    let packet = &mut packet[..ip_bytes + UDP_BYTES];
    write_ip_header(packet, guest.ip(), peer.ip(), IpProtocol::Udp, HOP_LIMIT);
    let header = &mut packet[ip_bytes..];
    header[0..2].copy_from_slice(&guest.port().to_be_bytes());
    header[2..4].copy_from_slice(&peer.port().to_be_bytes());
    header[5] = 8;
    unreachable(config, packet, why, out);
}

/// Sends a message to the guest.
fn send(
    source: IpAddr,
    target: IpAddr,
    (kind, code): (u8, u8),
    rest: [u8; 4],
    data: &[u8],
    out: &mut Outbox<'_>,
) {
    let v6 = source.is_ipv6();
    let protocol = if v6 { IpProtocol::Icmpv6 } else { IpProtocol::Icmp };
    out.packet(source, target, protocol, HOP_LIMIT, ICMP_BYTES + data.len(), |message| {
        message[..4].copy_from_slice(&[kind, code, 0, 0]);
        message[4..8].copy_from_slice(&rest);
        message[8..].copy_from_slice(data);
        let sum =
            if v6 { checksum::pseudo_header(source, target, protocol.into(), message.len()) } else { 0 };
        let sum = !checksum::fold(checksum::add(sum, message));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    });
}

/// Takes an ICMP message of the guest. Only pings lead anywhere.
pub(crate) fn take(
    config: &Config,
    packet: &Packet<'_>,
    datagrams: &mut Datagrams,
    poller: &mut Poller,
    out: &mut Outbox<'_>,
) {
    let v6 = packet.source.is_ipv6();
    let (echo, reply) = if v6 { (ECHO_V6, ECHO_REPLY_V6) } else { (ECHO, ECHO_REPLY) };
    let Some((&[kind, 0, _, _, id_high, id_low, sequence_high, sequence_low], data)) =
        packet.payload.split_first_chunk::<ICMP_BYTES>()
    else {
        return;
    };
    if kind != echo {
        return;
    }
    match config.destination(packet.target) {
        // These are here: whoever answers is the one who was asked.
        Destination::Gateway | Destination::Host => {
            let rest = [id_high, id_low, sequence_high, sequence_low];
            send(packet.target, packet.source, (reply, 0), rest, data, out);
        }
        Destination::Outside => {
            let key = Key {
                kind: Kind::Ping,
                guest: SocketAddr::new(packet.source, u16::from_be_bytes([id_high, id_low])),
                peer: SocketAddr::new(packet.target, 0),
            };
            if let Err(error) = datagrams.send(config, key, packet.payload, poller)
                && let Some(why) = Unreachable::of(&error)
            {
                unreachable(config, packet.bytes, why, out);
            }
        }
        Destination::Nobody => unreachable(config, packet.bytes, Unreachable::Host, out),
        Destination::None => {}
    }
}

/// Gives an answer to a ping, as it came from the host's kernel, to the guest that asked under its own identifier.
pub(crate) fn answer(key: &Key, message: &[u8], out: &mut Outbox<'_>) {
    let reply = if key.guest.is_ipv6() { ECHO_REPLY_V6 } else { ECHO_REPLY };
    let Some((&[kind, 0, _, _, _, _, sequence_high, sequence_low], data)) =
        message.split_first_chunk::<ICMP_BYTES>()
    else {
        return;
    };
    if kind == reply {
        let [id_high, id_low] = key.guest.port().to_be_bytes();
        let rest = [id_high, id_low, sequence_high, sequence_low];
        send(key.peer.ip(), key.guest.ip(), (reply, 0), rest, data, out);
    }
}
