//! UDP (RFC 768): each pair of ends is a conversation with a socket of its own, so that an answer comes only from who was
//! asked, and a closed port is told of.

use std::net::SocketAddr;

use crate::config::{Config, Destination};
use crate::datagram::{Datagrams, Key, Kind};
use crate::icmp::{Unreachable, unreachable};
use crate::outbox::Outbox;
use crate::packet::Packet;
use crate::poller::Poller;

/// Takes a datagram that is for nobody on the link.
pub(crate) fn take(
    config: &Config,
    packet: &Packet<'_>,
    (guest, peer): (SocketAddr, SocketAddr),
    payload: &[u8],
    datagrams: &mut Datagrams,
    poller: &mut Poller,
    out: &mut Outbox<'_>,
) {
    match config.destination(peer.ip()) {
        Destination::Host | Destination::Outside => {
            if peer.port() == 0 {
                return;
            }
            let key = Key { kind: Kind::Udp, guest, peer };
            if let Err(error) = datagrams.send(config, key, payload, poller)
                && let Some(why) = Unreachable::of(&error)
            {
                unreachable(config, packet.bytes, why, out);
            }
        }
        Destination::Gateway => unreachable(config, packet.bytes, Unreachable::Port, out),
        Destination::Nobody => unreachable(config, packet.bytes, Unreachable::Host, out),
        Destination::None => {}
    }
}
