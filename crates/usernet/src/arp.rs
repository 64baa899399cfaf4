//! Ethernet addresses for IPv4 addresses (RFC 826): the router has them all, that is, its own and the host's.

use std::net::IpAddr;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol};

use crate::config::{Config, Mac};
use crate::outbox::Outbox;

/// Answers a request for an address of ours, sent by `card`. Nobody answers for the others, as nobody has them.
pub(crate) fn take(config: &Config, card: Mac, bytes: &[u8], out: &mut Outbox<'_>) {
    let Some(answer) = ArpPacket::new_checked(bytes).ok().and_then(|packet| answer(config, card, &packet))
    else {
        return;
    };
    let ArpRepr::EthernetIpv4 { target_hardware_addr, .. } = answer else { return };
    out.raw(target_hardware_addr.0, EthernetProtocol::Arp, answer.buffer_len(), |bytes| {
        answer.emit(&mut ArpPacket::new_unchecked(bytes));
    });
}

fn answer(config: &Config, card: Mac, packet: &ArpPacket<&[u8]>) -> Option<ArpRepr> {
    let Ok(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = ArpRepr::parse(packet)
    else {
        return None;
    };
    let wanted = IpAddr::V4(target_protocol_addr);
    let ours = config.is_gateway(wanted) || config.is_host(wanted);
    // A probe (RFC 5227) comes from nobody.
    let known =
        config.may_be_the_guests(source_protocol_addr.into()) || source_protocol_addr.is_unspecified();
    (ours && known && source_hardware_addr.0 == card).then_some(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(config.gateway_mac),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    })
}
