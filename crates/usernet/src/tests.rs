//! A guest with a network stack, on a network, with servers on this machine's loopback addresses.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, IpAddress, IpCidr,
    IpEndpoint, IpProtocol, Ipv4Packet, Ipv6Address,
};

use crate::config::{Config, Ipv6};
use crate::outbox::write_ip_header;
use crate::testing::{GATEWAY, GUEST, Guest, HOST, MAC, frame, syn, udp_bytes};

mod crowd;
mod entrance;
mod forged;
mod names;
mod unreachable;

fn guest() -> Guest {
    Guest::new(Config::default())
}

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A port on which nobody listens.
fn closed_port() -> u16 {
    listener().1
}

/// The ICMP messages among the frames that the guest was given: source, type, code.
fn icmp_messages(guest: &mut Guest) -> Vec<(Ipv4Addr, Icmpv4Message, u8)> {
    let frames = guest.wire.seen.take().unwrap_or_default();
    let message = |frame: &Vec<u8>| {
        let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
        let packet = Ipv4Packet::new_checked(frame.payload()).ok()?;
        if frame.ethertype() != EthernetProtocol::Ipv4 || packet.next_header() != IpProtocol::Icmp {
            return None;
        }
        let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
        assert!(message.verify_checksum() && packet.verify_checksum());
        Some((packet.src_addr(), message.msg_type(), message.msg_code()))
    };
    let found = frames.iter().filter_map(message).collect();
    guest.wire.seen = Some(Vec::new());
    found
}

#[test]
fn an_address_is_given_by_dhcp() {
    let mut guest = Guest::without_address(Config::default());
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let mut given = None;
    guest.until("a lease", |guest| {
        if let Some(dhcpv4::Event::Configured(lease)) =
            guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll()
        {
            given = Some((lease.address, lease.router, lease.dns_servers.first().copied()));
        }
        given.is_some()
    });
    assert_eq!(given, Some((smoltcp::wire::Ipv4Cidr::new(GUEST, 24), Some(GATEWAY), Some(GATEWAY))));
}

#[test]
fn bytes_arrive_whole_both_ways_and_each_end_is_told() {
    for mtu in [1500, 65_500] {
        let (listener, port) = listener();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            // Ends only when the guest's half is closed; the other half is still open.
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
            all.len()
        });
        let mut guest = Guest::new(Config { mtu, ..Config::default() });
        let handle = guest.connect(HOST, port);
        let data: Vec<u8> =
            (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        let (mut sent, mut received) = (0, Vec::new());
        guest.until("the echo", |guest| {
            let socket = guest.tcp(handle);
            if sent < data.len() {
                sent += socket.send_slice(&data[sent..]).unwrap();
                if sent == data.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
            }
            received.len() == data.len() && !socket.may_recv()
        });
        assert!(received == data, "other bytes came back");
        assert_eq!(server.join().unwrap(), data.len());
        guest.until("the end", |guest| guest.network.conversations() == (0, 0));
    }
}

#[test]
fn a_server_that_ends_first_still_hears_the_guest() {
    const BYTES: usize = 300_000;
    let (listener, port) = listener();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[1; BYTES]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.len()
    });
    let mut guest = guest();
    let handle = guest.connect(HOST, port);
    let mut received = 0;
    guest.until("the server's end", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            received += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        socket.state() == tcp::State::CloseWait
    });
    assert_eq!(received, BYTES);
    let mut sent = 0;
    guest.until("all is sent", |guest| {
        sent += guest.tcp(handle).send_slice(&[2; BYTES][sent..]).unwrap();
        sent == BYTES
    });
    guest.tcp(handle).close();
    guest.until("the end", |guest| guest.network.conversations() == (0, 0));
    assert_eq!(server.join().unwrap(), BYTES);
    assert_eq!(guest.tcp(handle).state(), tcp::State::Closed);
}

#[test]
fn a_refusal_is_a_reset_at_once() {
    let mut guest = guest();
    let begun = Instant::now();
    let handle = guest.dial(HOST, closed_port());
    guest.until("a reset", |guest| guest.tcp(handle).state() == tcp::State::Closed);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(guest.network.conversations(), (0, 0));
}

