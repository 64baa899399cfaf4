//! Networks a container can be in. So far those without addresses: `none` and `host`.

use std::collections::BTreeMap;

use wire::docker::{
    host_config::HostConfig,
    network::{Ipam, Network},
};

use crate::error::{Error, Result};

/// How a container's network is made, from `HostConfig.NetworkMode`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A namespace with a loopback interface only.
    None,
    /// The machine's own namespace.
    Host,
    /// The namespace of another container, by name or id.
    Container(String),
    /// Docker's default, the network `bridge`. It does not exist yet: as [`Mode::None`], and the
    /// answer to `create` carries [`NO_BRIDGE`] as a warning.
    Default,
}

/// What a user is told who did not ask for a network that exists.
pub const NO_BRIDGE: &str = "The bridge network is not implemented yet: the container has a loopback \
                             interface only. Use --network host for the network of the machine.";

/// Reads and checks a container's network mode.
///
/// # Errors
/// A network that does not exist, in Docker's words, and published ports, which need one.
pub fn mode(host_config: &HostConfig) -> Result<Mode> {
    let mode = match host_config.network_mode.as_str() {
        "none" => Mode::None,
        "host" => Mode::Host,
        "" | "default" | "bridge" => Mode::Default,
        name => match name.strip_prefix("container:") {
            Some("") => {
                return Err(Error::invalid("invalid container format container:<name|id>"));
            }
            Some(container) => Mode::Container(container.to_owned()),
            None => return Err(Error::not_found(format!("network {name} not found"))),
        },
    };
    let published = host_config.port_bindings.values().flatten().flatten().next().is_some();
    if mode == Mode::Default && (published || host_config.publish_all_ports) {
        return Err(Error::not_implemented(
            "publishing ports needs the bridge network, which is not implemented yet: leave -p and \
             -P out, or use --network host",
        ));
    }
    Ok(mode)
}

/// The networks that exist.
#[derive(Debug, Clone)]
pub struct Networks {
    predefined: Vec<Network>,
}

impl Networks {
    /// `created` is when the engine's data root was made, RFC 3339; `seed` its identity, from which
    /// the networks' ids come, so that they stay the same.
    pub fn new(seed: &str, created: &str) -> Self {
        use sha2::Digest;
        let predefined = ["host", "none"]
            .map(|name| Network {
                name: name.to_owned(),
                id: sha2::Sha256::digest(format!("{seed}/{name}"))
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect(),
                created: created.to_owned(),
                scope: "local".to_owned(),
                driver: if name == "none" { "null" } else { name }.to_owned(),
                enable_ipv4: true,
                ipam: Ipam { driver: "default".to_owned(), ..Ipam::default() },
                containers: BTreeMap::new(),
                ..Network::default()
            })
            .to_vec();
        Self { predefined }
    }

    /// Every network.
    pub fn list(&self) -> impl Iterator<Item = &Network> {
        self.predefined.iter()
    }

    /// A network by name, id, or the start of an id that fits one network only.
    ///
    /// # Errors
    /// No such network, or several, in Docker's words.
    pub fn get(&self, name_or_id: &str) -> Result<&Network> {
        let exact = |network: &&Network| network.name == name_or_id || network.id == name_or_id;
        if let Some(network) = self.predefined.iter().find(exact) {
            return Ok(network);
        }
        let mut fitting = self
            .predefined
            .iter()
            .filter(|network| !name_or_id.is_empty() && network.id.starts_with(name_or_id));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network),
            (None, _) => Err(Error::not_found(format!("network {name_or_id} not found"))),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {name_or_id} is ambiguous (2 matches found based on ID prefix)"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_config(mode: &str) -> HostConfig {
        HostConfig { network_mode: mode.to_owned(), ..HostConfig::default() }
    }

    #[test]
    fn modes_are_dockers() {
        assert_eq!(mode(&host_config("none")).unwrap(), Mode::None);
        assert_eq!(mode(&host_config("host")).unwrap(), Mode::Host);
        assert_eq!(mode(&host_config("default")).unwrap(), Mode::Default);
        assert_eq!(mode(&host_config("container:web")).unwrap(), Mode::Container("web".to_owned()));
        let error = mode(&host_config("backend")).unwrap_err();
        assert_eq!(error.to_string(), "network backend not found");
    }

    #[test]
    fn a_published_port_is_refused_rather_than_forgotten() {
        let mut host_config = host_config("default");
        host_config.port_bindings.insert("80/tcp".to_owned(), Some(vec![Default::default()]));
        assert_eq!(mode(&host_config).unwrap_err().kind(), crate::error::Kind::NotImplemented);
    }

    #[test]
    fn networks_are_found_by_name_id_and_prefix() {
        let networks = Networks::new("seed", "");
        let none = networks.get("none").unwrap();
        assert_eq!(none.driver, "null");
        assert_eq!(networks.get(&none.id).unwrap().name, "none");
        assert_eq!(networks.get(&none.id[..12]).unwrap().name, "none");
        assert_eq!(networks.get("").unwrap_err().to_string(), "network  not found");
        assert_eq!(Networks::new("seed", "").get("host").unwrap().id, networks.get("host").unwrap().id);
    }
}
