//! Which addresses a network has, and which of them are free.

use std::{collections::BTreeSet, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::address::{Prefix, number};
use crate::error::{Error, Kind, Result};

/// Where networks without a subnet of their own get one, and how long its prefix is: Docker's list.
const DEFAULT_POOLS: [(&str, u8); 16] = [
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/16", 16),
    ("172.21.0.0/16", 16),
    ("172.22.0.0/16", 16),
    ("172.23.0.0/16", 16),
    ("172.24.0.0/16", 16),
    ("172.25.0.0/16", 16),
    ("172.26.0.0/16", 16),
    ("172.27.0.0/16", 16),
    ("172.28.0.0/16", 16),
    ("172.29.0.0/16", 16),
    ("172.30.0.0/16", 16),
    ("172.31.0.0/16", 16),
    ("192.168.0.0/16", 20),
];
/// The length of an IPv6 subnet taken from the engine's own prefix.
const SUBNET_V6: u8 = 64;

/// A subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pool {
    pub(super) subnet: Prefix,
    /// Where addresses are given out, if not everywhere.
    pub(super) range: Option<Prefix>,
    /// The bridge's own address.
    pub(super) gateway: Option<IpAddr>,
    /// Never given out.
    pub(super) reserved: Vec<IpAddr>,
}

impl Pool {
    /// The lowest free address, if there is one.
    pub(super) fn free(&self, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let range = self.range.unwrap_or(self.subnet);
        let (first, last) = (number(range.first()), number(range.last()));
        let taken = |address: &IpAddr| {
            self.is_special(*address)
                || Some(*address) == self.gateway
                || self.reserved.contains(address)
                || used.contains(address)
        };
        // No more candidates than can be taken, and one.
        let candidates = used.len() + self.reserved.len() + 4;
        let mut next = Some(first);
        for _ in 0..candidates {
            let Some(current) = next.filter(|current| *current <= last) else { break };
            let address = range.at(current);
            if !taken(&address) {
                return Some(address);
            }
            next = current.checked_add(1);
        }
        None
    }

    /// Checks that an address asked for is free.
    pub(super) fn check_free(&self, address: IpAddr, used: &BTreeSet<IpAddr>) -> Result<()> {
        let taken = self.is_special(address)
            || Some(address) == self.gateway
            || self.reserved.contains(&address)
            || used.contains(&address);
        if taken { Err(in_use()) } else { Ok(()) }
    }

    /// The subnet's own address, and that of all in it.
    fn is_special(&self, address: IpAddr) -> bool {
        let subnet = &self.subnet;
        let hosts = if subnet.is_ipv4() { 32 } else { 128 } - subnet.length;
        hosts > 1 && (address == subnet.first() || (subnet.is_ipv4() && address == subnet.last()))
    }
}

/// Docker's words for a network without a free address.
pub(super) fn exhausted(ipv4: bool, name: &str, id: &str) -> Error {
    let family = if ipv4 { "IPv4" } else { "IPv6" };
    Error::system(format!("no available {family} addresses on this network's address pools: {name} ({id})"))
}

/// Docker's words for an address that somebody has.
pub(super) fn in_use() -> Error {
    Error::new(Kind::Forbidden, "Address already in use")
}

/// Docker's words for a subnet that somebody has.
pub(super) fn overlapping() -> Error {
    Error::new(Kind::Forbidden, "invalid pool request: Pool overlaps with other one on this address space")
}

/// The first of Docker's pools that overlaps nothing in `taken`.
pub(super) fn default_v4(taken: &[Prefix]) -> Result<Prefix> {
    for (pool, length) in DEFAULT_POOLS {
        let Ok(pool) = pool.parse::<Prefix>() else { continue };
        let count = 1u32 << (length - pool.length);
        for index in 0..count {
            let first = number(pool.address) + (u128::from(index) << (32 - length));
            let subnet = Prefix::new(pool.at(first), length);
            if !taken.iter().any(|other| other.overlaps(&subnet)) {
                return Ok(subnet);
            }
        }
    }
    Err(Error::system("all predefined address pools have been fully subnetted"))
}

/// The first subnet of this engine's own unique local prefix (RFC 4193) that overlaps nothing in `taken`.
/// `seed` is the engine's identity.
pub(super) fn default_v6(seed: &str, taken: &[Prefix]) -> Result<Prefix> {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(seed);
    let mut prefix = [0; 16];
    prefix[0] = 0xfd;
    prefix[1..6].copy_from_slice(&digest[..5]);
    let base = u128::from_be_bytes(prefix);
    (0..=u128::from(u16::MAX))
        .map(|index| Prefix::new(IpAddr::V6((base | index << (128 - SUBNET_V6)).into()), SUBNET_V6))
        .find(|subnet| !taken.iter().any(|other| other.overlaps(subnet)))
        .ok_or_else(|| Error::system("all predefined address pools have been fully subnetted"))
}

