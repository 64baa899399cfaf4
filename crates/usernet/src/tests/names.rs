//! Names: the router asks name servers on this machine's loopback addresses.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;

use smoltcp::socket::{tcp, udp};
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, IpAddress, IpEndpoint, IpProtocol,
};

use super::udp_socket;
use crate::config::Config;
use crate::testing::{GATEWAY, Guest, HOST, MAC, frame, question, udp_bytes};

/// What a name server makes of a question; `true` if it came over TCP.
type Answer = fn(&[u8], bool) -> Option<Vec<u8>>;

/// The first address of a name server, and another.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const SECOND: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ADDRESS: [u8; 4] = [10, 9, 8, 7];

/// Starts a name server, on any port or on the one given. It stays as long as the process.
fn server(address: Ipv4Addr, port: u16, answer: Answer) -> u16 {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind((address, port)).unwrap();
        let same = (address, udp.local_addr().unwrap().port());
        // Another program may have the other one.
        match TcpListener::bind(same) {
            Ok(tcp) => break (udp, tcp),
            Err(error) => assert!(port == 0, "{error}"),
        }
    };
    let port = udp.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        loop {
            let (len, from) = udp.recv_from(&mut bytes).unwrap();
            if let Some(answer) = answer(&bytes[..len], false) {
                udp.send_to(&answer, from).unwrap();
            }
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            // Until the other side ends.
            let mut len = [0; 2];
            while stream.read_exact(&mut len).is_ok() {
                let mut query = vec![0; u16::from_be_bytes(len).into()];
                stream.read_exact(&mut query).unwrap();
                if let Some(answer) = answer(&query, true) {
                    let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&len[..], &answer].concat()).unwrap();
                }
            }
        }
    });
    port
}

/// A network whose host has this `resolv.conf`.
fn guest(port: u16, resolv_conf: &str) -> (Guest, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resolv.conf");
    fs::write(&path, resolv_conf).unwrap();
    (Guest::new(Config { name_server_port: port, resolv_conf: path, ..Config::default() }), folder)
}

/// The question again as an answer, with one address.
fn with_address(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
    answer.extend_from_slice(&address);
    answer
}

/// What is answered over UDP.
fn ask(guest: &mut Guest, query: &[u8]) -> Vec<u8> {
    let handle = udp_socket(guest);
    let server = IpEndpoint::new(IpAddress::Ipv4(GATEWAY), 53);
    guest.sockets.get_mut::<udp::Socket<'_>>(handle).send_slice(query, server).unwrap();
    guest.until("an answer", |guest| guest.sockets.get_mut::<udp::Socket<'_>>(handle).can_recv());
    let (answer, meta) = guest.sockets.get_mut::<udp::Socket<'_>>(handle).recv().unwrap();
    let answer = answer.to_vec();
    assert_eq!((&answer[..2], meta.endpoint), (&query[..2], server));
    guest.sockets.remove(handle);
    answer
}

/// The address at the end of the answer to a question for a name.
fn resolve(guest: &mut Guest, name: &str) -> [u8; 4] {
    *ask(guest, &question(name)).last_chunk().unwrap()
}

/// So many answers over TCP to questions that are sent in one piece.
fn ask_over_tcp(guest: &mut Guest, queries: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let handle = guest.connect(GATEWAY, 53);
    let with_len = |query: &Vec<u8>| [&u16::try_from(query.len()).unwrap().to_be_bytes()[..], query].concat();
    let all: Vec<u8> = queries.iter().flat_map(with_len).collect();
    assert_eq!(guest.tcp(handle).send_slice(&all).unwrap(), all.len());
    let (mut received, mut answers) = (Vec::new(), Vec::new());
    guest.until("answers", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
        while let Some(len) = received.first_chunk().map(|len| usize::from(u16::from_be_bytes(*len)))
            && received.len() >= 2 + len
        {
            answers.push(received[2..2 + len].to_vec());
            received.drain(..2 + len);
        }
        answers.len() == queries.len()
    });
    guest.tcp(handle).close();
    guest.until("the end", |guest| guest.tcp(handle).state() == tcp::State::TimeWait);
    guest.until("nothing is left", |guest| guest.network.conversations().0 == 0);
    guest.sockets.remove(handle);
    answers
}