#[test]
fn a_server_on_the_other_loopback_address_is_found() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    guest().connect(HOST, port);
    listener.accept().unwrap();
}

#[test]
fn resets_go_both_ways() {
    let (listener, port) = listener();
    let mut guest = guest();
    let handle = guest.connect(HOST, port);
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(handle).abort();
    guest.until("the connection is gone", |guest| guest.network.conversations() == (0, 0));
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let handle = guest.connect(HOST, port);
    let (stream, _) = listener.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    guest.until("a reset", |guest| guest.tcp(handle).state() == tcp::State::Closed);
    assert_eq!(guest.network.conversations(), (0, 0));
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let mut guest = guest();
    let mut stray = syn(4000, 4001);
    stray[13] = 0x10;
    guest.wire.seen = Some(Vec::new());
    guest.inject(frame(GUEST, HOST, IpProtocol::Tcp, &stray));
    let seen = guest.wire.seen.take().unwrap();
    assert!(seen.iter().any(|frame| frame.get(23) == Some(&6) && frame[47] & 0x04 != 0), "{seen:?}");
}

#[test]
fn a_guest_that_never_reads_costs_a_bounded_amount() {
    let (listener, port) = listener();
    let mut guest = guest();
    guest.connect(HOST, port);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let (mut sent, mut still) = (0, 0);
    guest.until("the server is held back", |_| {
        match stream.write(&[7; 1 << 16]) {
            Ok(count) => (sent, still) = (sent + count, 0),
            Err(_) => still += 1,
        }
        still > 50
    });
    // The guest's own buffer, ours, and what the kernel keeps of a loopback connection.
    assert!(sent < 64 << 20, "{sent} bytes");
}

#[test]
fn a_guest_without_room_loses_nothing() {
    let (listener, port) = listener();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[1; 300_000]).unwrap();
    });
    let mut guest = guest();
    guest.wire.room = Some(1);
    let handle = guest.connect(HOST, port);
    let mut received = 0;
    guest.until("all bytes", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            received += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
        }
        received == 300_000
    });
    server.join().unwrap();
}

#[test]
fn idle_connections_are_no_burden() {
    let (listener, port) = listener();
    let mut guest = guest();
    let mut idle = Vec::new();
    for _ in 0..200 {
        let handle = guest.connect(HOST, port);
        idle.push(listener.accept().unwrap());
        // The guest's own stack is the slow one.
        guest.sockets.remove(handle);
    }
    assert_eq!(guest.network.conversations().0, 200);
    let handle = guest.connect(HOST, port);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    for _ in 0..100 {
        guest.tcp(handle).send_slice(b"x").unwrap();
        // The guest holds a byte back until the one before it is acknowledged, which takes a moment.
        guest.until("a byte", |_| stream.read(&mut [0]).is_ok_and(|count| count == 1));
    }
    guest.network.reset();
    assert_eq!(guest.network.conversations(), (0, 0));
}

#[test]
fn too_many_connections_are_not_answered() {
    let (listener, port) = listener();
    let mut config = Config::default();
    config.limits.connections = 2;
    let mut guest = Guest::new(config);
    let (first, _second) = (guest.connect(HOST, port), guest.connect(HOST, port));
    let third = guest.dial(HOST, port);
    guest.work();
    assert_eq!(guest.tcp(third).state(), tcp::State::SynSent);
    guest.tcp(first).abort();
    guest.until("there is room again", |guest| guest.tcp(third).state() == tcp::State::Established);
    drop(listener);
}

fn udp_socket(guest: &mut Guest) -> smoltcp::iface::SocketHandle {
    let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 16 << 10]);
    let mut socket = udp::Socket::new(buffer(), buffer());
    socket.bind(5000).unwrap();
    guest.sockets.add(socket)
}

