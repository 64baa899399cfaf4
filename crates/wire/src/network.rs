//! The address plan of a machine's network. Each machine is alone on its own, so all have the same addresses.

use std::net::Ipv4Addr;

/// The machine's network card.
pub const CARD: &str = "eth0";
/// The machine's address, which it gets by DHCP.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);
/// The router, which is also the DHCP and name server. Clients of published ports come from it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
/// Stands for the host: connections to it go to the host's own loopback addresses.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
/// Bits of the network in these addresses.
pub const PREFIX: u8 = 24;
/// Names of [`HOST`]. The first two are Docker Desktop's.
pub const HOST_NAMES: [&str; 3] =
    ["host.docker.internal", "gateway.docker.internal", "host.coracle.internal"];
