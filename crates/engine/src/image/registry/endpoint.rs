use std::net::IpAddr;

use crate::image::reference::Reference;

/// Where Docker Hub's registry is.
const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// A place where a repository may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// With `/v2`, without a slash at its end.
    pub(super) base: String,
    /// Any certificate will do.
    pub(super) lenient: bool,
    /// It stands in for another registry: its refusals do not count.
    pub(super) mirror: bool,
}

/// The places to look for a reference, in order: mirrors before Docker Hub; HTTPS before HTTP.
pub(super) fn endpoints(reference: &Reference, mirrors: &[String], insecure: bool) -> Vec<Endpoint> {
    let at = |base: &str, lenient, mirror| Endpoint { base: format!("{base}/v2"), lenient, mirror };
    if reference.is_docker_hub() {
        let mirrors = mirrors.iter().map(|mirror| at(mirror, mirror.starts_with("http:"), true));
        return mirrors.chain([at(DOCKER_HUB, false, false)]).collect();
    }
    let domain = reference.domain();
    let secure = at(&format!("https://{domain}"), insecure, false);
    if insecure { vec![secure, at(&format!("http://{domain}"), true, false)] } else { vec![secure] }
}

/// A domain without its port and brackets.
pub(super) fn host(domain: &str) -> &str {
    if let Some(rest) = domain.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(address, _)| address);
    }
    domain.split_once(':').map_or(domain, |(host, _)| host)
}

/// A range of addresses: `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let bits = bits.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { address, bits })
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(name: &str, mirrors: &[&str], insecure: bool) -> Vec<String> {
        let mirrors: Vec<String> = mirrors.iter().map(|text| (*text).to_owned()).collect();
        let reference = Reference::parse(name).unwrap();
        endpoints(&reference, &mirrors, insecure).into_iter().map(|one| one.base).collect()
    }

    #[test]
    fn mirrors_stand_in_for_docker_hub_only() {
        assert_eq!(
            bases("busybox", &["http://m:1"], false),
            ["http://m:1/v2", "https://registry-1.docker.io/v2"]
        );
        assert_eq!(bases("ghcr.io/a", &["http://m:1"], false), ["https://ghcr.io/v2"]);
        assert_eq!(
            bases("127.0.0.1:5000/a", &[], true),
            ["https://127.0.0.1:5000/v2", "http://127.0.0.1:5000/v2"]
        );
    }

    #[test]
    fn networks_contain_what_begins_like_them() {
        let contains = |network: &str, address: &str| {
            Network::parse(network).unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("0.0.0.0/0", "8.8.8.8"));
        assert!(contains("1.2.3.4/32", "1.2.3.4"));
        assert!(!contains("1.2.3.4/32", "1.2.3.5"));
        assert!(contains("fd00::/8", "fdff::1"));
        assert!(!contains("fd00::/8", "10.0.0.1"));
    }
}
