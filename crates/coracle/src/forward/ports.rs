//! Published ports: opened on the host when the guest's engine asks, and led to containers by the user-mode network, or
//! carried to the engine over vsock.
//!
//! One thread for each port, which waits; TCP connections are handed to the network or the socket device and cost none.

use std::{
    io::{self, BufReader, ErrorKind},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt},
};
use wire::{
    line,
    ports::{Datagram, MAX_DATAGRAM, Open, Opened, Protocol},
    vsock::HOST_PORTS_PORT,
};

use crate::machine::vm::Vm;

/// Ports open at a time, so that a guest cannot use up the host's threads.
const MAX_PORTS: usize = 2048;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long the guest may take to say what it wants, and to take a datagram.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the process ran out of descriptors or memory, which only time mends.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Opens ports for the guest from now on.
pub(crate) fn serve(vm: &Arc<dyn Vm>) {
    let open = Arc::new(AtomicUsize::new(0));
    let weak = Arc::downgrade(vm);
    vm.listen(
        HOST_PORTS_PORT,
        Box::new(move |stream| {
            let (Some(vm), open) = (weak.upgrade(), Arc::clone(&open)) else { return };
            if open.fetch_add(1, Ordering::Relaxed) >= MAX_PORTS {
                open.fetch_sub(1, Ordering::Relaxed);
                // The guest sees the stream end without an answer.
                return;
            }
            let counted = Arc::clone(&open);
            let serving = thread::Builder::new().name("port".to_owned()).spawn(move || {
                if let Err(error) = serve_one(&stream, &*vm) {
                    tracing::warn!("a published port: {error}");
                }
                counted.fetch_sub(1, Ordering::Relaxed);
            });
            if serving.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }),
    );
}

fn serve_one(asker: &UnixStream, vm: &dyn Vm) -> io::Result<()> {
    asker.set_read_timeout(Some(PATIENCE))?;
    asker.set_write_timeout(Some(PATIENCE))?;
    let Some(wanted) = line::read::<Open>(&mut BufReader::new(asker))? else { return Ok(()) };
    let socket = match open(&wanted) {
        Ok(socket) => socket,
        Err(error) => {
            let hint = hint(error, wanted.address);
            return line::write(asker, &Opened::Refused { errno: error.raw_os_error(), hint });
        }
    };
    line::write(asker, &Opened::Open)?;
    match wanted.protocol {
        Protocol::Tcp => carry_connections(&socket.into(), asker, &wanted, vm),
        Protocol::Udp => carry_datagrams(&socket.into(), asker, wanted.guest_port, vm),
    }
}

