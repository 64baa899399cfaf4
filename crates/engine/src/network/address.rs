//! Addresses: prefixes, and what is in them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address and how many of its bits name the network: `172.17.0.0/16`, `172.17.0.2/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

/// Addresses are counted as numbers of 128 bits; those of IPv4 use the lowest 32.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl Prefix {
    pub(super) fn new(address: IpAddr, length: u8) -> Self {
        Self { address, length }
    }

    /// One address alone.
    pub(super) fn host(address: IpAddr) -> Self {
        Self::new(address, if address.is_ipv4() { 32 } else { 128 })
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    fn bits(&self) -> u8 {
        if self.is_ipv4() { 32 } else { 128 }
    }

    /// The bits that tell addresses of the network apart.
    fn host_mask(&self) -> u128 {
        match self.bits() - self.length {
            128 => u128::MAX,
            bits => (1 << bits) - 1,
        }
    }

    /// The address of this family with that number.
    pub(super) fn at(&self, number: u128) -> IpAddr {
        if self.is_ipv4() {
            Ipv4Addr::from(u32::try_from(number & u128::from(u32::MAX)).unwrap_or_default()).into()
        } else {
            Ipv6Addr::from(number).into()
        }
    }

    /// The lowest address of the network.
    pub(super) fn first(&self) -> IpAddr {
        self.at(number(self.address) & !self.host_mask())
    }

    /// The highest one.
    pub(super) fn last(&self) -> IpAddr {
        self.at(number(self.address) | self.host_mask())
    }

    /// The network alone.
    pub(super) fn network(&self) -> Self {
        Self::new(self.first(), self.length)
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && (number(self.first())..=number(self.last())).contains(&number(address))
    }

    pub(super) fn contains_network(&self, other: &Self) -> bool {
        self.contains(other.first()) && self.contains(other.last())
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// What is no prefix.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR block notation")]
pub(super) struct NotAPrefix;

impl FromStr for Prefix {
    type Err = NotAPrefix;

    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let (address, length) = text.split_once('/').ok_or(NotAPrefix)?;
        let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u8 = length.parse().map_err(|_| NotAPrefix)?;
        let prefix = Self::new(address.parse().map_err(|_| NotAPrefix)?, length);
        if digits && length <= prefix.bits() { Ok(prefix) } else { Err(NotAPrefix) }
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl Mac {
    /// The one that goes with an address. It is the same whenever that address is given out again, so that
    /// neighbours who remember it are right.
    pub(super) fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    pub(super) fn random() -> Self {
        let mut bytes: [u8; 6] = rand::random();
        // Nobody's, and no group.
        bytes[0] = bytes[0] & 0xfc | 0x02;
        Self(bytes)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What is no address of a link.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address")]
pub(super) struct NotAMac;

impl FromStr for Mac {
    type Err = NotAMac;

    fn from_str(text: &str) -> Result<Self, NotAMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let hexadecimal =
                |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            let part = parts.next().filter(hexadecimal).ok_or(NotAMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| NotAMac)?;
        }
        if parts.next().is_some() { Err(NotAMac) } else { Ok(Self(bytes)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_know_their_bounds() {
        let pool = prefix("10.1.2.3/24");
        assert_eq!(pool.network().to_string(), "10.1.2.0/24");
        assert_eq!(pool.last().to_string(), "10.1.2.255");
        assert!(pool.contains("10.1.2.9".parse().unwrap()) && !pool.contains("::9".parse().unwrap()));
        assert!(pool.overlaps(&prefix("10.0.0.0/8")) && prefix("0.0.0.0/0").overlaps(&pool));
        assert!(!pool.overlaps(&prefix("10.1.3.0/24")));
        assert_eq!(prefix("::/0").last().to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        for text in ["10.1.0.0", "10.1.0.0/33", "10.1.0.0/", "10.1.0.0/+8", "x/8", "::/129"] {
            assert_eq!(text.parse::<Prefix>(), Err(NotAPrefix), "{text}");
        }
    }

    #[test]
    fn link_addresses_are_read_and_made() {
        assert_eq!("02:42:ac:11:00:02".parse(), Ok(Mac::of(Ipv4Addr::new(172, 17, 0, 2))));
        assert_eq!("02:42:ac:11:00:02".parse::<Mac>().unwrap().to_string(), "02:42:ac:11:00:02");
        assert_eq!(Mac::random().0[0] & 3, 2);
        for text in ["", "zz", "02:42:ac:11:00", "02:42:ac:11:00:02:03", "02:42:ac:11:00:+2"] {
            assert_eq!(text.parse::<Mac>(), Err(NotAMac), "{text}");
        }
    }
}
