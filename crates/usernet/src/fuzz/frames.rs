use fuzzing::fuzz;
use smoltcp::wire::{
    ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Packet,
    Ipv6Address, Ipv6Packet, TcpPacket, UdpPacket,
};

use crate::config::{Config, Destination, Ipv6, Mac};
use crate::frames::{FRAME_BYTES, HEADER_BYTES};
use crate::network::{Network, Progress};
use crate::outbox::write_ip_header;
use crate::packet::Packet;
use crate::testing::{GATEWAY, GUEST, HOST, MAC, Wire, frame, question, syn, udp_bytes};

/// A network with little room, whose name server nobody is.
pub(super) fn small() -> Config {
    let mut config = Config { ipv6: Ipv6::Always, ..Config::default() };
    config.limits.connections = 8;
    config.limits.datagram_flows = 8;
    config.limits.questions = 8;
    config.limits.buffers = 64 << 10;
    config.resolv_conf = "/nonexistent".into();
    // TCP's discard service, which no machine has.
    config.name_server_port = 9;
    config
}

/// Lets the network work, and looks at all that it gives the guest.
pub(super) fn work(network: &mut Network, wire: &mut Wire) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    // There is nothing endless to do.
    for _ in 0..1000 {
        let progress = network.exchange(wire).unwrap();
        frames.extend(wire.to_guest.drain(..));
        if progress == Progress::Idle && wire.from_guest.is_empty() {
            frames.iter().for_each(|frame| check(frame));
            let (connections, datagrams) = network.conversations();
            assert!(
                connections <= 8 && datagrams <= 8,
                "{connections} connections, {datagrams} of datagrams"
            );
            let (counted, resident) = network.buffered();
            let most = (64 << 10) + 8 * 3 * crate::sys::page_size();
            assert!(resident <= counted && counted <= most, "{resident} bytes, {counted} counted");
            return frames;
        }
    }
    panic!("it has always more to do");
}

/// What the guest is given is whole, comes from the router and from no address of the guest's.
fn check(bytes: &[u8]) {
    assert!(bytes.len() + HEADER_BYTES <= FRAME_BYTES);
    let frame = EthernetFrame::new_checked(bytes).unwrap();
    assert_eq!(frame.src_addr().0, Config::default().gateway_mac);
    let payload = frame.payload();
    if frame.ethertype() == EthernetProtocol::Arp {
        ArpRepr::parse(&ArpPacket::new_checked(payload).unwrap()).unwrap();
        return;
    }
    let packet = Packet::parse(payload).expect("a whole packet");
    let source = packet.source;
    assert!(!source.is_unspecified() && !source.is_loopback() && !source.is_multicast(), "{packet:?}");
    assert_eq!(packet.bytes.len(), payload.len());
    let (source, target) = (packet.source.into(), packet.target.into());
    if frame.ethertype() == EthernetProtocol::Ipv4 {
        assert!(Ipv4Packet::new_checked(payload).unwrap().verify_checksum());
    } else {
        Ipv6Packet::new_checked(payload).unwrap().check_len().unwrap();
    }
    let sound = match packet.protocol {
        IpProtocol::Tcp => TcpPacket::new_checked(packet.payload).unwrap().verify_checksum(&source, &target),
        IpProtocol::Udp => UdpPacket::new_checked(packet.payload).unwrap().verify_checksum(&source, &target),
        IpProtocol::Icmp => Icmpv4Packet::new_checked(packet.payload).unwrap().verify_checksum(),
        IpProtocol::Icmpv6 => match (packet.source, packet.target) {
            (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) => {
                Icmpv6Packet::new_checked(packet.payload).unwrap().verify_checksum(&source, &target)
            }
            _ => false,
        },
        _ => false,
    };
    assert!(sound, "{packet:?}");
}