#[test]
fn datagrams_go_both_ways_and_a_closed_port_is_told() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = guest();
    let handle = udp_socket(&mut guest);
    let host = |port| IpEndpoint::new(IpAddress::Ipv4(HOST), port);
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(b"ping", host(port)).unwrap();
    guest.work();
    let mut bytes = [0; 100];
    let (len, from) = server.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"ping");
    server.send_to(b"pong", from).unwrap();
    guest.until("an answer", |guest| guest.sockets.get_mut::<udp::Socket<'_>>(handle).can_recv());
    let (answer, meta) = guest.sockets.get_mut::<udp::Socket<'_>>(handle).recv().unwrap();
    assert_eq!((answer, meta.endpoint), (&b"pong"[..], host(port)));
    assert_eq!(guest.network.conversations(), (0, 1));

    drop(server);
    guest.wire.seen = Some(Vec::new());
    let refused = (HOST, Icmpv4Message::DstUnreachable, u8::from(Icmpv4DstUnreachable::PortUnreachable));
    guest.until("an ICMP message", |guest| {
        guest.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(b"x", host(port)).unwrap();
        icmp_messages(guest).contains(&refused)
    });
}

#[test]
fn the_oldest_conversation_makes_room() {
    let mut config = Config::default();
    config.limits.datagram_flows = 2;
    let mut guest = Guest::new(config);
    for port in 1..=5 {
        guest.inject(frame(GUEST, HOST, IpProtocol::Udp, &udp_bytes(1000 + port, 9, b"x")));
    }
    assert_eq!(guest.network.conversations(), (0, 2));
}

#[test]
fn nobodys_address_and_the_routers_ports_are_told() {
    let mut guest = guest();
    guest.wire.seen = Some(Vec::new());
    guest.inject(frame(GUEST, Ipv4Addr::new(192, 168, 127, 99), IpProtocol::Tcp, &syn(1, 80)));
    guest.inject(frame(GUEST, GATEWAY, IpProtocol::Udp, &udp_bytes(1, 80, b"x")));
    let unreachable = Icmpv4Message::DstUnreachable;
    assert_eq!(icmp_messages(&mut guest), [(GATEWAY, unreachable, 1), (GATEWAY, unreachable, 3)]);
}

#[test]
fn the_router_and_the_host_answer_pings() {
    let mut guest = guest();
    guest.wire.seen = Some(Vec::new());
    for target in [GATEWAY, HOST] {
        guest.inject(frame(GUEST, target, IpProtocol::Icmp, &[8, 0, 0, 0, 1, 2, 3, 4, 5]));
    }
    let reply = Icmpv4Message::EchoReply;
    assert_eq!(icmp_messages(&mut guest), [(GATEWAY, reply, 0), (HOST, reply, 0)]);
}

#[test]
fn ipv6_is_advertised_and_leads_to_the_host() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::without_address(Config { ipv6: Ipv6::Always, ..Config::default() });
    let address: Ipv6Address = "fd63:6f72:6163:6c65::77".parse().unwrap();
    guest.stack.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::Ipv6(address), 64)).unwrap();
        addresses.push(IpCidr::new(IpAddress::Ipv6("fe80::77".parse().unwrap()), 64)).unwrap();
    });
    // A router's solicitation (RFC 4861, section 4.1) to all routers.
    let mut solicitation = vec![0; 14 + 40 + 8];
    solicitation[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 2]);
    solicitation[6..12].copy_from_slice(&MAC);
    solicitation[12..14].copy_from_slice(&[0x86, 0xdd]);
    let all_routers: Ipv6Address = "ff02::2".parse().unwrap();
    let link_local: Ipv6Address = "fe80::77".parse().unwrap();
    write_ip_header(&mut solicitation[14..], link_local.into(), all_routers.into(), IpProtocol::Icmpv6, 255);
    solicitation[54] = 133;
    guest.wire.seen = Some(Vec::new());
    guest.inject(solicitation);
    let seen = guest.wire.seen.take().unwrap();
    let advertisement = seen.iter().find(|frame| frame.get(54) == Some(&134)).expect("an advertisement");
    assert!(advertisement.windows(8).any(|bytes| bytes == &address.octets()[..8]));
    assert_eq!(advertisement[60..62], 1800_u16.to_be_bytes(), "the router's lifetime in seconds");

    let host: Ipv6Address = "fd63:6f72:6163:6c65::254".parse().unwrap();
    let handle = guest.connect(host, port);
    let (mut stream, _) = listener.accept().unwrap();
    guest.tcp(handle).send_slice(b"six").unwrap();
    guest.work();
    let mut bytes = [0; 3];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"six");
    stream.shutdown(Shutdown::Both).unwrap();
}
