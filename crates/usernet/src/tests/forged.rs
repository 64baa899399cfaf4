//! Addresses that are none of the guest's, and those that no machine has.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use smoltcp::wire::{EthernetAddress, IpProtocol};

use super::guest;
use crate::config::{Config, Ipv6};
use crate::testing::{GATEWAY, GUEST, Guest, HOST, MAC, frame, syn, udp_bytes};

/// Gives the network frames, to none of which it may do anything.
fn nothing_comes_of(guest: &mut Guest, frames: impl IntoIterator<Item = Vec<u8>>) {
    for frame in frames {
        guest.wire.seen = Some(Vec::new());
        guest.inject(frame.clone());
        assert_eq!(guest.wire.seen.take().as_deref(), Some(&[][..]), "{frame:02x?} was answered");
        assert_eq!(guest.network.conversations(), (0, 0), "{frame:02x?} was listened to");
    }
}

/// A datagram, a request for a connection, and a segment of none, to a port that is open.
fn attempts(source: IpAddr, target: IpAddr, port: u16) -> [Vec<u8>; 3] {
    let mut stray = syn(1, port);
    stray[13] = 0x10;
    [
        frame(source, target, IpProtocol::Udp, &udp_bytes(1, port, b"x")),
        frame(source, target, IpProtocol::Tcp, &syn(1, port)),
        frame(source, target, IpProtocol::Tcp, &stray),
    ]
}

fn open_port() -> (UdpSocket, u16) {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

#[test]
fn forged_ipv4_addresses_lead_nowhere() {
    let (_server, port) = open_port();
    let mut guest = guest();
    for source in ["192.168.127.3", "192.168.127.254", "192.168.127.1", "127.0.0.1", "0.0.0.0", "10.0.0.1"] {
        let source: Ipv4Addr = source.parse().unwrap();
        nothing_comes_of(&mut guest, attempts(source.into(), HOST.into(), port));
        nothing_comes_of(&mut guest, [frame(source, GATEWAY, IpProtocol::Icmp, &[8, 0, 0, 0, 1, 2, 3, 4])]);
    }
}

#[test]
fn forged_ipv6_addresses_lead_nowhere() {
    let (_server, port) = open_port();
    let mut guest = Guest::new(Config { ipv6: Ipv6::Always, ..Config::default() });
    let host: IpAddr = "fd63:6f72:6163:6c65::254".parse().unwrap();
    let gateway: IpAddr = "fe80::1".parse().unwrap();
    for source in ["2001:db8::1", "::1", "::", "fe80::1", "fd63:6f72:6163:6c65::1", "::ffff:192.168.127.2"] {
        let source: IpAddr = source.parse().unwrap();
        nothing_comes_of(&mut guest, attempts(source, host, port));
        nothing_comes_of(
            &mut guest,
            [frame(source, gateway, IpProtocol::Icmpv6, &[128, 0, 0, 0, 1, 2, 3, 4])],
        );
    }
    // A neighbour's solicitation (RFC 4861, section 4.3) for the router's address.
    let solicitation = |source: &str| {
        let body =
            [&[135, 0, 0, 0, 0, 0, 0, 0][..], &[0xfe, 0x80, 0, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 0, 0, 0, 1]];
        let source: IpAddr = source.parse().unwrap();
        let mut bytes = frame(source, gateway, IpProtocol::Icmpv6, &body.concat());
        bytes[14 + 7] = 255;
        bytes
    };
    nothing_comes_of(&mut guest, ["2001:db8::1", "fd63:6f72:6163:6c65::254"].map(solicitation));
    guest.wire.seen = Some(Vec::new());
    guest.inject(solicitation("fe80::77"));
    assert!(guest.wire.seen.take().is_some_and(|seen| !seen.is_empty()), "the guest itself is not answered");
}

#[test]
fn forged_ethernet_addresses_lead_nowhere() {
    let (_server, port) = open_port();
    let router = Config::default().gateway_mac;
    let mut guest = Guest::new(Config { guest_mac: Some(MAC), ..Config::default() });
    let arp = |sender: [u8; 6]| {
        let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &sender, &GUEST.octets(), &[0; 6], &GATEWAY.octets()];
        [&router[..], &MAC, &[8, 6], &body.concat()].concat()
    };
    let dhcp = |client: [u8; 6]| {
        let mut bytes = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0x80, 0];
        bytes.resize(28, 0);
        bytes.extend_from_slice(&client);
        bytes.resize(236, 0);
        bytes.extend_from_slice(&[0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255]);
        let datagram = udp_bytes(68, 67, &bytes);
        frame(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, IpProtocol::Udp, &datagram)
    };
    let honest = attempts(GUEST.into(), HOST.into(), port).into_iter().chain([arp(MAC), dhcp(MAC)]);
    for forged in
        [[0x52, 0x54, 0, 0, 0, 3], router, EthernetAddress::BROADCAST.0, [0x33, 0x33, 0, 0, 0, 1], [0; 6]]
    {
        nothing_comes_of(
            &mut guest,
            honest.clone().map(|mut frame| {
                frame[6..12].copy_from_slice(&forged);
                frame
            }),
        );
        // Who says inside that it is somebody else.
        nothing_comes_of(&mut guest, [arp(forged), dhcp(forged)]);
    }
    for frame in [arp(MAC), dhcp(MAC)] {
        guest.wire.seen = Some(Vec::new());
        guest.inject(frame);
        assert!(
            guest.wire.seen.take().is_some_and(|seen| !seen.is_empty()),
            "the guest itself is not answered"
        );
    }
}

#[test]
fn addresses_that_no_machine_has_lead_nowhere() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = guest();
    for target in ["127.0.0.1", "255.255.255.255", "0.0.0.0", "224.0.0.1"] {
        nothing_comes_of(&mut guest, attempts(GUEST.into(), target.parse().unwrap(), port));
    }
    for target in ["::1", "::", "ff02::1", "::ffff:127.0.0.1"] {
        nothing_comes_of(&mut guest, attempts("fe80::77".parse().unwrap(), target.parse().unwrap(), port));
    }
}