/// Frames one behind the other, each behind its length.
fn joined(frames: &[Vec<u8>]) -> Vec<u8> {
    let with_len = |frame: &Vec<u8>| [&u16::try_from(frame.len()).unwrap().to_be_bytes()[..], frame].concat();
    frames.iter().flat_map(with_len).collect()
}

fn icmp_v6(kind: u8, target: Ipv6Address, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 14 + 40 + 4 + body.len()];
    message[6..12].copy_from_slice(&MAC);
    message[12..14].copy_from_slice(&[0x86, 0xdd]);
    let source: Ipv6Address = "fe80::77".parse().unwrap();
    write_ip_header(&mut message[14..], source.into(), target.into(), IpProtocol::Icmpv6, 255);
    message[54] = kind;
    message[58..].copy_from_slice(body);
    message
}

fn ethernet(mac: Mac, protocol: [u8; 2], payload: &[u8]) -> Vec<u8> {
    [&Config::default().gateway_mac[..], &mac, &protocol, payload].concat()
}

#[test]
fn frames() {
    let gateway: Ipv6Address = "fe80::1".parse().unwrap();
    let everyone: Ipv6Address = "ff02::1".parse().unwrap();
    let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &GUEST.octets(), &[0; 6], &GATEWAY.octets()].concat();
    let mut dhcp = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
    dhcp.resize(28, 0);
    dhcp.extend_from_slice(&MAC);
    dhcp.resize(236, 0);
    // A request for the address, with the parameters that clients ask for.
    dhcp.extend_from_slice(&[
        0x63, 0x82, 0x53, 0x63, 53, 1, 3, 50, 4, 192, 168, 127, 2, 55, 4, 1, 3, 6, 26, 255,
    ]);
    let unspecified = std::net::Ipv4Addr::UNSPECIFIED;
    let broadcast = std::net::Ipv4Addr::BROADCAST;
    let solicited = [&[0; 4][..], &gateway.octets(), &[1, 1], &MAC].concat();
    let all = [
        ethernet(MAC, [8, 6], &arp),
        frame(unspecified, broadcast, IpProtocol::Udp, &udp_bytes(68, 67, &dhcp)),
        icmp_v6(133, everyone, &[0; 4]),
        icmp_v6(135, gateway, &solicited),
        icmp_v6(128, gateway, &[0, 1, 0, 2, 9, 9]),
        frame(GUEST, GATEWAY, IpProtocol::Udp, &udp_bytes(1, 53, &question("a.example.org"))),
        frame(GUEST, GATEWAY, IpProtocol::Udp, &udp_bytes(2, 53, &question("host.docker.internal"))),
        frame(GUEST, HOST, IpProtocol::Udp, &udp_bytes(1, 9, b"data")),
        frame(GUEST, HOST, IpProtocol::Tcp, &syn(1, 9)),
        frame(GUEST, GATEWAY, IpProtocol::Tcp, &syn(1, 53)),
        frame(GUEST, HOST, IpProtocol::Icmp, &[8, 0, 0, 0, 1, 2, 3, 4, 5]),
        frame(GUEST, std::net::Ipv4Addr::new(192, 168, 127, 77), IpProtocol::Udp, &udp_bytes(1, 9, b"x")),
    ];
    let mut samples: Vec<Vec<u8>> = all.iter().map(|frame| joined(std::slice::from_ref(frame))).collect();
    samples.push(joined(&all));
    let config = small();
    fuzz("frames", samples, 20_000, |mut bytes| {
        let mut network = Network::new(small()).unwrap();
        let mut wire = Wire::default();
        while let Some((len, rest)) = bytes.split_first_chunk() {
            let (frame, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*len).into()));
            bytes = rest;
            // Nobody else's machine is to be bothered.
            let packet = frame.get(14..).and_then(Packet::parse);
            if packet.is_some_and(|packet| config.destination(packet.target) == Destination::Outside) {
                continue;
            }
            wire.from_guest.push_back(frame.to_vec());
            work(&mut network, &mut wire);
        }
    });
}
