//! Who is called what in which network: what the resolver answers from.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::endpoint::Sandbox;

/// The names of running containers. They are looked up while networks are being changed.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By container.
    known: RwLock<HashMap<String, Vec<Place>>>,
    turn: AtomicUsize,
}

/// A container in a network.
#[derive(Debug, Clone)]
struct Place {
    network: String,
    /// In lower case.
    network_name: String,
    /// In lower case, the container's own first.
    names: Vec<String>,
    /// For this container alone, in lower case, and the container meant by each.
    links: Vec<(String, String)>,
    addresses: Vec<IpAddr>,
}

impl Names {
    /// Learns a container's names, in place of those it had.
    pub(super) fn learn(&self, sandbox: &Sandbox) {
        let named = sandbox.endpoints.iter().filter(|endpoint| !endpoint.names.is_empty());
        let places: Vec<Place> = named
            .map(|endpoint| Place {
                network: endpoint.network.clone(),
                network_name: endpoint.network_name.to_lowercase(),
                names: endpoint.names.iter().map(|name| name.to_lowercase()).collect(),
                links: endpoint
                    .links
                    .iter()
                    .map(|(alias, target)| (alias.to_lowercase(), target.to_lowercase()))
                    .collect(),
                addresses: endpoint.addresses().collect(),
            })
            .collect();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if places.is_empty() {
            known.remove(&sandbox.container);
        } else {
            known.insert(sandbox.container.clone(), places);
        }
    }

    pub(super) fn forget(&self, container: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(container);
    }

    /// The addresses that `name` means to `container`, in turn another one first; `None` when the name is
    /// no container's. `name` is in lower case, without a dot at its end.
    pub(super) fn addresses(&self, container: &str, name: &str) -> Option<Vec<IpAddr>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        let mut is_known = false;
        for own in known.get(container)? {
            let own_name =
                own.links.iter().find(|(alias, _)| alias == name).map(|(_, target)| target.as_str());
            let suffix = format!(".{}", own.network_name);
            let wanted = own_name.unwrap_or_else(|| name.strip_suffix(&suffix).unwrap_or(name));
            let places = known.values().flatten().filter(|place| place.network == own.network);
            // A container may be called what another is in full.
            for place in
                places.filter(|place| place.names.iter().any(|known| known == wanted || known == name))
            {
                is_known = true;
                found.extend(&place.addresses);
            }
        }
        if !is_known {
            return None;
        }
        found.sort();
        found.dedup();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let length = found.len().max(1);
        found.rotate_left(turn % length);
        Some(found)
    }

    /// The full name of who has `address` in a network of `container`.
    pub(super) fn name(&self, container: &str, address: IpAddr) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(container)?.iter().find_map(|own| {
            let place = known
                .values()
                .flatten()
                .find(|place| place.network == own.network && place.addresses.contains(&address))?;
            Some(format!("{}.{}", place.names.first()?, place.network_name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::endpoint::{Endpoint, Sandbox};

    fn sandbox(container: &str, network: &str, names: &[&str], last: u8) -> Sandbox {
        Sandbox {
            container: container.to_owned(),
            endpoints: vec![Endpoint {
                network: format!("{network}-id"),
                network_name: network.to_owned(),
                id: String::new(),
                interface: String::new(),
                host_interface: String::new(),
                mac: None,
                ipv4: Some(format!("10.0.0.{last}/24").parse().unwrap()),
                ipv6: None,
                gateway_v4: None,
                gateway_v6: None,
                is_open: false,
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                links: [("front".to_owned(), "Web1".to_owned())].into(),
                priority: 0,
            }],
            ..Sandbox::default()
        }
    }

    #[test]
    fn names_are_those_of_ones_own_networks() {
        let names = Names::default();
        names.learn(&sandbox("1", "Back", &["Web1", "web"], 2));
        names.learn(&sandbox("2", "Back", &["web2", "web"], 3));
        names.learn(&sandbox("3", "other", &["db"], 4));
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert_eq!(names.addresses("2", "web1"), Some(vec![ip(2)]));
        assert_eq!(names.addresses("2", "web1.back"), Some(vec![ip(2)]));
        assert_eq!(names.addresses("2", "front"), Some(vec![ip(2)]));
        assert_eq!(names.addresses("1", "db"), None);
        assert_eq!(names.addresses("1", "web1.other"), None);
        assert_eq!(names.addresses("unknown", "web1"), None);
        // One alias of two: each comes first in turn.
        let firsts: Vec<_> = (0..4).map(|_| names.addresses("1", "web").unwrap()[0]).collect();
        assert!(firsts.contains(&ip(2)) && firsts.contains(&ip(3)), "{firsts:?}");
        assert_eq!(names.name("2", ip(2)).unwrap(), "web1.back");
        assert_eq!(names.name("3", ip(2)), None);
        names.forget("1");
        assert_eq!(names.addresses("2", "web1"), None);
    }
}
