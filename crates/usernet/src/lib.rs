//! A network for one guest, without any right on the host: Ethernet frames in, host sockets out.
//!
//! The guest sees a small Ethernet with a router, a DHCP server and a name server. What it sends beyond is not routed
//! but spoken anew: each of its TCP connections, UDP conversations and pings becomes a socket of this process, so that
//! the host's routes, firewall and VPN apply as to any program of the user's.
//!
//! This crate owns protocols and sockets. It must not know what a frame travels by (whoever implements [`Frames`] does:
//! a virtio device, a TAP interface, a test), nor what runs in the guest. It has no thread of its own: [`Network`] works
//! when [`Network::exchange`] is called, on whatever thread that is, and tells by a descriptor when to call it.
#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

/// Ethernet addresses for IPv4 addresses.
mod arp;
/// Internet checksums.
mod checksum;
/// What a network is like.
pub mod config;
/// Conversations of datagrams: UDP and pings, each with a socket of its own.
mod datagram;
/// The guest's IPv4 address.
mod dhcp;
/// Names.
mod dns;
/// Clients of the host's that are led to the guest.
mod entrance;
/// Frames, and what carries them.
pub mod frames;
#[cfg(test)]
mod fuzz;
/// Pings, and the word that something cannot be reached.
mod icmp;
/// IPv6 addresses: router and neighbours.
mod ndp;
/// All of it together.
mod network;
/// Frames on their way to the guest.
mod outbox;
/// A packet of the guest, taken apart.
mod packet;
/// Descriptors and deadlines.
mod poller;
mod sys;
/// Connections.
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
/// UDP headers.
mod udp;

pub use config::{Config, Ipv6, Limits};
pub use entrance::Entrance;
pub use frames::{FRAME_BYTES, Frames, HEADER_BYTES, Offloads};
pub use network::{Network, Progress};
pub use sys::{Tap, run_on_tap};
