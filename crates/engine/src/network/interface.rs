//! What an endpoint's own options say about its interface in the container.

use std::{fs, io, net::IpAddr, path::PathBuf};

use wire::docker::network::EndpointSettings;

use super::{address::Prefix, options::check_interface};
use crate::error::Result;

const NAME: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// Settings of the kernel for one interface, as `net.ipv4.conf.IFNAME.forwarding=1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sysctl {
    family: String,
    group: String,
    setting: String,
    value: String,
}

fn option<'a>(settings: &'a EndpointSettings, name: &str) -> Option<&'a str> {
    let value = settings.driver_opts.as_ref()?.get(name)?;
    Some(value.as_str()).filter(|value| !value.is_empty())
}

/// The name that an interface is to have.
///
/// # Errors
/// What is none.
pub(super) fn name(settings: &EndpointSettings) -> Result<Option<String>> {
    option(settings, NAME).map(check_interface).transpose()
}

/// The settings that an interface is to have; what is none, in Docker's words.
pub(super) fn sysctls(settings: &EndpointSettings) -> Vec<Result<Sysctl, String>> {
    option(settings, SYSCTLS).into_iter().flat_map(|all| all.split(',')).map(Sysctl::parse).collect()
}

/// Addresses for the link alone, which no network gives out: of RFC 3927, and of RFC 4291.
pub(super) fn link_local(settings: &EndpointSettings) -> Vec<Prefix> {
    let asked = settings.ipam_config.iter().flat_map(|ipam| ipam.link_local_ips.iter().flatten());
    let addresses = asked.filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.map(|address| Prefix::new(address, if address.is_ipv4() { 16 } else { 64 })).collect()
}

impl Sysctl {
    fn parse(text: &str) -> Result<Self, String> {
        let unrecognised = || {
            format!(
                "unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as \
                 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )
        };
        let (key, value) = text.split_once('=').ok_or_else(unrecognised)?;
        let parts: Vec<&str> = key.split('.').collect();
        // Each is the name of a file.
        let is_name = |part: &&str| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        match parts[..] {
            ["net", family @ ("ipv4" | "ipv6" | "mpls"), group, "IFNAME" | "ifname", setting]
                if is_name(&group) && is_name(&setting) =>
            {
                Ok(Self {
                    family: family.to_owned(),
                    group: group.to_owned(),
                    setting: setting.to_owned(),
                    value: value.to_owned(),
                })
            }
            _ => Err(unrecognised()),
        }
    }

    /// Sets it, in the namespace of this thread.
    pub(super) fn apply(&self, interface: &str) -> io::Result<()> {
        let Self { family, group, setting, value } = self;
        let path: PathBuf = ["/proc/sys/net", family, group, interface, setting].iter().collect();
        let failed = |error: io::Error| {
            io::Error::new(error.kind(), format!("unable to write to '{}': {error}", path.display()))
        };
        if !path.is_file() {
            return Err(io::Error::other(format!("{} is not a sysctl file", path.display())));
        }
        fs::write(&path, value).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_of_one_interface() {
        let sysctl = Sysctl::parse("net.ipv4.conf.IFNAME.log_martians=1").unwrap();
        assert_eq!((sysctl.setting.as_str(), sysctl.value.as_str()), ("log_martians", "1"));
        for text in [
            "",
            "net.ipv4.conf.IFNAME.log_martians",
            "net.ipv4.conf.eth0.log_martians=1",
            "net.unix.conf.IFNAME.x=1",
            "kernel.ipv4.conf.IFNAME.x=1",
            "net.ipv4...IFNAME.x=1",
            "net.ipv4.conf.IFNAME./etc/x=1",
        ] {
            let message = Sysctl::parse(text).unwrap_err();
            assert!(message.starts_with("unrecognised network interface sysctl"), "{message}");
        }
    }
}
