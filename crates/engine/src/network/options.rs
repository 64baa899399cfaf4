//! Options of the bridge driver, in Docker's names and words.

use std::{collections::BTreeMap, net::IpAddr};

use crate::error::{Error, Result};

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING_V4: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT_V4: &str = "com.docker.network.bridge.inhibit_ipv4";
const GATEWAY_MODE_V4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const GATEWAY_MODE_V6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const HOST_V4: &str = "com.docker.network.host_ipv4";
const HOST_V6: &str = "com.docker.network.host_ipv6";
/// Ways to say what a request has members for.
pub(super) const ENABLE_V4: &str = "com.docker.network.enable_ipv4";
pub(super) const ENABLE_V6: &str = "com.docker.network.enable_ipv6";
const MTU: &str = "com.docker.network.driver.mtu";
const PREFIX: &str = "com.docker.network.container_iface_prefix";

/// The longest name of an interface, in bytes.
pub(super) const MAX_NAME: usize = 15;
/// How containers see their interfaces, unless their network says otherwise.
pub(super) const DEFAULT_PREFIX: &str = "eth";

/// How the containers of a bridge and the world reach each other, in one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum GatewayMode {
    /// Containers appear as this machine; what comes in comes to ports of this machine.
    #[default]
    Nat,
    /// So, and who has a route to containers reaches all their ports.
    NatUnprotected,
    /// Containers appear as themselves; who has a route to them reaches the ports that are published.
    Routed,
    /// Of internal networks: not even this machine has an address in the network.
    Isolated,
}

impl GatewayMode {
    fn parse(name: &str, value: Option<&str>) -> Result<Self> {
        match value {
            None => Ok(Self::default()),
            Some("nat") => Ok(Self::Nat),
            Some("nat-unprotected") => Ok(Self::NatUnprotected),
            Some("routed") => Ok(Self::Routed),
            Some("isolated") => Ok(Self::Isolated),
            Some(value) => Err(wrong(name, value, &format!("unknown gateway mode {value}"))),
        }
    }
}

/// What Go takes for a boolean.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn wrong(name: &str, value: &str, why: &str) -> Error {
    Error::invalid(format!("failed to parse {name} value: {value} ({why})"))
}

/// What the options of a bridge network say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgeOptions {
    pub(super) interface: String,
    mode_v4: GatewayMode,
    mode_v6: GatewayMode,
    inhibit_v4: bool,
    /// Interfaces of this machine whose other sides reach containers directly, past what is published.
    pub(super) trusted: Vec<String>,
    pub(super) icc: bool,
    pub(super) masquerade: bool,
    /// Where ports are published that name no address.
    pub(super) host_binding: Option<IpAddr>,
    host_v4: Option<IpAddr>,
    host_v6: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
    pub(super) container_prefix: String,
}

