//! A container's namespace, and its places in networks, as long as it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    Network,
    address::{Mac, Prefix},
    ports::Mapping,
};

/// What is known of a running container's network.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Sandbox {
    pub(super) container: String,
    /// The container's name, without a slash.
    pub(super) name: String,
    /// A random id of its own, as Docker's sandboxes have.
    pub(super) id: String,
    /// Where its namespace is mounted; empty when it is not the engine's.
    pub(super) namespace: PathBuf,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) dns: Dns,
    /// The ports that are to be published.
    pub(super) wanted: Vec<super::ports::WantedPort>,
    /// Those that are, and where.
    pub(super) published: Vec<Mapping>,
}

/// What the engine's resolver does for a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Dns {
    /// The container has been told of it.
    pub(super) resolver: bool,
    /// Asked instead of this machine's.
    pub(super) servers: Vec<String>,
}

/// A container's place in a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Endpoint {
    /// The network's id and name.
    pub(super) network: String,
    pub(super) network_name: String,
    pub(super) id: String,
    /// The interface in the container, and the one in the bridge.
    pub(super) interface: String,
    pub(super) host_interface: String,
    pub(super) mac: Option<Mac>,
    /// With the length of the subnet's prefix.
    pub(super) ipv4: Option<Prefix>,
    pub(super) ipv6: Option<Prefix>,
    /// Empty in internal networks.
    pub(super) gateway_v4: Option<IpAddr>,
    pub(super) gateway_v6: Option<IpAddr>,
    /// What the resolver knows it by; empty on the default bridge.
    pub(super) names: Vec<String>,
    /// Names for this container alone, and the containers they stand for.
    pub(super) links: BTreeMap<String, String>,
    pub(super) priority: i64,
}

impl Endpoint {
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [self.ipv4, self.ipv6].into_iter().flatten().map(|prefix| prefix.address)
    }

    fn has_gateway(&self) -> bool {
        self.gateway_v4.is_some() || self.gateway_v6.is_some()
    }
}

impl Sandbox {
    pub(super) fn endpoint(&self, network: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.network == network)
    }

    /// The one that leads to the world, and that has the published ports: of the highest priority, and the
    /// first by name.
    pub(super) fn gateway(&self) -> Option<&Endpoint> {
        let leading = self.endpoints.iter().filter(|endpoint| endpoint.has_gateway());
        leading.min_by_key(|endpoint| (std::cmp::Reverse(endpoint.priority), &endpoint.network_name))
    }

    /// Whether any of its networks has names.
    pub(super) fn wants_resolver(&self) -> bool {
        self.endpoints.iter().any(|endpoint| !endpoint.names.is_empty())
    }

    /// A name for the next interface.
    pub(super) fn free_interface(&self, prefix: &str) -> String {
        let taken = |name: &String| self.endpoints.iter().any(|endpoint| endpoint.interface == *name);
        let mut names = (0..=self.endpoints.len()).map(|index| format!("{prefix}{index}"));
        names.find(|name| !taken(name)).unwrap_or_default()
    }
}

/// The addresses that containers have in a network.
pub(super) fn used_addresses<'a>(
    sandboxes: impl Iterator<Item = &'a Sandbox>,
    network: &Network,
) -> BTreeSet<IpAddr> {
    sandboxes.filter_map(|sandbox| sandbox.endpoint(&network.api.id)).flat_map(Endpoint::addresses).collect()
}