#[test]
fn names_are_resolved_by_the_hosts_servers_and_the_hosts_own_here() {
    let port = server(SECOND, 0, |query, _| {
        assert!(!query.windows(8).any(|bytes| bytes.eq_ignore_ascii_case(b"internal")));
        Some(with_address(query, ADDRESS))
    });
    // Nobody is at the first address.
    let (mut guest, _folder) = guest(port, "nameserver 127.0.0.77\nnameserver 127.0.0.2\n");
    for name in ["host.docker.internal", "Gateway.Docker.Internal", "host.coracle.internal"] {
        assert_eq!(resolve(&mut guest, name), HOST.octets());
    }
    assert_eq!(resolve(&mut guest, "example.org"), ADDRESS);
}

#[test]
fn an_answer_to_something_else_is_not_taken() {
    let udp = UdpSocket::bind((FIRST, 0)).unwrap();
    let (mut guest, _folder) = guest(udp.local_addr().unwrap().port(), "nameserver 127.0.0.1\n");
    let server = thread::spawn(move || {
        let mut bytes = [0; 512];
        let (len, from) = udp.recv_from(&mut bytes).unwrap();
        let mut answer = with_address(&bytes[..len], [6, 6, 6, 6]);
        answer[0] ^= 1;
        udp.send_to(&answer, from).unwrap();
        udp.send_to(&with_address(&bytes[..len], ADDRESS), from).unwrap();
    });
    assert_eq!(resolve(&mut guest, "example.org"), ADDRESS);
    server.join().unwrap();
}

#[test]
fn a_lost_question_is_asked_again() {
    let udp = UdpSocket::bind((FIRST, 0)).unwrap();
    let (mut guest, _folder) = guest(udp.local_addr().unwrap().port(), "nameserver 127.0.0.1\n");
    let server = thread::spawn(move || {
        let mut bytes = [0; 512];
        udp.recv_from(&mut bytes).unwrap();
        let (len, from) = udp.recv_from(&mut bytes).unwrap();
        udp.send_to(&with_address(&bytes[..len], ADDRESS), from).unwrap();
    });
    assert_eq!(resolve(&mut guest, "example.org"), ADDRESS);
    server.join().unwrap();
}

#[test]
fn without_a_name_server_the_guest_is_told() {
    let nobody = UdpSocket::bind((FIRST, 0)).unwrap().local_addr().unwrap().port();
    let (mut guest, _folder) = guest(nobody, "");
    let query = question("example.org");
    let over_udp = ask(&mut guest, &query);
    let over_tcp = ask_over_tcp(&mut guest, std::slice::from_ref(&query)).remove(0);
    for answer in [over_udp, over_tcp] {
        assert_eq!((answer[3] & 0x0f, &answer[12..]), (2, &query[12..]), "no server failure");
    }
}

#[test]
fn what_is_said_beside_a_question_is_passed_on_and_so_is_a_long_answer() {
    // An OPT record (RFC 6891): answers of up to 4096 bytes are taken.
    const OPT: [u8; 11] = [0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0];
    let port = server(FIRST, 0, |query, _| {
        assert_eq!((query[11], query.last_chunk()), (1, Some(&OPT)));
        let mut answer = with_address(query, ADDRESS);
        answer.resize(4096, 0x55);
        Some(answer)
    });
    let (mut guest, _folder) = guest(port, "nameserver 127.0.0.1\n");
    let mut query = question("example.org");
    query[11] = 1;
    query.extend_from_slice(&OPT);
    assert_eq!(ask(&mut guest, &query).len(), 4096);
}

#[test]
fn an_answer_that_is_cut_short_is_asked_for_again_over_tcp() {
    const WHOLE: usize = 60_000;
    const CUT_SHORT: u8 = 0x02;
    let port = server(FIRST, 0, |query, over_tcp| {
        let mut answer = with_address(query, ADDRESS);
        if over_tcp {
            answer.resize(WHOLE, 0x55);
        } else {
            answer.truncate(query.len());
            answer[2] |= CUT_SHORT;
        }
        Some(answer)
    });
    let (mut guest, _folder) = guest(port, "nameserver 127.0.0.1\n");
    let query = question("example.org");
    assert_ne!(ask(&mut guest, &query)[2] & CUT_SHORT, 0);
    // What a resolver does then.
    let answers = ask_over_tcp(&mut guest, &[query]);
    assert_eq!(answers[0].len(), WHOLE);
}