/// The networks that this machine has routes to, from `/proc/net/route` and `/proc/net/ipv6_route`.
pub(super) fn routed() -> Vec<Prefix> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = routes_v4(&read("/proc/net/route"));
    v4.into_iter().chain(routes_v6(&read("/proc/net/ipv6_route"))).collect()
}

fn routes_v4(table: &str) -> Vec<Prefix> {
    let route = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let number = |word: Option<&str>| u32::from_str_radix(word?, 16).ok();
        let destination = number(words.next())?;
        let mask = number(words.nth(5))?;
        let length = u8::try_from(mask.count_ones()).ok().filter(|length| *length > 0)?;
        // The kernel prints the bytes of network order as a number of its own order.
        Some(Prefix::new(IpAddr::V4(u32::from_be_bytes(destination.to_ne_bytes()).into()), length))
    };
    table.lines().skip(1).filter_map(route).collect()
}

fn routes_v6(table: &str) -> Vec<Prefix> {
    let route = |line: &str| {
        let mut words = line.split_whitespace();
        let destination = u128::from_str_radix(words.next()?, 16).ok()?;
        let length = u8::from_str_radix(words.next()?, 16).ok().filter(|length| (1..128).contains(length))?;
        let prefix = Prefix::new(IpAddr::V6(destination.into()), length);
        // Every link has these.
        let everywhere = prefix.address.is_multicast() || destination >> 118 == 0xfe80 >> 6;
        (!everywhere).then_some(prefix)
    };
    table.lines().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(subnet: &str, range: Option<&str>, gateway: &str) -> Pool {
        Pool {
            subnet: subnet.parse().unwrap(),
            range: range.map(|range| range.parse().unwrap()),
            gateway: Some(gateway.parse().unwrap()),
            reserved: Vec::new(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_is_given() {
        let mut small = pool("10.0.0.0/29", None, "10.0.0.1");
        small.reserved.push(ip("10.0.0.3"));
        let mut used = BTreeSet::new();
        for last in [2, 4, 5, 6] {
            let address = small.free(&used).unwrap();
            assert_eq!(address, ip(&format!("10.0.0.{last}")));
            used.insert(address);
        }
        assert_eq!(small.free(&used), None);
        used.remove(&ip("10.0.0.4"));
        assert_eq!(small.free(&used).unwrap(), ip("10.0.0.4"));
        for taken in ["10.0.0.0", "10.0.0.1", "10.0.0.3", "10.0.0.5", "10.0.0.7"] {
            assert_eq!(small.check_free(ip(taken), &used).unwrap_err().to_string(), "Address already in use");
        }
    }

    #[test]
    fn a_range_may_begin_at_its_own_network() {
        // As Docker does it: only the subnet's own ends are special.
        let ranged = pool("10.21.0.0/16", Some("10.21.5.0/24"), "10.21.5.254");
        assert_eq!(ranged.free(&BTreeSet::new()).unwrap(), ip("10.21.5.0"));
        let six = pool("fd00::/64", None, "fd00::1");
        assert_eq!(six.free(&BTreeSet::new()).unwrap(), ip("fd00::2"));
        let point_to_point = pool("10.0.0.0/31", None, "10.0.0.0");
        assert_eq!(point_to_point.free(&BTreeSet::new()).unwrap(), ip("10.0.0.1"));
    }

    #[test]
    fn subnets_do_not_overlap_others() {
        let mut taken = vec!["172.16.0.0/14".parse().unwrap()];
        assert_eq!(default_v4(&taken).unwrap().to_string(), "172.20.0.0/16");
        taken.push("172.16.0.0/12".parse().unwrap());
        assert_eq!(default_v4(&taken).unwrap().to_string(), "192.168.0.0/20");
        taken.push("192.168.0.0/20".parse().unwrap());
        assert_eq!(default_v4(&taken).unwrap().to_string(), "192.168.16.0/20");
        taken.push("192.168.0.0/16".parse().unwrap());
        assert!(default_v4(&taken).is_err());
        let first = default_v6("seed", &[]).unwrap();
        assert!(first.to_string().starts_with("fd") && first.length == 64);
        let second = default_v6("seed", &[first]).unwrap();
        assert!(!second.overlaps(&first) && default_v6("seed", &[]).unwrap() == first);
    }

    #[test]
    fn the_kernels_routes_are_read() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t0111A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";
        assert_eq!(routes_v4(table), ["172.17.0.0/16".parse().unwrap()]);
        let table = "fd000003000000000000000000000000 40 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 00000100 00000001 00000000 00000001 br0\n\
                     fe800000000000000000000000000000 40 0 00 0 00000100 1 0 1 br0\n";
        assert_eq!(routes_v6(table), ["fd00:3::/64".parse().unwrap()]);
        assert!(routes_v4("").is_empty() && routes_v6("x").is_empty());
    }
}
