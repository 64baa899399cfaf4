//! All of it together: frames are taken apart here and led to who understands them.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol};

use crate::config::{Config, Mac};
use crate::datagram::Datagrams;
use crate::dns::{self, Dns};
use crate::entrance::{Door, Entrance};
use crate::frames::{FRAME_BYTES, Frames, HEADER_BYTES};
use crate::ndp::Router;
use crate::outbox::{Outbox, Stock};
use crate::packet::Packet;
use crate::poller::{Owner, Poller};
use crate::tcp::{Context, Tcp};
use crate::{arp, dhcp, icmp, udp};

/// Frames taken from the guest before it is answered.
const BATCH: usize = 64;

/// Rounds before an exchange ends, so that its caller can do something else.
const ROUNDS: usize = 16;

/// What an exchange has left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing: call again when [`Network::event_source`] is readable, when the guest has sent frames, and when it has
    /// room again after it had none.
    Idle,
    /// More: call again soon.
    Again,
}

/// A network for one guest.
pub struct Network {
    input: Box<[u8]>,
    stock: Stock,
    parts: Parts,
}

/// Everything that a packet may concern.
struct Parts {
    config: Config,
    poller: Poller,
    tcp: Tcp,
    datagrams: Datagrams,
    dns: Dns,
    router: Router,
    door: Door,
}

impl Network {
    /// A network that nothing was said on yet.
    ///
    /// # Errors
    /// When the host gives no descriptors.
    pub fn new(config: Config) -> io::Result<Self> {
        let mut poller = Poller::new()?;
        let door = Door::new(&mut poller)?;
        Ok(Network {
            input: vec![0; FRAME_BYTES].into(),
            stock: Stock::new(config.gateway_mac, config.mtu),
            parts: Parts {
                poller,
                tcp: Tcp::new(&config),
                datagrams: Datagrams::new(config.limits.datagram_flows),
                dns: Dns::new(&config),
                router: Router::default(),
                door,
                config,
            },
        })
    }

    /// Readable when [`exchange`](Self::exchange) has something to do though the guest has sent nothing. It stays the
    /// same for the network's life.
    pub fn event_source(&self) -> BorrowedFd<'_> {
        self.parts.poller.as_fd()
    }

    /// Leads clients of the host's to the guest.
    pub fn entrance(&self) -> Entrance {
        self.parts.door.entrance()
    }

    /// Does all work at hand: takes the guest's frames, moves bytes between it and the host's sockets, and gives it
    /// frames as far as it has room. Never waits.
    ///
    /// # Errors
    /// Those of the link, and those of waiting for sockets. What concerns one conversation only ends that.
    pub fn exchange(&mut self, frames: &mut dyn Frames) -> io::Result<Progress> {
        let parts = &mut self.parts;
        let mut out = Outbox::new(&mut self.stock, frames);
        parts.tcp.adapt(&mut out, Instant::now());
        let mut progress = Progress::Again;
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let mut busy = parts.poll()?;
            busy |= parts.lead_in(now);
            for _ in 0..BATCH {
                // What is taken in may have to be answered.
                if !out.has_room() {
                    break;
                }
                let Some(len) = out.receive(&mut self.input)? else { break };
                busy = true;
                if let Some(frame) = self.input.get(HEADER_BYTES..len) {
                    parts.take(frame, &mut out, now);
                }
            }
            busy |= parts.serve(&mut out, now);
            if !busy {
                progress = Progress::Idle;
                parts.poller.wake_at(parts.deadline(), now)?;
                break;
            }
        }
        out.finish()?;
        Ok(progress)
    }

    /// Ends all conversations: the guest has forgotten them.
    pub fn reset(&mut self) {
        self.stock.reset();
        self.parts.door.close();
        self.parts.tcp.reset();
        self.parts.datagrams.reset();
        self.parts.dns.reset();
        self.parts.router.reset();
    }

    #[cfg(test)]
    pub(crate) fn conversations(&self) -> (usize, usize) {
        (self.parts.tcp.len(), self.parts.datagrams.len())
    }

    /// Bytes of memory for what waits in connections: those counted, and those that the kernel has really given.
    #[cfg(test)]
    pub(crate) fn buffered(&self) -> (usize, usize) {
        self.parts.tcp.buffered()
    }

    /// When it works again though nothing comes.
    #[cfg(test)]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.parts.deadline()
    }
}

