//! IPv6 on the link (RFC 4861): the router advertises itself and the network in which the guest makes its addresses, and
//! answers for its own and the host's address.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, NdiscNeighborFlags, NdiscPrefixInfoFlags,
    NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags, RawHardwareAddress,
};

use crate::config::{Config, Ipv6};
use crate::outbox::Outbox;
use crate::packet::Packet;
use crate::sys;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What crossed a router has less: such a packet is none of this link's.
const HOP_LIMIT: u8 = 255;
/// How often the advertisement is repeated, so that the guest hears when the host's way to the internet comes or goes.
const INTERVAL: std::time::Duration = std::time::Duration::from_secs(600);
/// How long it holds.
const ROUTER_LIFETIME: Duration = Duration::from_secs(1800);
/// As long as anybody asks: the value that means for ever.
const PREFIX_LIFETIME: Duration = Duration::from_secs(0xffff_ffff);

/// The router's part that lasts.
#[derive(Default)]
pub(crate) struct Router {
    /// When the next advertisement is due that nobody asked for: the first one is always asked for.
    next: Option<Instant>,
}

impl Router {
    /// Takes a packet that is of this protocol; false if it is not.
    pub(crate) fn take(
        &mut self,
        config: &Config,
        packet: &Packet<'_>,
        out: &mut Outbox<'_>,
        now: Instant,
    ) -> bool {
        let (IpAddr::V6(source), IpAddr::V6(target)) = (packet.source, packet.target) else { return false };
        let Ok(message) = Icmpv6Packet::new_checked(packet.payload) else { return false };
        let Ok(Icmpv6Repr::Ndisc(message)) =
            Icmpv6Repr::parse(&source, &target, &message, &ChecksumCapabilities::ignored())
        else {
            return false;
        };
        // Who has no address yet asks without one.
        let forged = !source.is_unspecified() && !config.may_be_the_guests(packet.source);
        if packet.hop_limit != HOP_LIMIT || forged {
            return true;
        }
        match message {
            NdiscRepr::RouterSolicit { .. } => {
                self.next = Some(now + INTERVAL);
                advertise(config, ALL_NODES, out);
            }
            NdiscRepr::NeighborSolicit { target_addr, .. } => answer(config, source, target_addr, out),
            _ => {}
        }
        true
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Repeats the advertisement when it is time.
    pub(crate) fn expire(&mut self, config: &Config, out: &mut Outbox<'_>, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            self.next = Some(now + INTERVAL);
            advertise(config, ALL_NODES, out);
        }
    }

    pub(crate) fn reset(&mut self) {
        self.next = None;
    }
}

fn address(config: &Config) -> RawHardwareAddress {
    EthernetAddress(config.gateway_mac).into()
}

fn advertise(config: &Config, target: Ipv6Addr, out: &mut Outbox<'_>) {
    // A guest that is told of a network without a way out would try it first.
    if config.ipv6 == Ipv6::AsTheHost && !sys::has_ipv6() {
        return;
    }
    let prefix = NdiscPrefixInformation {
        prefix_len: 64,
        flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
        valid_lifetime: PREFIX_LIFETIME,
        preferred_lifetime: PREFIX_LIFETIME,
        prefix: config.prefix_v6,
    };
    let advertisement = NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: ROUTER_LIFETIME,
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: Some(address(config)),
        mtu: Some(config.mtu.into()),
        prefix_info: Some(prefix),
    };
    send(config.gateway_link_local(), target, advertisement, out);
}

fn answer(config: &Config, asks: Ipv6Addr, wanted: Ipv6Addr, out: &mut Outbox<'_>) {
    if !config.is_gateway(wanted.into()) && !config.is_host(wanted.into()) {
        return;
    }
    // Who wants to know whether the address is free has none, and is told with everyone.
    let (target, solicited) = if asks.is_unspecified() {
        (ALL_NODES, NdiscNeighborFlags::empty())
    } else {
        (asks, NdiscNeighborFlags::SOLICITED)
    };
    let flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE | solicited;
    let advertisement =
        NdiscRepr::NeighborAdvert { flags, target_addr: wanted, lladdr: Some(address(config)) };
    send(wanted, target, advertisement, out);
}

fn send(source: Ipv6Addr, target: Ipv6Addr, message: NdiscRepr<'_>, out: &mut Outbox<'_>) {
    let message = Icmpv6Repr::Ndisc(message);
    let len = message.buffer_len();
    out.packet(source.into(), target.into(), IpProtocol::Icmpv6, HOP_LIMIT, len, |bytes| {
        // Reserved fields are left as they are by what follows.
        bytes.fill(0);
        message.emit(
            &source,
            &target,
            &mut Icmpv6Packet::new_unchecked(bytes),
            &ChecksumCapabilities::default(),
        );
    });
}
