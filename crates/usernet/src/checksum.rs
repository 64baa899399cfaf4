//! Internet checksums (RFC 1071).
//!
//! Only packets to the guest get one. Those of the guest are not verified: they come through memory, and most leave the
//! guest without one, to be completed by a device that has no use for it.

use std::net::IpAddr;

/// Adds bytes to a sum. `bytes` may have an odd length only at the end of what is summed up.
pub(crate) fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut rest = [0; 4];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    sum + u64::from(u32::from_be_bytes(rest))
}

/// Folds a sum to 16 bits.
pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // It was just made to fit.
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The sum of the pseudo header of TCP, UDP and ICMPv6.
pub(crate) fn pseudo_header(source: IpAddr, target: IpAddr, protocol: u8, len: usize) -> u64 {
    let sum = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => add(add(0, &source.octets()), &target.octets()),
        (IpAddr::V6(source), IpAddr::V6(target)) => add(add(0, &source.octets()), &target.octets()),
        // No packet has addresses of two kinds.
        _ => 0,
    };
    // The length of a packet fits 64 bits.
    sum + u64::from(protocol) + len as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071, section 3.
        assert_eq!(fold(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        assert_eq!(fold(add(0, &[0xff, 0xff, 0xff])), 0xff00, "an odd byte is the upper one");
        assert_eq!(fold(add(0, &[])), 0);
    }
}
