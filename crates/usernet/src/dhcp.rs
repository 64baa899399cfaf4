//! The guest's IPv4 address (RFC 2131): there is one lease, and it is always the same.

use std::net::{Ipv4Addr, SocketAddr};

use smoltcp::wire::{DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress};

use crate::config::{Config, Mac};
use crate::outbox::Outbox;

pub(crate) const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

const OPTION_NAME_SERVERS: u8 = 6;
const OPTION_DOMAIN_NAME: u8 = 15;
const OPTION_MTU: u8 = 26;
/// RFC 3397.
const OPTION_DOMAIN_SEARCH: u8 = 119;
/// What one option holds.
const OPTION_BYTES: usize = 255;

/// Seconds of a lease that never ends: the address is the guest's as long as it lives.
const FOR_EVER: u32 = u32::MAX;

/// Takes a datagram that `card` sent to the server's port; true if the guest has its address now. `search` are the
/// host's search domains.
pub(crate) fn take(
    config: &Config,
    (card, source): (Mac, SocketAddr),
    payload: &[u8],
    search: &[String],
    out: &mut Outbox<'_>,
) -> bool {
    let Ok(packet) = DhcpPacket::new_checked(payload) else { return false };
    let Ok(request) = DhcpRepr::parse(&packet) else { return false };
    let EthernetAddress(client) = request.client_hardware_address;
    // There is no relay that would ask for somebody else.
    if client != card {
        return false;
    }
    let Some(kind) = answer_kind(config, &request) else { return false };

    let mtu = config.mtu.to_be_bytes();
    let encoded = encode_search(search);
    let name_server = config.gateway.octets();
    let mut options = vec![
        DhcpOption { kind: OPTION_NAME_SERVERS, data: &name_server },
        DhcpOption { kind: OPTION_MTU, data: &mtu },
    ];
    if let Some(first) = search.first().filter(|name| name.len() <= OPTION_BYTES) {
        options.push(DhcpOption { kind: OPTION_DOMAIN_NAME, data: first.as_bytes() });
    }
    if !encoded.is_empty() {
        options.push(DhcpOption { kind: OPTION_DOMAIN_SEARCH, data: &encoded });
    }
    let refuses = kind == DhcpMessageType::Nak;
    // Who tells us of an address that it has already asks for the rest only.
    let informs = request.message_type == DhcpMessageType::Inform;
    let leases = !refuses && !informs;
    let answer = DhcpRepr {
        message_type: kind,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: if informs { request.client_ip } else { Ipv4Addr::UNSPECIFIED },
        your_ip: if leases { config.guest } else { Ipv4Addr::UNSPECIFIED },
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: (!refuses).then_some(config.gateway),
        subnet_mask: (!refuses).then_some(config.netmask()),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(config.gateway),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: leases.then_some(FOR_EVER),
        renew_duration: None,
        rebind_duration: None,
        additional_options: if refuses { &[] } else { &options },
    };
    let mut bytes = vec![0; answer.buffer_len()];
    if answer.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).is_err() {
        tracing::debug!("an answer of the DHCP server does not fit");
        return false;
    }
    out.know_guest(client);
    let from = SocketAddr::new(config.gateway.into(), SERVER_PORT);
    if config.may_be_the_guests(source.ip()) {
        out.udp(from, SocketAddr::new(source.ip(), CLIENT_PORT), &bytes);
    } else {
        out.broadcast_udp(from, CLIENT_PORT, &bytes);
    }
    kind == DhcpMessageType::Ack
}

/// What a request is answered with, if at all.
fn answer_kind(config: &Config, request: &DhcpRepr<'_>) -> Option<DhcpMessageType> {
    match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Inform => Some(DhcpMessageType::Ack),
        DhcpMessageType::Request => {
            // It may have chosen another server, which is not on this link.
            if request.server_identifier.is_some_and(|server| server != config.gateway) {
                return None;
            }
            let wanted = request.requested_ip.unwrap_or(request.client_ip);
            Some(if wanted == config.guest { DhcpMessageType::Ack } else { DhcpMessageType::Nak })
        }
        _ => None,
    }
}

/// Domain names as RFC 1035, section 4.1.4, has them, without compression. Those that do not fit are left out.
fn encode_search(domains: &[String]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for domain in domains {
        let mut name = Vec::new();
        for label in domain.split('.') {
            match u8::try_from(label.len()) {
                Ok(len @ 1..=63) => {
                    name.push(len);
                    name.extend_from_slice(label.as_bytes());
                }
                _ => break,
            }
        }
        name.push(0);
        // One byte per dot becomes that of a length, and there is one length and the end besides.
        if name.len() == domain.len() + 2 && encoded.len() + name.len() <= OPTION_BYTES {
            encoded.extend_from_slice(&name);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_domains_that_fit_are_encoded() {
        let encode = |domains: &[&str]| {
            encode_search(&domains.iter().map(|domain| (*domain).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(encode(&["a.bc"]), b"\x01a\x02bc\0");
        assert_eq!(encode(&["", "a..b", ".a", &"x".repeat(64), "ok"]), b"\x02ok\0");
        let long = vec!["x".repeat(63); 3].join(".");
        assert_eq!(encode(&[&long, "a", &long]).len(), 63 * 3 + 4 + 3);
    }
}
