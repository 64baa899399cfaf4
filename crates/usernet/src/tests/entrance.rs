//! Clients of the host's, led to who is behind the guest.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use smoltcp::wire::{IpAddress, IpCidr, IpProtocol};

use crate::config::Config;
use crate::testing::{GATEWAY, GUEST, Guest, HOST, frame, syn};

const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const PORT: u16 = 80;
const SERVER: SocketAddrV4 = SocketAddrV4::new(CONTAINER, PORT);

/// A guest that a container is behind.
fn guest_of(config: Config) -> Guest {
    let mut guest = Guest::new(config);
    guest.stack.update_ip_addrs(|addresses| {
        addresses.push(IpCidr::new(IpAddress::Ipv4(CONTAINER), 16)).unwrap();
    });
    // From here on the network knows the guest.
    guest.inject(frame(GUEST, GATEWAY, IpProtocol::Icmp, &[8, 0, 0, 0, 1, 2, 3, 4]));
    guest
}

fn guest() -> Guest {
    guest_of(Config::default())
}

/// A client's end of a connection, and the one that is led in.
fn client() -> (TcpStream, OwnedFd) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (ours, listener.accept().unwrap().0.into())
}

fn listen(guest: &mut Guest) -> SocketHandle {
    let buffer = || tcp::SocketBuffer::new(vec![0; 256 << 10]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(PORT).unwrap();
    guest.sockets.add(socket)
}

/// A connection that has come about.
fn lead(guest: &mut Guest) -> (TcpStream, SocketHandle) {
    let handle = listen(guest);
    let (ours, theirs) = client();
    guest.network.entrance().lead(SERVER, theirs).unwrap();
    guest.until("a connection", |guest| guest.tcp(handle).state() == tcp::State::Established);
    (ours, handle)
}

#[test]
fn nobody_is_led_to_a_guest_without_an_address() {
    let guest = Guest::new(Config::default());
    let (_ours, theirs) = client();
    assert!(guest.network.entrance().lead(SERVER, theirs).is_err());
}

#[test]
fn bytes_arrive_whole_both_ways_and_each_end_is_told() {
    let mut guest = guest();
    let (mut ours, handle) = lead(&mut guest);
    let remote = guest.tcp(handle).remote_endpoint().unwrap();
    assert_eq!(remote.addr, IpAddress::Ipv4(GATEWAY));
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let expected = data.clone();
    let client = std::thread::spawn(move || {
        let mut reader = ours.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            ours.write_all(&data).unwrap();
            // The other half is still open.
            ours.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        writer.join().unwrap();
        all
    });
    // An echo.
    let mut waiting = Vec::new();
    guest.until("the client's end", |guest| {
        let socket = guest.tcp(handle);
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), waiting.extend_from_slice(bytes))).unwrap();
        }
        if socket.can_send() && !waiting.is_empty() {
            let sent = socket.send_slice(&waiting).unwrap();
            waiting.drain(..sent);
        }
        socket.state() == tcp::State::CloseWait && waiting.is_empty()
    });
    guest.tcp(handle).close();
    guest.until("the end", |guest| guest.network.conversations() == (0, 0));
    assert!(client.join().unwrap() == expected, "other bytes came back");
}

#[test]
fn who_is_refused_is_closed() {
    let mut guest = guest();
    let (mut ours, theirs) = client();
    guest.network.entrance().lead(SERVER, theirs).unwrap();
    guest.until("an answer", |guest| guest.network.conversations() == (0, 0));
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn resets_go_both_ways() {
    let mut guest = guest();
    let (mut ours, handle) = lead(&mut guest);
    guest.tcp(handle).abort();
    guest.until("the connection is gone", |guest| guest.network.conversations() == (0, 0));
    assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let (ours, handle) = lead(&mut guest);
    rustix::net::sockopt::set_socket_linger(&ours, Some(Duration::ZERO)).unwrap();
    drop(ours);
    guest.until("a reset", |guest| guest.tcp(handle).state() == tcp::State::Closed);
    assert_eq!(guest.network.conversations(), (0, 0));
}

#[test]
fn clients_of_one_server_are_told_apart() {
    let mut guest = guest();
    let all: Vec<_> = (0..5_u8).map(|_| lead(&mut guest)).collect();
    assert_eq!(guest.network.conversations(), (5, 0));
    for (number, (ours, _)) in all.iter().enumerate() {
        let mut ours: &TcpStream = ours;
        ours.write_all(&[u8::try_from(number).unwrap()]).unwrap();
    }
    for (number, (_, handle)) in all.iter().enumerate() {
        let mut byte = [0];
        guest.until("a byte", |guest| guest.tcp(*handle).can_recv());
        guest.tcp(*handle).recv_slice(&mut byte).unwrap();
        assert_eq!(usize::from(byte[0]), number);
    }
}

#[test]
fn only_who_was_led_to_may_answer() {
    let mut guest = guest();
    let (_ours, handle) = lead(&mut guest);
    let client = guest.tcp(handle).remote_endpoint().unwrap().port;
    let stranger = Ipv4Addr::new(172, 17, 0, 3);
    for (source, port, target, target_port) in [
        (stranger, PORT, GATEWAY, client),
        (CONTAINER, PORT + 1, GATEWAY, client),
        (CONTAINER, PORT, GATEWAY, client + 1),
        (CONTAINER, PORT, HOST, client),
    ] {
        guest.wire.seen = Some(Vec::new());
        guest.inject(frame(source, target, IpProtocol::Tcp, &syn(port, target_port)));
        assert_eq!(guest.wire.seen.take().as_deref(), Some(&[][..]), "{source}:{port} was answered");
        assert_eq!(guest.network.conversations(), (1, 0));
    }
}

#[test]
fn too_many_are_closed() {
    let mut config = Config::default();
    config.limits.connections = 1;
    let mut guest = guest_of(config);
    let (_first, _) = lead(&mut guest);
    let (mut ours, theirs) = client();
    guest.network.entrance().lead(SERVER, theirs).unwrap();
    guest.work();
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_guest_that_begins_anew_has_no_clients() {
    let mut guest = guest();
    let (mut led, _) = lead(&mut guest);
    let (mut waiting, theirs) = client();
    guest.network.entrance().lead(SERVER, theirs).unwrap();
    guest.network.reset();
    assert_eq!(led.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
    let (_ours, theirs) = client();
    assert!(guest.network.entrance().lead(SERVER, theirs).is_err());
}