/// A socket that does not block; of IPv6 it is of nothing else.
fn open(wanted: &Open) -> Result<OwnedFd, Errno> {
    let family = if wanted.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match wanted.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if wanted.address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if wanted.protocol == Protocol::Tcp {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &wanted.address)?;
    if wanted.protocol == Protocol::Tcp {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// What to do about a port that cannot be opened.
fn hint(error: Errno, address: SocketAddr) -> String {
    match error {
        Errno::ACCESS => format!(
            "ports below {} are for the administrator of this computer: publish a higher one, or allow it with \
             sysctl net.ipv4.ip_unprivileged_port_start={}",
            first_unprivileged(),
            address.port()
        ),
        _ => String::new(),
    }
}

fn first_unprivileged() -> String {
    let read = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    read.map_or_else(|_| "1024".to_owned(), |text| text.trim().to_owned())
}

/// Waits until something comes to `socket`; false when the guest has closed its direction.
fn wait(socket: impl AsFd, asker: &UnixStream) -> io::Result<bool> {
    loop {
        let mut fds =
            [PollFd::new(&socket, PollFlags::IN), PollFd::new(asker, PollFlags::IN | PollFlags::RDHUP)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
    }
}

fn carry_connections(
    listener: &TcpListener,
    asker: &UnixStream,
    wanted: &Open,
    vm: &dyn Vm,
) -> io::Result<()> {
    while wait(listener, asker)? {
        match listener.accept() {
            Ok((connection, _)) => {
                // Without it, a byte waits for the answer to the one before.
                let _ = connection.set_nodelay(true);
                let not_led = match wanted.container {
                    Some(container) => vm.lead(container, connection.into()),
                    None => Err(connection.into()),
                };
                if let Err(connection) = not_led {
                    vm.connect_stream(wanted.guest_port, connection);
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {}
            Err(error) => {
                tracing::warn!("cannot accept on a published port: {error}");
                thread::sleep(BACK_OFF);
            }
        }
    }
    Ok(())
}

fn carry_datagrams(socket: &UdpSocket, asker: &UnixStream, guest_port: u32, vm: &dyn Vm) -> io::Result<()> {
    let guest = vm.connect(guest_port, PATIENCE)?;
    guest.set_write_timeout(Some(PATIENCE))?;
    thread::scope(|scope| {
        thread::Builder::new().name("port-back".to_owned()).spawn_scoped(scope, || {
            let mut bytes = Box::new([0; MAX_DATAGRAM]);
            while let Ok(Some(datagram)) = Datagram::read(&guest, &mut bytes) {
                // Who cannot be reached any more has no answer to wait for.
                let _ = socket.send_to(&bytes[..usize::from(datagram.length)], datagram.peer);
            }
        })?;
        let carried = carry_to_guest(socket, asker, &guest);
        // Ends the other thread.
        let _ = guest.shutdown(std::net::Shutdown::Both);
        carried
    })
}

fn carry_to_guest(socket: &UdpSocket, asker: &UnixStream, guest: &UnixStream) -> io::Result<()> {
    let mut bytes = Box::new([0; MAX_DATAGRAM]);
    while wait(socket, asker)? {
        // An error tells of an answer that nobody took.
        if let Ok((length, peer)) = socket.recv_from(&mut bytes[..]) {
            Datagram::write(guest, peer, &bytes[..length])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{Ipv4Addr, SocketAddrV4, TcpStream},
        sync::Mutex,
    };

    use super::*;
    use crate::machine::vm::{Ended, OnStream};

    const GUEST_PORT: u32 = 7;
    /// Who the guest has a network for, and who it has none for.
    const REACHED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 17, 0, 2), 80);
    const NOT_REACHED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 17, 0, 3), 80);

    /// A guest whose engine answers each connection with `hello`, and each datagram with itself. Who is led past the engine is
    /// answered `led`.
    #[derive(Default)]
    struct Guest(Mutex<Option<OnStream>>);

    impl Vm for Guest {
        fn connect(&self, port: u32, _timeout: Duration) -> io::Result<UnixStream> {
            assert_eq!(port, GUEST_PORT);
            let (host, guest) = UnixStream::pair()?;
            thread::spawn(move || {
                let mut bytes = Box::new([0; MAX_DATAGRAM]);
                while let Some(datagram) = Datagram::read(&guest, &mut bytes).unwrap() {
                    let content = &bytes[..usize::from(datagram.length)];
                    Datagram::write(&guest, datagram.peer, content).unwrap();
                }
            });
            Ok(host)
        }

        fn connect_stream(&self, port: u32, stream: OwnedFd) {
            assert_eq!(port, GUEST_PORT);
            TcpStream::from(stream).write_all(b"hello").unwrap();
        }

        fn lead(&self, address: SocketAddrV4, stream: OwnedFd) -> Result<(), OwnedFd> {
            if address != REACHED {
                return Err(stream);
            }
            TcpStream::from(stream).write_all(b"led").unwrap();
            Ok(())
        }

        fn listen(&self, port: u32, on_connection: OnStream) {
            assert_eq!(port, HOST_PORTS_PORT);
            *self.0.lock().unwrap() = Some(on_connection);
        }

        fn wait(&self) -> Ended {
            unreachable!("nobody waits for this guest")
        }

        fn kill(&self) {}

        fn emulator_pid(&self) -> Option<u32> {
            None
        }
    }

    /// A guest that asks for a port, its stream, and the answer.
    fn ask(guest: &Guest, address: SocketAddr, protocol: Protocol) -> (UnixStream, Option<Opened>) {
        ask_for(guest, Open { address, protocol, guest_port: GUEST_PORT, container: None })
    }

    fn ask_for(guest: &Guest, wanted: Open) -> (UnixStream, Option<Opened>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        guest.0.lock().unwrap().as_ref().unwrap()(theirs);
        line::write(&ours, &wanted).unwrap();
        let answer = line::read(&mut BufReader::new(&ours)).unwrap();
        (ours, answer)
    }

    fn free_address() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn served() -> (Arc<Guest>, Arc<dyn Vm>) {
        let guest = Arc::new(Guest::default());
        let vm: Arc<dyn Vm> = guest.clone();
        serve(&vm);
        (guest, vm)
    }

    #[test]
    fn a_port_is_open_as_long_as_it_is_asked_for() {
        let (guest, _vm) = served();
        let address = free_address();
        let (mut asker, answer) = ask(&guest, address, Protocol::Tcp);
        assert_eq!(answer, Some(Opened::Open));
        let mut text = String::new();
        TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        // Somebody has it now.
        let (_other, refused) = ask(&guest, address, Protocol::Tcp);
        let errno = Errno::ADDRINUSE.raw_os_error();
        assert_eq!(refused, Some(Opened::Refused { errno, hint: String::new() }));
        // The end of the stream says that it is free again.
        asker.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(asker.read(&mut [0]).unwrap(), 0);
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn connections_are_led_to_the_container_where_that_can_be() {
        let (guest, _vm) = served();
        for (container, expected) in [(Some(REACHED), "led"), (Some(NOT_REACHED), "hello"), (None, "hello")] {
            let (address, protocol) = (free_address(), Protocol::Tcp);
            let wanted = Open { address, protocol, guest_port: GUEST_PORT, container };
            let (_asker, answer) = ask_for(&guest, wanted);
            assert_eq!(answer, Some(Opened::Open));
            let mut text = String::new();
            TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn datagrams_are_answered_to_who_sent_them() {
        let (guest, _vm) = served();
        let address = free_address();
        let (_asker, answer) = ask(&guest, address, Protocol::Udp);
        assert_eq!(answer, Some(Opened::Open));
        let clients = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        for (number, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.send_to(&[number as u8], address).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            let mut bytes = [9; 8];
            let (length, from) = client.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..length], from), (&[number as u8][..], address));
        }
    }

    #[test]
    fn nonsense_is_no_port() {
        let (guest, _vm) = served();
        let (ours, theirs) = UnixStream::pair().unwrap();
        guest.0.lock().unwrap().as_ref().unwrap()(theirs);
        (&ours).write_all(b"GET / HTTP/1.1\n").unwrap();
        assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
    }
}