#[test]
fn questions_over_tcp_are_answered_like_others() {
    // Nobody is at the first address.
    let port = server(SECOND, 0, |query, over_tcp| over_tcp.then(|| with_address(query, ADDRESS)));
    let (mut guest, _folder) = guest(port, "nameserver 127.0.0.77\nnameserver 127.0.0.2\n");
    let names = ["example.org", "host.docker.internal", "other.example.org", "GATEWAY.docker.internal"];
    let queries: Vec<Vec<u8>> = (0_u8..)
        .zip(names)
        .map(|(id, name)| {
            let mut query = question(name);
            query[1] = id;
            query
        })
        .collect();
    let mut answers = ask_over_tcp(&mut guest, &queries);
    answers.sort_by_key(|answer| answer[1]);
    let addresses: Vec<[u8; 4]> = answers.iter().map(|answer| *answer.last_chunk().unwrap()).collect();
    assert_eq!(addresses, [ADDRESS, HOST.octets(), ADDRESS, HOST.octets()]);
}

#[test]
fn a_question_over_tcp_without_an_end_is_not_listened_to() {
    let (mut guest, _folder) = guest(9, "");
    let handle = guest.connect(GATEWAY, 53);
    let mut sent = 0;
    guest.until("the end", |guest| {
        let socket = guest.tcp(handle);
        sent += socket.send_slice(&[0xff; 4096]).unwrap_or(0);
        assert!(sent < 1 << 20);
        !socket.may_recv()
    });
    guest.tcp(handle).abort();
    guest.until("nothing is left", |guest| guest.network.conversations().0 == 0);
}

#[test]
fn a_changed_resolv_conf_is_followed() {
    let port = server(FIRST, 0, |query, _| Some(with_address(query, [1, 1, 1, 1])));
    server(SECOND, port, |query, _| Some(with_address(query, [2, 2, 2, 2])));
    let (mut guest, folder) = guest(port, "nameserver 127.0.0.1\nsearch old.example.org\n");
    assert_eq!(resolve(&mut guest, "example.org"), [1, 1, 1, 1]);
    assert!(lease(&mut guest).windows(3).any(|bytes| bytes == b"old"));
    // As programs that care for it do.
    let new = folder.path().join("new");
    fs::write(&new, "nameserver 127.0.0.2\nsearch new.example.org b.org\n").unwrap();
    fs::rename(&new, folder.path().join("resolv.conf")).unwrap();
    guest.until("the other name server", |guest| resolve(guest, "example.org") == [2, 2, 2, 2]);
    let query = question("example.org");
    assert_eq!(ask_over_tcp(&mut guest, &[query])[0].last_chunk(), Some(&[2, 2, 2, 2]));
    // The first domain, and all of them (RFC 3397).
    let lease = lease(&mut guest);
    let has = |option: &[u8]| lease.windows(option.len()).any(|bytes| bytes == option);
    assert!(has(b"\x0f\x0fnew.example.org"), "{lease:02x?}");
    assert!(has(b"\x77\x18\x03new\x07example\x03org\0\x01b\x03org\0"), "{lease:02x?}");
}

/// The frame by which the guest is given its address.
fn lease(guest: &mut Guest) -> Vec<u8> {
    let request = DhcpRepr {
        message_type: DhcpMessageType::Discover,
        transaction_id: 7,
        secs: 0,
        client_hardware_address: EthernetAddress(MAC),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: Ipv4Addr::UNSPECIFIED,
        server_ip: Ipv4Addr::UNSPECIFIED,
        router: None,
        subnet_mask: None,
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: true,
        requested_ip: None,
        client_identifier: None,
        server_identifier: None,
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut bytes = vec![0; request.buffer_len()];
    request.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).unwrap();
    let datagram = udp_bytes(68, 67, &bytes);
    guest.wire.seen = Some(Vec::new());
    guest.inject(frame(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, IpProtocol::Udp, &datagram));
    guest.wire.seen.take().unwrap().remove(0)
}
