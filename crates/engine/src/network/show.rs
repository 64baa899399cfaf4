//! `network ls` and `network inspect`, and what a container shows of its networks.

use std::{collections::BTreeMap, net::IpAddr};

use wire::docker::{
    host_config::PortBinding,
    network::{self as api, EndpointResource, EndpointSettings},
};

use super::{
    BRIDGE, Networks,
    address::Prefix,
    endpoint::{Endpoint, Sandbox},
    is_predefined,
};
use crate::{
    api::filters::Filters,
    error::{Error, Result},
};

/// The filters that a list knows.
pub(crate) const LIST_FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// The filters that a prune knows.
pub(crate) const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

/// What a running container has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    pub(crate) sandbox_id: String,
    pub(crate) sandbox_key: String,
    /// By network's id.
    pub(crate) endpoints: BTreeMap<String, EndpointSettings>,
    /// It has ports that can be published.
    pub(crate) has_ports: bool,
    /// By container's port, as `80/tcp`.
    pub(crate) ports: BTreeMap<String, Vec<PortBinding>>,
}

impl Networks {
    /// Every network that passes.
    ///
    /// # Errors
    /// Filters that make no sense, in Docker's words.
    pub(crate) fn list(&self, filters: &Filters) -> Result<Vec<api::Network>> {
        let dangling = filters.flag("dangling")?;
        if let Some(kind) =
            filters.get("type").iter().find(|kind| !matches!(kind.as_str(), "custom" | "builtin"))
        {
            return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
        let state = self.state();
        let unused =
            |api: &api::Network| !is_predefined(&api.name) && state.endpoints(&api.id).next().is_none();
        let all = state.networks.values().map(|network| &network.api);
        let mut passing: Vec<api::Network> = all
            .filter(|api| {
                filters.passes("driver", |driver| api.driver == driver)
                    && filters.passes("id", |id| api.id.starts_with(id))
                    && filters.passes("name", |name| api.name.contains(name))
                    && filters.passes("scope", |scope| api.scope == scope)
                    && filters.passes("type", |kind| (kind == "builtin") == is_predefined(&api.name))
                    && filters.labels("label", &api.labels)
                    && dangling.is_none_or(|dangling| dangling == unused(api))
            })
            .cloned()
            .collect();
        passing.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.name.cmp(&b.name)));
        Ok(passing)
    }

    /// A network with the containers in it. `scope` must be the network's, if it is given.
    ///
    /// # Errors
    /// No such network, or several, in Docker's words.
    pub(crate) fn inspect(&self, name: &str, scope: Option<&str>) -> Result<api::Network> {
        let state = self.state();
        let network = state.get(name)?;
        if scope.is_some_and(|scope| scope != network.api.scope) {
            return Err(super::not_found(name));
        }
        let text = |address: Option<Prefix>| address.map(|ip| ip.to_string()).unwrap_or_default();
        let containers = state.endpoints(&network.api.id).map(|(sandbox, endpoint)| {
            let resource = EndpointResource {
                name: sandbox.name.clone(),
                endpoint_id: endpoint.id.clone(),
                mac_address: endpoint.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                ipv4_address: text(endpoint.ipv4),
                ipv6_address: text(endpoint.ipv6),
            };
            (sandbox.container.clone(), resource)
        });
        Ok(api::Network { containers: containers.collect(), ..network.api.clone() })
    }

    /// The name and the id of a network, if there is one like that.
    pub(crate) fn name_and_id(&self, name_or_id: &str) -> Option<(String, String)> {
        let state = self.state();
        let network = state.get(name_or_id).ok()?;
        Some((network.api.name.clone(), network.api.id.clone()))
    }

    /// The address by which containers reach this machine: the default bridge's.
    pub(crate) fn host_gateway(&self) -> Option<IpAddr> {
        let state = self.state();
        state.get(BRIDGE).ok()?.pools.iter().find_map(|pool| pool.gateway)
    }

    /// The drivers there are, for `GET /info`.
    pub(crate) fn drivers() -> Vec<String> {
        ["bridge", "host", "ipvlan", "macvlan", "null"].map(str::to_owned).to_vec()
    }

    /// What a container has as long as it runs.
    pub(crate) fn live(&self, container: &str) -> Option<Live> {
        self.state().sandboxes.get(container).map(Sandbox::show)
    }
}

impl Sandbox {
    fn show(&self) -> Live {
        let endpoints = self.endpoints.iter();
        let (v4, v6) = self.gateways();
        let mut ports: BTreeMap<String, Vec<PortBinding>> = BTreeMap::new();
        for mapping in &self.published {
            let port = format!("{}/{}", mapping.container_port, mapping.protocol);
            ports.entry(port).or_default().push(PortBinding {
                host_ip: mapping.host.to_string(),
                host_port: match mapping.is_of_the_host() {
                    true => mapping.host_port.to_string(),
                    false => String::new(),
                },
            });
        }
        Live {
            sandbox_id: self.id.clone(),
            sandbox_key: self.namespace.to_string_lossy().into_owned(),
            has_ports: [v4, v6].into_iter().flatten().any(Endpoint::is_paired),
            endpoints: endpoints.map(|endpoint| (endpoint.network.clone(), endpoint.show())).collect(),
            ports,
        }
    }
}

impl Endpoint {
    fn show(&self) -> EndpointSettings {
        let address = |prefix: Option<Prefix>| match prefix {
            Some(prefix) => (prefix.address.to_string(), prefix.length.into()),
            None => (String::new(), 0),
        };
        let gateway = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        let (ip_address, ip_prefix_len) = address(self.ipv4);
        let (global_ipv6_address, global_ipv6_prefix_len) = address(self.ipv6);
        EndpointSettings {
            mac_address: self.mac.map(|mac| mac.to_string()).unwrap_or_default(),
            network_id: self.network.clone(),
            endpoint_id: self.id.clone(),
            gateway: gateway(self.gateway_v4),
            ip_address,
            ip_prefix_len,
            ipv6_gateway: gateway(self.gateway_v6),
            global_ipv6_address,
            global_ipv6_prefix_len,
            dns_names: (!self.names.is_empty()).then(|| self.names.clone()),
            ..EndpointSettings::default()
        }
    }
}
