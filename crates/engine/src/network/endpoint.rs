//! A container's namespace, and its places in networks, as long as it runs.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Network,
    address::{Mac, Prefix},
    netlink::Links,
    ports::Mapping,
    sandbox,
};
use crate::error::{Context, Result};

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
    /// The interface in the container, and the one in the bridge: empty where there is none.
    pub(super) interface: String,
    pub(super) host_interface: String,
    pub(super) mac: Option<Mac>,
    /// With the length of the subnet's prefix.
    pub(super) ipv4: Option<Prefix>,
    pub(super) ipv6: Option<Prefix>,
    /// Empty in internal networks.
    pub(super) gateway_v4: Option<IpAddr>,
    pub(super) gateway_v6: Option<IpAddr>,
    /// What is for the world is sent by the interface, to no gateway.
    #[serde(default)]
    pub(super) is_open: bool,
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

    /// Whether it leads to the world, in a family.
    fn leads_out(&self, ipv4: bool) -> bool {
        let (address, gateway) =
            if ipv4 { (self.ipv4, self.gateway_v4) } else { (self.ipv6, self.gateway_v6) };
        gateway.is_some() || (self.is_open && address.is_some())
    }

    /// Removes its interface: by the end in the bridge, which the container cannot have renamed, if there is one.
    pub(super) fn remove_link(&self, namespace: &Path) -> Result<()> {
        if self.is_paired() {
            let what = || format!("remove the interface {}", self.host_interface);
            return Links::open().and_then(|mut links| links.remove(&self.host_interface)).context(what);
        }
        sandbox::enter(namespace, || Links::open()?.remove(&self.interface))
    }

    /// Whether its interface is one of a pair, the other of which is in a bridge.
    pub(super) fn is_paired(&self) -> bool {
        !self.host_interface.is_empty()
    }
}

impl Sandbox {
    pub(super) fn endpoint(&self, network: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.network == network)
    }

    /// Those that lead to the world, by IPv4 and by IPv6, and that have the published ports. As with Docker, it
    /// is the first that leads there by both, if there is one: by priority, by its families, by name.
    pub(super) fn gateways(&self) -> (Option<&Endpoint>, Option<&Endpoint>) {
        let families =
            |endpoint: &Endpoint| u8::from(endpoint.leads_out(true)) + u8::from(endpoint.leads_out(false));
        let mut all: Vec<&Endpoint> = self.endpoints.iter().collect();
        all.sort_by_key(|endpoint| {
            (Reverse(endpoint.priority), Reverse(families(endpoint)), &endpoint.network_name)
        });
        let first = |leads: &dyn Fn(&Endpoint) -> bool| all.iter().copied().find(|endpoint| leads(endpoint));
        if let Some(both) = first(&|endpoint| families(endpoint) == 2) {
            return (Some(both), Some(both));
        }
        (first(&|endpoint| endpoint.leads_out(true)), first(&|endpoint| endpoint.leads_out(false)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, gateways: &[&str], priority: i64) -> Endpoint {
        let gateway = |ipv4: bool| {
            gateways.iter().map(|text| text.parse::<IpAddr>().unwrap()).find(|ip| ip.is_ipv4() == ipv4)
        };
        Endpoint {
            network: name.to_owned(),
            network_name: name.to_owned(),
            id: name.to_owned(),
            interface: String::new(),
            host_interface: String::new(),
            mac: None,
            ipv4: Some("10.0.0.2/24".parse().unwrap()),
            ipv6: None,
            gateway_v4: gateway(true),
            gateway_v6: gateway(false),
            is_open: false,
            names: Vec::new(),
            links: BTreeMap::new(),
            priority,
        }
    }

    #[test]
    fn the_way_out_is_dockers() {
        let chosen = |endpoints: &[Endpoint]| {
            let sandbox = Sandbox { endpoints: endpoints.to_vec(), ..Sandbox::default() };
            let (v4, v6) = sandbox.gateways();
            [v4, v6].map(|endpoint| endpoint.map_or(String::new(), |endpoint| endpoint.id.clone()))
        };
        let (a, b) = (endpoint("a", &["10.0.0.1"], 0), endpoint("b", &["10.0.1.1"], 0));
        assert_eq!(chosen(&[b.clone(), a.clone()]), ["a", ""]);
        assert_eq!(chosen(&[a.clone(), endpoint("b", &["10.0.1.1"], 1)]), ["b", ""]);
        // Both families by one endpoint come first, and else each its own.
        assert_eq!(chosen(&[a.clone(), endpoint("c", &["10.0.2.1", "fd00::1"], 0)]), ["c", "c"]);
        assert_eq!(chosen(&[a.clone(), b, endpoint("d", &["fd00::1"], 0)]), ["a", "d"]);
        // Without a gateway, an interface may lead out by itself.
        assert_eq!(chosen(&[endpoint("e", &[], 0)]), ["", ""]);
        assert_eq!(chosen(&[Endpoint { is_open: true, ..endpoint("e", &[], 0) }]), ["e", ""]);
    }
}
