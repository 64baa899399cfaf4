use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use fuzzing::fuzz;
use smoltcp::wire::{EthernetFrame, IpProtocol, TcpPacket};

use super::frames::{small, work};
use crate::network::Network;
use crate::packet::Packet;
use crate::testing::{GATEWAY, GUEST, HOST, Wire, frame, question};

const PORTS: u8 = 4;
/// Who is behind the guest; clients of the host's are led there.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(172, 17, 0, 2), 80);
const SYN: u8 = 2;

/// What the guest knows of one of its connections.
#[derive(Debug, Clone, Copy, Default)]
struct End {
    sequence: u32,
    expected: u32,
}

/// A guest and a host that do what bytes tell them.
struct Players<'a> {
    network: Network,
    wire: Wire,
    ends: [End; PORTS as usize],
    /// The last client's end, and the port that it comes from.
    led: (End, u16),
    listener: &'a TcpListener,
    streams: Vec<TcpStream>,
    orders: &'a [u8],
}

impl Players<'_> {
    /// The next number of the orders.
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.orders.split_first()?;
        self.orders = rest;
        Some(*first)
    }

    fn work(&mut self) {
        for frame in work(&mut self.network, &mut self.wire) {
            let frame = EthernetFrame::new_checked(&frame[..]).unwrap();
            let Some(packet) = Packet::parse(frame.payload()) else { continue };
            let Ok(segment) = TcpPacket::new_checked(packet.payload) else { continue };
            let index = segment.dst_port().wrapping_sub(1);
            let (led, from) = &mut self.led;
            let end = if packet.target == *SERVER.ip() {
                *from = segment.src_port();
                Some(led)
            } else {
                self.ends.get_mut(usize::from(index))
            };
            let Some(end) = end else { continue };
            let begin = segment.seq_number().0.cast_unsigned();
            end.expected = begin.wrapping_add(u32::try_from(segment.segment_len()).unwrap());
        }
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            // No port of the host's is to be kept for long.
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            self.streams.push(stream);
        }
    }

    /// A segment: which connection, flags, how much data, and by how much its numbers are beside the right ones.
    fn segment(&mut self) -> Option<()> {
        let (index, flags, len, sequence_off, ack_off, window) = (
            self.next()? % (PORTS + 1),
            self.next()?,
            self.next()?,
            self.next()?,
            self.next()?,
            self.next()?,
        );
        let port = self.listener.local_addr().ok()?.port();
        let (led, from) = &mut self.led;
        let end = self.ends.get_mut(usize::from(index)).unwrap_or(led);
        let off = |number: u32, by: u8| number.wrapping_add_signed(i32::from(by.cast_signed()).pow(3));
        // The last one is with the name server, and what it says is what the orders are.
        let (source, target, data) = if index == PORTS {
            let data = vec![len; usize::from(len) * usize::from(len)];
            (SERVER, SocketAddrV4::new(GATEWAY, *from), data)
        } else if index + 1 == PORTS {
            let (data, rest) = self.orders.split_at(self.orders.len().min(len.into()));
            self.orders = rest;
            (SocketAddrV4::new(GUEST, PORTS.into()), SocketAddrV4::new(GATEWAY, 53), data.to_vec())
        } else {
            let data = vec![len; usize::from(len) * usize::from(len)];
            (SocketAddrV4::new(GUEST, u16::from(index + 1)), SocketAddrV4::new(HOST, port), data)
        };
        let mut bytes = [source.port().to_be_bytes(), target.port().to_be_bytes()].concat();
        bytes.extend_from_slice(&off(end.sequence, sequence_off).to_be_bytes());
        bytes.extend_from_slice(&off(end.expected, ack_off).to_be_bytes());
        let syn = flags & SYN != 0;
        bytes.extend_from_slice(&[if syn { 0x70 } else { 0x50 }, flags, window, window, 0, 0, 0, 0]);
        if syn {
            bytes.extend_from_slice(&[2, 4, window, 0xb4, 1, 3, 3, ack_off]);
        }
        bytes.extend_from_slice(&data);
        if sequence_off == 0 {
            let counted = u32::try_from(data.len()).unwrap() + u32::from(flags & 3 != 0);
            end.sequence = end.sequence.wrapping_add(counted);
        }
        self.wire.from_guest.push_back(frame(*source.ip(), *target.ip(), IpProtocol::Tcp, &bytes));
        Some(())
    }

    /// Something that the host does to one of its ends.
    fn host(&mut self) -> Option<()> {
        let (which, what) = (usize::from(self.next()?), self.next()?);
        if self.streams.is_empty() {
            return Some(());
        }
        let which = which % self.streams.len();
        let stream = &mut self.streams[which];
        // Whatever fails, fails to the guest, too.
        match what % 6 {
            0 => drop(stream.write(&vec![what; usize::from(what) * 600])),
            1 => drop(stream.read(&mut vec![0; 1 << 18])),
            2 => drop(stream.shutdown(Shutdown::Write)),
            3 => drop(stream.shutdown(Shutdown::Read)),
            4 => drop(stream.write(&[what])),
            _ => drop(self.streams.swap_remove(which)),
        }
        Some(())
    }

    /// A client of the host's wants to the guest.
    fn lead(&mut self) {
        let Ok(address) = self.listener.local_addr() else { return };
        let client = TcpStream::connect(address).unwrap();
        // When the guest has said nothing yet, it comes back and ends here.
        let _ = self.network.entrance().lead(SERVER, client.into());
    }

    fn play(&mut self) {
        while let Some(order) = self.next() {
            let went_on = match order % 8 {
                0..4 => self.segment(),
                4..6 => self.host(),
                6 => {
                    self.wire.room = (order & 0x80 != 0).then_some(1);
                    Some(())
                }
                _ => {
                    match order {
                        0xff => self.network.reset(),
                        0x0f => self.lead(),
                        _ => {}
                    }
                    Some(())
                }
            };
            if went_on.is_none() {
                break;
            }
            self.work();
        }
    }
}

