//! What the tests of several modules use.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpCidr, IpProtocol,
};

use crate::config::Config;
use crate::frames::{Frames, HEADER_BYTES, Offloads};
use crate::network::{Network, Progress};
use crate::outbox::{IPV4_BYTES, IPV6_BYTES, write_ip_header};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
/// The guest's address, the host's, and the router's.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);

/// A link in memory.
#[derive(Default)]
pub(crate) struct Wire {
    pub(crate) from_guest: VecDeque<Vec<u8>>,
    pub(crate) to_guest: VecDeque<Vec<u8>>,
    pub(crate) offloads: Offloads,
    /// Frames that the guest has room for; none means any number.
    pub(crate) room: Option<usize>,
    /// Everything that the guest was given, without headers, if it is to be kept.
    pub(crate) seen: Option<Vec<Vec<u8>>>,
    /// TCP ports of which the guest's stack knows nothing, and frames for them.
    pub(crate) aside: Option<(Range<u16>, Vec<Vec<u8>>)>,
}

impl Frames for Wire {
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(bytes) = self.from_guest.pop_front() else { return Ok(None) };
        frame[..HEADER_BYTES].fill(0);
        frame[HEADER_BYTES..HEADER_BYTES + bytes.len()].copy_from_slice(&bytes);
        Ok(Some(HEADER_BYTES + bytes.len()))
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        if self.room.is_some_and(|room| self.to_guest.len() >= room) {
            return Ok(false);
        }
        let bytes = frame[HEADER_BYTES..].to_vec();
        if let Some((ports, frames)) = &mut self.aside
            && tcp_port_of(&bytes).is_some_and(|port| ports.contains(&port))
        {
            frames.push(bytes);
            return Ok(true);
        }
        if let Some(seen) = &mut self.seen {
            seen.push(bytes.clone());
        }
        self.to_guest.push_back(bytes);
        Ok(true)
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }
}

/// The port that a TCP segment over IPv4 is for.
fn tcp_port_of(frame: &[u8]) -> Option<u16> {
    let is_tcp = frame.get(12..14)? == [8, 0] && frame.get(23)? == &6;
    is_tcp.then(|| frame.get(36..38)?.try_into().ok().map(u16::from_be_bytes))?
}

/// The link as the guest's stack has it.
impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_guest.pop_front()?;
        Some((Received(frame), Sending(&mut self.from_guest)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.from_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

pub(crate) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(crate) struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame);
        result
    }
}

/// A guest with a network stack of its own, which verifies every checksum, on a network.
pub(crate) struct Guest {
    pub(crate) network: Network,
    pub(crate) wire: Wire,
    pub(crate) stack: Interface,
    pub(crate) sockets: SocketSet<'static>,
    begun: Instant,
    next_port: u16,
}

impl Guest {
    /// A guest that has the address which it would be given.
    pub(crate) fn new(config: Config) -> Self {
        let mut guest = Guest::without_address(config);
        guest.stack.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(GUEST), 24)).unwrap();
        });
        guest.stack.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        guest
    }

    pub(crate) fn without_address(config: Config) -> Self {
        let mut wire = Wire::default();
        let config_of_stack = smoltcp::iface::Config::new(EthernetAddress(MAC).into());
        let stack = Interface::new(config_of_stack, &mut wire, smoltcp::time::Instant::ZERO);
        Guest {
            network: Network::new(config).unwrap(),
            wire,
            stack,
            sockets: SocketSet::new(Vec::new()),
            begun: Instant::now(),
            next_port: 40_000,
        }
    }

    /// Lets both sides work until there is nothing to do.
    pub(crate) fn work(&mut self) {
        for _ in 0..1000 {
            let now =
                smoltcp::time::Instant::from_micros(i64::try_from(self.begun.elapsed().as_micros()).unwrap());
            self.stack.poll(now, &mut self.wire, &mut self.sockets);
            let progress = self.network.exchange(&mut self.wire).unwrap();
            if progress == Progress::Idle && self.wire.to_guest.is_empty() && self.wire.from_guest.is_empty()
            {
                break;
            }
        }
    }

    /// Works until `done` holds.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Guest) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.work();
            if done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "{what} did not come about");
            // The guest's own timers are short.
            self.wait(Duration::from_millis(5));
        }
    }

    /// Waits until the network has something to do, but not for long.
    pub(crate) fn wait(&self, most: Duration) {
        let most = rustix::time::Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        let mut waits = [PollFd::from_borrowed_fd(self.network.event_source(), PollFlags::IN)];
        poll(&mut waits, Some(&most)).unwrap();
    }

    /// Begins a connection.
    pub(crate) fn dial(&mut self, address: impl Into<IpAddress>, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 256 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        self.next_port += 1;
        socket.connect(self.stack.context(), (address.into(), port), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    /// A connection that has come about.
    pub(crate) fn connect(&mut self, address: impl Into<IpAddress>, port: u16) -> SocketHandle {
        let handle = self.dial(address, port);
        self.until("a connection", |guest| guest.tcp(handle).state() == tcp::State::Established);
        handle
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends a frame that no stack would.
    pub(crate) fn inject(&mut self, frame: Vec<u8>) {
        self.wire.from_guest.push_back(frame);
        self.work();
    }
}

/// An IP packet in a frame from the guest's Ethernet address.
pub(crate) fn frame(
    source: impl Into<IpAddr>,
    target: impl Into<IpAddr>,
    protocol: IpProtocol,
    payload: &[u8],
) -> Vec<u8> {
    let (source, target) = (source.into(), target.into());
    let (ethertype, packet_at) = match source {
        IpAddr::V4(_) => (EthernetProtocol::Ipv4, 14 + IPV4_BYTES),
        IpAddr::V6(_) => (EthernetProtocol::Ipv6, 14 + IPV6_BYTES),
    };
    let mut bytes = vec![0; packet_at + payload.len()];
    let repr = EthernetRepr {
        src_addr: EthernetAddress(MAC),
        dst_addr: EthernetAddress(Config::default().gateway_mac),
        ethertype,
    };
    repr.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    write_ip_header(&mut bytes[14..], source, target, protocol, 64);
    bytes[packet_at..].copy_from_slice(payload);
    bytes
}

/// A UDP datagram without a checksum.
pub(crate) fn udp_bytes(source: u16, target: u16, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + data.len()).unwrap();
    let mut bytes = [source.to_be_bytes(), target.to_be_bytes(), len.to_be_bytes(), [0; 2]].concat();
    bytes.extend_from_slice(data);
    bytes
}

/// A request for a connection.
pub(crate) fn syn(source: u16, target: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), target.to_be_bytes()].concat();
    bytes.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0x40, 0, 0, 0, 0, 0]);
    bytes
}

/// A question for a name's IPv4 address.
pub(crate) fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}