/// The options of the network `bridge`.
pub(super) fn of_default_bridge() -> BTreeMap<String, String> {
    [
        (DEFAULT_BRIDGE, "true"),
        (ICC, "true"),
        (MASQUERADE, "true"),
        (HOST_BINDING_V4, "0.0.0.0"),
        (NAME, "docker0"),
        (MTU, "1500"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl BridgeOptions {
    /// Reads the options of the network `id`. Those that no driver of ours knows are left alone, as Docker
    /// does.
    ///
    /// # Errors
    /// Values that make no sense, and what this engine does not do.
    pub(super) fn parse(id: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| options.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let flag = |name: &str, default: bool| match get(name) {
            None => Ok(default),
            Some(value) => boolean(value).ok_or_else(|| {
                wrong(name, value, &format!("strconv.ParseBool: parsing {value:?}: invalid syntax"))
            }),
        };
        let interface = match get(NAME) {
            Some(name) => check_interface(name)?,
            None => format!("br-{}", id.get(..12).unwrap_or(id)),
        };
        let address = |name: &str| {
            get(name)
                .map(|value| value.parse::<IpAddr>().map_err(|_| wrong(name, value, "nil ip")))
                .transpose()
        };
        let mtu = get(MTU)
            .map(|value| {
                let number: i64 = value.parse().map_err(|_| {
                    wrong(MTU, value, &format!("strconv.Atoi: parsing {value:?}: invalid syntax"))
                })?;
                u32::try_from(number).map_err(|_| Error::invalid(format!("invalid MTU number: {number}")))
            })
            .transpose()?
            .filter(|mtu| *mtu != 0);
        Ok(Self {
            interface,
            mode_v4: GatewayMode::parse(GATEWAY_MODE_V4, get(GATEWAY_MODE_V4))?,
            mode_v6: GatewayMode::parse(GATEWAY_MODE_V6, get(GATEWAY_MODE_V6))?,
            inhibit_v4: flag(INHIBIT_V4, false)?,
            trusted: get(TRUSTED)
                .into_iter()
                .flat_map(|all| all.split(':'))
                .filter(|name| !name.is_empty())
                .map(check_interface)
                .collect::<Result<_>>()?,
            icc: flag(ICC, true)?,
            masquerade: flag(MASQUERADE, true)?,
            host_binding: address(HOST_BINDING_V4)?,
            host_v4: address(HOST_V4)?.filter(IpAddr::is_ipv4),
            host_v6: address(HOST_V6)?.filter(IpAddr::is_ipv6),
            mtu,
            container_prefix: match get(PREFIX) {
                // A number follows.
                Some(prefix) => check_interface(&format!("{prefix}99")).map(|_| prefix.to_owned())?,
                None => DEFAULT_PREFIX.to_owned(),
            },
        })
    }

    /// Whether this machine is to have an address in the network.
    pub(super) fn is_here(&self, ipv4: bool) -> bool {
        self.mode(ipv4) != GatewayMode::Isolated && !(ipv4 && self.inhibit_v4)
    }

    /// The address of this machine that containers appear to the world with, if it is not that of their way out.
    pub(super) fn host(&self, ipv4: bool) -> Option<IpAddr> {
        if ipv4 { self.host_v4 } else { self.host_v6 }
    }

    pub(super) fn mode(&self, ipv4: bool) -> GatewayMode {
        if ipv4 { self.mode_v4 } else { self.mode_v6 }
    }

    /// Refuses what does not go with a network that leads to the world.
    ///
    /// # Errors
    /// In Docker's words.
    pub(super) fn check_internal(&self, internal: bool) -> Result<()> {
        let is_isolated = [true, false].map(|ipv4| self.mode(ipv4)).contains(&GatewayMode::Isolated);
        if is_isolated && !internal {
            return Err(Error::system("gateway mode 'isolated' can only be used for an internal network"));
        }
        Ok(())
    }
}

/// A name that the kernel takes for an interface.
pub(super) fn check_interface(name: &str) -> Result<String> {
    if name.len() > MAX_NAME {
        return Err(Error::system("numerical result out of range"));
    }
    let odd = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
    if matches!(name, "." | ".." | "lo") || name.contains(odd) {
        return Err(Error::invalid(format!("invalid interface name: {name:?}")));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[(&str, &str)]) -> Result<BridgeOptions> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        BridgeOptions::parse("0123456789abcdef", &options.collect())
    }

    #[test]
    fn options_have_dockers_defaults() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.interface, "br-0123456789ab");
        assert!(options.icc && options.masquerade && options.mtu.is_none());
        let docker0 = BridgeOptions::parse("", &of_default_bridge()).unwrap();
        assert_eq!((docker0.interface.as_str(), docker0.mtu), ("docker0", Some(1500)));
    }

    #[test]
    fn refusals_are_dockers() {
        for (name, value, message) in [
            (ICC, "xx", "value: xx (strconv.ParseBool: parsing \"xx\": invalid syntax)"),
            (MTU, "xx", "value: xx (strconv.Atoi: parsing \"xx\": invalid syntax)"),
            (MTU, "-1", "invalid MTU number: -1"),
            (HOST_BINDING_V4, "zz", "value: zz (nil ip)"),
            (GATEWAY_MODE_V4, "zz", "value: zz (unknown gateway mode zz)"),
            (NAME, "averyveryverylongname", "numerical result out of range"),
            (NAME, "a/b", "invalid interface name: \"a/b\""),
        ] {
            let error = parse(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