#[test]
fn connections() {
    let listeners: Vec<TcpListener> = (0..8).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    const OPEN: [u8; 7] = [0, 0, SYN, 0, 0, 0, 0xff];
    const ACK: [u8; 7] = [0, 0, 16, 0, 0, 0, 0xff];
    const DATA: [u8; 7] = [0, 0, 24, 100, 0, 0, 0xff];
    const FIN: [u8; 7] = [0, 0, 17, 0, 0, 0, 0xff];
    const RESET: [u8; 7] = [0, 0, 20, 0, 0, 0, 0];
    let one = |orders: &[&[u8]]| [&OPEN[..], &[7], &ACK, &orders.concat()].concat();
    let mut asks = vec![0, 3, SYN, 0, 0, 0, 0xff, 7, 0, 3, 16, 0, 0, 0, 0xff];
    for name in ["host.docker.internal", "example.org"] {
        let query = question(name);
        let len = u8::try_from(query.len()).unwrap();
        asks.extend_from_slice(&[0, 3, 24, len + 2, 0, 0, 0xff, 0, len]);
        asks.extend_from_slice(&query);
    }
    // The guest is heard of, a client is led in, and the server agrees.
    const LED: [u8; 11] = [0, 0, 20, 0, 0, 0, 0, 0x0f, 7, 7, 7];
    const AGREED: [u8; 7] = [0, 4, SYN | 16, 0, 0, 0, 0xff];
    let behind = |flags, len| [0, 4, flags, len, 0, 0, 0xff];
    let led = |orders: &[&[u8]]| [&LED[..], &AGREED, &orders.concat()].concat();
    let samples = vec![
        led(&[&behind(24, 100), &[4, 0, 1], &[4, 0, 0], &behind(16, 0), &behind(17, 0), &[4, 0, 2]]),
        led(&[&[4, 0, 240], &[4, 0, 2], &behind(16, 0), &behind(17, 0), &[0x0f], &AGREED]),
        led(&[&behind(24, 100), &behind(20, 0)]),
        [&LED[..], &behind(20, 0)].concat(),
        asks,
        one(&[&DATA, &[4, 0, 1], &[4, 0, 0], &ACK, &FIN, &[4, 0, 2], &ACK]),
        one(&[&[4, 0, 240], &[4, 0, 2], &[7], &ACK, &DATA, &FIN]),
        one(&[&DATA, &DATA, &DATA, &RESET]),
        one(&[&DATA, &[4, 0, 5], &[7], &ACK]),
        one(&[&[6 | 0x80], &[4, 0, 252], &[6], &ACK, &[0, 1, SYN, 9, 0, 0, 2]]),
    ];
    let mut turn = 0;
    fuzz("connections", samples, 4000, |orders| {
        turn += 1;
        let mut players = Players {
            network: Network::new(small()).unwrap(),
            wire: Wire::default(),
            ends: [End::default(); PORTS as usize],
            led: Default::default(),
            listener: &listeners[turn % listeners.len()],
            streams: Vec::new(),
            orders: &orders[..orders.len().min(300)],
        };
        players.play();
        players.network.reset();
        assert_eq!(players.network.buffered(), (0, 0));
    });
}