impl Parts {
    /// Takes in what the host's sockets have to tell.
    fn poll(&mut self) -> io::Result<bool> {
        let (tcp, datagrams, dns) = (&mut self.tcp, &mut self.datagrams, &mut self.dns);
        self.poller.poll(|owner, id, readable, writable| match owner {
            Owner::Tcp => tcp.on_event(id, readable, writable),
            Owner::Datagram => datagrams.on_event(id, readable),
            Owner::Dns => dns.on_event(id, readable),
            // Whether clients wait is looked at each time.
            Owner::Entrance => {}
        })
    }

    /// Leads clients in that wait; false if there were none.
    fn lead_in(&mut self, now: Instant) -> bool {
        let mut busy = false;
        for _ in 0..BATCH {
            let Some((guest, client)) = self.door.next() else { break };
            busy = true;
            self.tcp.lead_in(guest, client, &self.config, &mut self.poller, now);
        }
        busy
    }

    /// Takes an Ethernet frame of the guest.
    fn take(&mut self, frame: &[u8], out: &mut Outbox<'_>, now: Instant) {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return };
        let EthernetAddress(source) = frame.src_addr();
        if !self.config.may_be_the_guests_card(source) {
            return;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => arp::take(&self.config, source, frame.payload(), out),
            EthernetProtocol::Ipv4 | EthernetProtocol::Ipv6 => {
                let Some(packet) = Packet::parse(frame.payload()) else { return };
                let forged = !self.config.may_be_the_guests(packet.source);
                if !forged {
                    out.know_guest(source);
                    if packet.source.is_ipv4() {
                        self.door.open();
                    }
                }
                self.take_packet(source, &packet, forged, out, now);
            }
            _ => {}
        }
    }

    /// Takes an IP packet. `forged` is one whose source is none of the guest's addresses: before it has one, it may ask
    /// for it, and nothing else.
    fn take_packet(
        &mut self,
        card: Mac,
        packet: &Packet<'_>,
        forged: bool,
        out: &mut Outbox<'_>,
        now: Instant,
    ) {
        match packet.protocol {
            IpProtocol::Udp => {
                let Some((guest, peer, payload)) = packet.udp() else { return };
                if peer.is_ipv4() && peer.port() == dhcp::SERVER_PORT {
                    if (!forged || packet.source.is_unspecified())
                        && dhcp::take(&self.config, (card, guest), payload, self.dns.search(), out)
                    {
                        self.door.open();
                    }
                } else if forged {
                } else if self.config.is_gateway(peer.ip()) && peer.port() == dns::PORT {
                    self.dns.ask(&self.config, (guest, peer), payload, &mut self.poller, out);
                } else {
                    let ends = (guest, peer);
                    udp::take(
                        &self.config,
                        packet,
                        ends,
                        payload,
                        &mut self.datagrams,
                        &mut self.poller,
                        out,
                    );
                }
            }
            IpProtocol::Icmpv6 if self.router.take(&self.config, packet, out, now) => {}
            // Who is behind the guest answers with an address of its own.
            IpProtocol::Tcp if !forged || self.tcp.was_led_to(packet) => {
                let Some(segment) = packet.tcp() else { return };
                let mut context = Context {
                    config: &self.config,
                    servers: &mut self.dns,
                    poller: &mut self.poller,
                    out,
                    now,
                };
                self.tcp.take(packet, segment, &mut context);
            }
            _ if forged => {
                tracing::trace!(source = %packet.source, "a packet with an address that is not the guest's");
            }
            IpProtocol::Icmp if matches!(packet.source, IpAddr::V4(_)) => {
                icmp::take(&self.config, packet, &mut self.datagrams, &mut self.poller, out);
            }
            IpProtocol::Icmpv6 if matches!(packet.source, IpAddr::V6(_)) => {
                icmp::take(&self.config, packet, &mut self.datagrams, &mut self.poller, out);
            }
            _ => {}
        }
    }

    /// Gives the guest what has come for it; false if there was nothing to do.
    fn serve(&mut self, out: &mut Outbox<'_>, now: Instant) -> bool {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.tcp.expire(now);
            self.datagrams.expire(now);
            self.dns.expire(&self.config, &mut self.poller, out, now);
            self.router.expire(&self.config, out, now);
        }
        let mut busy = self.tcp.serve(&self.config, &mut self.poller, out, now);
        busy |= self.datagrams.serve(&self.config, out);
        busy |= self.dns.serve(&self.config, &mut self.poller, out, now);
        busy
    }

    fn deadline(&self) -> Option<Instant> {
        [self.tcp.deadline(), self.datagrams.deadline(), self.dns.deadline(), self.router.deadline()]
            .into_iter()
            .flatten()
            .min()
    }
}
