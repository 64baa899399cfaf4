//! What a network is like.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Addresses, names and bounds of a network. The default is the network of a machine.
#[derive(Debug, Clone)]
pub struct Config {
    /// The only IPv4 address that the guest may use; DHCP gives it.
    pub guest: Ipv4Addr,
    /// The router, which is also the DHCP and name server.
    pub gateway: Ipv4Addr,
    /// Stands for the host: connections to it go to the host's own loopback addresses.
    pub host: Ipv4Addr,
    /// Bits of the network in these addresses.
    pub prefix: u8,
    /// The IPv6 network, of 64 bits, in which the guest chooses its addresses.
    pub prefix_v6: Ipv6Addr,
    pub ipv6: Ipv6,
    /// The router's Ethernet address: unicast, locally administered.
    pub gateway_mac: Mac,
    /// The guest's Ethernet address, if it is known: frames from others are dropped.
    pub guest_mac: Option<Mac>,
    /// The largest IP packet that is not marked for segmentation, told to the guest by DHCP and router advertisements.
    pub mtu: u16,
    /// Names that resolve to [`host`](Self::host).
    pub host_names: Vec<String>,
    /// Where the host's name servers and search domains are listed.
    pub resolv_conf: PathBuf,
    /// The port of these name servers.
    pub name_server_port: u16,
    pub limits: Limits,
}

/// Whether the guest is given IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6 {
    /// While the host has a route to the IPv6 internet.
    AsTheHost,
    Always,
}

/// What a guest can make the host spend at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// TCP connections. A guest's attempt beyond is not answered.
    pub connections: usize,
    /// Of these, connections whose other end has not answered yet.
    pub dialing: usize,
    /// Bytes of memory for what waits in connections. Where it is used up, each connection still gets three
    /// pages.
    pub buffers: usize,
    /// UDP conversations and pings. The one unused for longest makes room for a new one.
    pub datagram_flows: usize,
    /// Questions to name servers under way. A question beyond is not answered.
    pub questions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 16_384, dialing: 1024, buffers: 64 << 20, datagram_flows: 1024, questions: 256 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            guest: Ipv4Addr::new(192, 168, 127, 2),
            gateway: Ipv4Addr::new(192, 168, 127, 1),
            host: Ipv4Addr::new(192, 168, 127, 254),
            prefix: 24,
            prefix_v6: Ipv6Addr::new(0xfd63, 0x6f72, 0x6163, 0x6c65, 0, 0, 0, 0),
            ipv6: Ipv6::AsTheHost,
            gateway_mac: [0x02, 0x63, 0x6f, 0x72, 0x61, 0x01],
            guest_mac: None,
            mtu: 65_500,
            host_names: ["host.docker.internal", "gateway.docker.internal", "host.coracle.internal"]
                .map(str::to_owned)
                .to_vec(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            name_server_port: 53,
            limits: Limits::default(),
        }
    }
}

impl Config {
    pub(crate) fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0))
    }

    /// Whether an address is of this network, and so never outside.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let mask = self.netmask().to_bits();
                address.to_bits() & mask == self.gateway.to_bits() & mask
            }
            IpAddr::V6(address) => address.is_unicast_link_local() || self.in_prefix_v6(address),
        }
    }

    fn in_prefix_v6(&self, address: Ipv6Addr) -> bool {
        address.to_bits() >> 64 == self.prefix_v6.to_bits() >> 64
    }

    /// The router's address in the IPv6 network.
    pub(crate) fn gateway_v6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.prefix_v6.to_bits() | 1)
    }

    /// The router's own address on the link.
    pub(crate) fn gateway_link_local(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1)
    }

    /// [`host`](Self::host) in the IPv6 network.
    pub(crate) fn host_v6(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.prefix_v6.to_bits() | 0x254)
    }

    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.gateway,
            IpAddr::V6(address) => address == self.gateway_v6() || address == self.gateway_link_local(),
        }
    }

    pub(crate) fn is_host(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.host,
            IpAddr::V6(address) => address == self.host_v6(),
        }
    }

    /// Whether the guest may send from this Ethernet address: the router never does.
    pub(crate) fn may_be_the_guests_card(&self, address: Mac) -> bool {
        let is_unicast = address[0] & 1 == 0 && address != [0; 6];
        is_unicast && address != self.gateway_mac && self.guest_mac.is_none_or(|guest| guest == address)
    }

    /// Whether the guest may send from this address. Everything else is forged.
    pub(crate) fn may_be_the_guests(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.guest,
            IpAddr::V6(v6) => {
                self.is_local(address)
                    && v6 != self.gateway_v6()
                    && v6 != self.gateway_link_local()
                    && v6 != self.host_v6()
            }
        }
    }

    /// Where a conversation with `address` leads: nowhere for addresses that no socket can be connected to, and for
    /// those of this network that nobody has.
    pub(crate) fn destination(&self, address: IpAddr) -> Destination {
        let connectable = match address {
            IpAddr::V4(address) => {
                !(address.is_unspecified()
                    || address.octets()[0] == 0
                    || address.is_loopback()
                    || address.is_multicast()
                    || address.octets()[0] >= 240)
            }
            IpAddr::V6(address) => {
                !(address.is_unspecified()
                    || address.is_loopback()
                    || address.is_multicast()
                    // Would reach what the IPv4 address is refused for.
                    || address.to_ipv4_mapped().is_some())
            }
        };
        if !connectable {
            Destination::None
        } else if self.is_host(address) {
            Destination::Host
        } else if self.is_gateway(address) {
            Destination::Gateway
        } else if self.is_local(address) {
            Destination::Nobody
        } else {
            Destination::Outside
        }
    }
}

/// Where an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// No address of a single machine.
    None,
    /// This network's, and nobody has it.
    Nobody,
    Gateway,
    /// The host itself.
    Host,
    Outside,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_where_they_should() {
        let config = Config::default();
        for (address, expected) in [
            ("192.168.127.1", Destination::Gateway),
            ("192.168.127.254", Destination::Host),
            ("192.168.127.77", Destination::Nobody),
            ("192.168.128.77", Destination::Outside),
            ("8.8.8.8", Destination::Outside),
            ("127.0.0.1", Destination::None),
            ("0.0.0.0", Destination::None),
            ("224.0.0.251", Destination::None),
            ("255.255.255.255", Destination::None),
            ("::1", Destination::None),
            ("::ffff:127.0.0.1", Destination::None),
            ("ff02::1", Destination::None),
            ("fe80::1", Destination::Gateway),
            ("fe80::2", Destination::Nobody),
            ("fd63:6f72:6163:6c65::254", Destination::Host),
            ("2001:db8::1", Destination::Outside),
        ] {
            assert_eq!(config.destination(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn only_the_guests_addresses_are_the_guests() {
        let config = Config::default();
        let may = |address: &str| config.may_be_the_guests(address.parse().unwrap());
        assert!(may("192.168.127.2") && may("fe80::2") && may("fd63:6f72:6163:6c65::9"));
        for forged in
            ["192.168.127.1", "192.168.127.254", "10.0.0.1", "0.0.0.0", "::", "::1", "2001:db8::1", "fe80::1"]
        {
            assert!(!may(forged), "{forged}");
        }
        assert_eq!(config.netmask(), Ipv4Addr::new(255, 255, 255, 0));
    }
}
