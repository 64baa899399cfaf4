//! Requests as they come in, checked in Docker's words.

use std::net::IpAddr;

use wire::docker::network::{EndpointSettings, IpamConfig};

use super::{
    Network,
    address::{Mac, Prefix},
    interface,
    ipam::Pool,
    mode,
};
use crate::error::{Error, Kind, Result, refuse};

/// The pools that a request asks for.
///
/// # Errors
/// What is wrong with them, all at once.
pub(super) fn pools(configs: &[IpamConfig]) -> Result<Vec<Pool>> {
    let mut faults = Vec::new();
    let pools = configs.iter().filter_map(|config| pool(config, &mut faults)).collect();
    refuse("invalid network config:\n", &faults)?;
    Ok(pools)
}

fn pool(config: &IpamConfig, faults: &mut Vec<String>) -> Option<Pool> {
    let text = &config.subnet;
    let subnet: Prefix = match text.parse() {
        Ok(subnet) => subnet,
        Err(error) => {
            faults.push(format!("invalid subnet {text}: {error}"));
            return None;
        }
    };
    if subnet != subnet.network() {
        faults.push(format!("invalid subnet {subnet}: it should be {}", subnet.network()));
    }
    let subnet = subnet.network();
    let mut range = None;
    if !config.ip_range.is_empty() {
        let text = &config.ip_range;
        match text.parse::<Prefix>() {
            Err(error) => faults.push(format!("invalid ip-range {text}: {error}")),
            Ok(wanted) if wanted != wanted.network() => {
                faults.push(format!("invalid ip-range {wanted}: it should be {}", wanted.network()));
            }
            Ok(wanted) if !subnet.contains_network(&wanted) => faults
                .push(format!("invalid ip-range {wanted}: parent subnet {subnet} doesn't contain ip-range")),
            Ok(wanted) => range = Some(wanted),
        }
    }
    let mut address = |what: &str, name: &str, text: &str| match text.parse::<IpAddr>() {
        Err(_) => {
            faults.push(format!("invalid {what} {name}: invalid address"));
            None
        }
        Ok(address) if !subnet.contains(address) => {
            faults
                .push(format!("invalid {what} {name}: parent subnet {subnet} doesn't contain this address"));
            None
        }
        Ok(address) => Some(address),
    };
    let gateway = match config.gateway.as_str() {
        "" => None,
        text => address("gateway", text, text),
    };
    let others = config.auxiliary_addresses.iter();
    let reserved = others.filter_map(|(name, text)| address("auxiliary address", name, text)).collect();
    Some(Pool { subnet, range, gateway, reserved })
}

/// An endpoint's settings for a network.
///
/// # Errors
/// Addresses that are none, or that the network cannot have.
pub(super) fn endpoint(network: &Network, settings: &EndpointSettings) -> Result<()> {
    let mut faults = Vec::new();
    if let Some(wanted) = &settings.ipam_config {
        let mut local = Vec::new();
        for (family, text) in [("IPv4", &wanted.ipv4_address), ("IPv6", &wanted.ipv6_address)] {
            if text.is_empty() {
                continue;
            }
            match text.parse::<IpAddr>() {
                Ok(address) if address.is_ipv4() == (family == "IPv4") && !address.is_unspecified() => {}
                _ => faults.push(format!("invalid {family} address: {text}")),
            }
            if mode::is_predefined(&network.api.name) {
                let fault = "user specified IP address is supported on user defined networks only";
                faults.push(fault.to_owned());
            }
            local.push(text);
        }
        for text in wanted.link_local_ips.iter().flatten() {
            if text.parse::<IpAddr>().map_or(true, |address| address.is_unspecified()) {
                faults.push(format!("invalid link-local IP address: {text}"));
            }
        }
        for text in local {
            if !network.has_own_subnets {
                faults.push(
                    "user specified IP address is supported only when connecting to networks with user \
                     configured subnets"
                        .to_owned(),
                );
                continue;
            }
            let address = text.parse::<IpAddr>().ok();
            let inside =
                address.is_some_and(|address| network.pools.iter().any(|pool| pool.subnet.contains(address)));
            if !inside {
                faults.push(format!("no configured subnet or ip-range contain the IP address {text}"));
            }
        }
    }
    faults.extend(interface::sysctls(settings).into_iter().filter_map(Result::err));
    refuse("invalid endpoint settings:\n", &faults)
}

/// The address of a link that an endpoint's settings ask for.
///
/// # Errors
/// What is no such address.
pub(super) fn mac(text: &str) -> Result<Option<Mac>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| Error::invalid(format!("invalid MAC address {text}")))
}

/// A name for a network of the user's.
///
/// # Errors
/// None, and those that the engine's own networks have.
pub(super) fn name(name: &str) -> Result<()> {
    if name.trim().is_empty() {
        return Err(Error::invalid("invalid name: name is empty"));
    }
    if mode::is_predefined(name) {
        let message = format!("operation is not permitted on predefined {name} network ");
        return Err(Error::new(Kind::Forbidden, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(subnet: &str, range: &str, gateway: &str, other: &str) -> String {
        let mut config = IpamConfig {
            subnet: subnet.to_owned(),
            ip_range: range.to_owned(),
            gateway: gateway.to_owned(),
            ..IpamConfig::default()
        };
        if !other.is_empty() {
            config.auxiliary_addresses.insert("a".to_owned(), other.to_owned());
        }
        pools(&[config]).map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn pools_are_checked_in_dockers_words() {
        assert_eq!(refusal("10.7.0.0/24", "10.7.0.0/25", "10.7.0.1", "10.7.0.9"), "");
        for (subnet, range, gateway, other, fault) in [
            ("10.1.0.0/33", "", "", "", "invalid subnet 10.1.0.0/33: invalid CIDR block notation"),
            ("", "", "10.8.0.1", "", "invalid subnet : invalid CIDR block notation"),
            ("10.1.0.5/24", "", "", "", "invalid subnet 10.1.0.5/24: it should be 10.1.0.0/24"),
            (
                "10.7.0.0/24",
                "",
                "10.8.0.1",
                "",
                "invalid gateway 10.8.0.1: parent subnet 10.7.0.0/24 doesn't contain this address",
            ),
            ("10.7.0.0/24", "", "xx", "", "invalid gateway xx: invalid address"),
            (
                "10.7.0.0/24",
                "10.8.0.0/25",
                "",
                "",
                "invalid ip-range 10.8.0.0/25: parent subnet 10.7.0.0/24 doesn't contain ip-range",
            ),
            (
                "10.7.0.0/24",
                "",
                "",
                "10.8.0.1",
                "invalid auxiliary address a: parent subnet 10.7.0.0/24 doesn't contain this address",
            ),
        ] {
            assert_eq!(refusal(subnet, range, gateway, other), format!("invalid network config:\n{fault}"));
        }
        let two = refusal("10.7.0.0/24", "", "xx", "yy");
        assert_eq!(
            two,
            "invalid network config:\n* invalid gateway xx: invalid address\n* invalid auxiliary address a: \
             invalid address"
        );
    }

    #[test]
    fn names_of_the_engines_own_networks_are_refused() {
        assert_eq!(name(" ").unwrap_err().to_string(), "invalid name: name is empty");
        let refused = name("bridge").unwrap_err().to_string();
        assert_eq!(refused, "operation is not permitted on predefined bridge network ");
        name("back end").unwrap();
    }
}
