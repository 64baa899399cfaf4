//! A container's start and end, as far as its network is concerned.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use wire::docker::{container::Empty, host_config::PortBinding, network::EndpointSettings};

use super::{
    HOST, Leaving, Mode, Network, Networks, Served, State,
    endpoint::{Dns, Endpoint, Sandbox},
    join::set_routes,
    netlink::Links,
    options::GatewayMode,
    ports::{self, Ends, Opening},
    resolver::{Resolver, Sockets},
    sandbox,
};
use crate::{
    container::random_id,
    error::{Context, Result},
    store::{self, Durability},
    userns::Remap,
};

/// What a container wants of its networks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) container: String,
    /// Without a slash.
    pub(crate) name: String,
    pub(crate) hostname: String,
    /// By the network's name or id.
    pub(crate) endpoints: BTreeMap<String, EndpointSettings>,
    pub(crate) port_bindings: BTreeMap<String, Option<Vec<PortBinding>>>,
    pub(crate) exposed_ports: BTreeMap<String, Empty>,
    pub(crate) publish_all: bool,
    /// Servers for names that are no container's.
    pub(crate) dns: Vec<String>,
    /// Its users, if they are not the machine's.
    pub(crate) remap: Option<Remap>,
}

/// What a container has got.
#[derive(Debug, Clone, Default)]
pub(crate) struct Started {
    /// To be joined by its processes.
    pub(crate) namespace: PathBuf,
    /// Its own, for its `/etc/hosts`.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether it has the engine's resolver.
    pub(crate) resolver: bool,
}

impl Networks {
    /// Makes a container's namespace, with an interface for each of its networks, and publishes its ports.
    /// Blocks.
    ///
    /// # Errors
    /// No such network, addresses and ports that are taken, in Docker's words; what this machine refuses.
    /// Nothing is left then.
    pub(crate) fn start(&self, wanted: &Wanted) -> Result<Started> {
        let wanted_ports = ports::wanted(&wanted.port_bindings, &wanted.exposed_ports, wanted.publish_all)?;
        let id = random_id();
        let namespace = self.0.run.namespaces.join(id.get(..12).unwrap_or_default());
        let joined = self.joined(&wanted.endpoints)?;
        let resolver = joined.iter().any(|(network, _)| !network.is_default_bridge());
        let sockets = sandbox::make(&namespace, wanted.remap, || {
            let mut links = Links::open()?;
            if let Some(loopback) = links.find("lo")? {
                links.set_up(loopback.index)?;
            }
            resolver.then(Sockets::open).transpose()
        })?;
        let mut sandbox = Sandbox {
            container: wanted.container.clone(),
            name: wanted.name.clone(),
            id,
            namespace: namespace.clone(),
            endpoints: Vec::new(),
            dns: Dns { resolver, servers: wanted.dns.clone() },
            wanted: wanted_ports,
            published: Vec::new(),
        };
        self.join_all(&mut sandbox, &joined, &wanted.hostname, sockets).inspect_err(|_| {
            // Its addresses are not given out before its links are gone.
            if let Err(error) = self.state().end(&sandbox) {
                tracing::warn!(container = wanted.container, "undo its network: {error}");
            }
        })
    }

    /// The networks that a container is to be in, the most important first.
    fn joined(
        &self,
        endpoints: &BTreeMap<String, EndpointSettings>,
    ) -> Result<Vec<(Network, EndpointSettings)>> {
        let state = self.state();
        let all = endpoints.iter().map(|(name, settings)| Ok((state.get(name)?.clone(), settings.clone())));
        let mut all = all.collect::<Result<Vec<_>>>()?;
        all.sort_by(|(a, x), (b, y)| {
            y.gw_priority.cmp(&x.gw_priority).then_with(|| a.api.name.cmp(&b.api.name))
        });
        Ok(all)
    }

    fn join_all(
        &self,
        sandbox: &mut Sandbox,
        joined: &[(Network, EndpointSettings)],
        hostname: &str,
        sockets: Option<Sockets>,
    ) -> Result<Started> {
        let mut state = self.state();
        for (network, settings) in joined {
            state.join(sandbox, &network.api.id, settings, hostname)?;
        }
        set_routes(sandbox)?;
        let mut served = Served::default();
        self.open_ports(&mut state, sandbox, &mut served)?;
        if let Some(sockets) = sockets {
            served.resolver = Some(self.serve_names(sandbox, sockets)?);
        }
        self.keep_sandbox(sandbox)?;
        self.0.names.learn(sandbox);
        let started = Started {
            namespace: sandbox.namespace.clone(),
            addresses: sandbox.endpoints.iter().flat_map(Endpoint::addresses).collect(),
            resolver: served.resolver.is_some(),
        };
        let container = sandbox.container.clone();
        let has_ports = !sandbox.published.is_empty();
        state.sandboxes.insert(container.clone(), sandbox.clone());
        if has_ports && let Err(error) = state.apply_rules() {
            state.sandboxes.remove(&container);
            self.0.names.forget(&container);
            self.forget_sandbox(&container);
            return Err(error);
        }
        state.served.insert(container.clone(), served);
        drop(state);
        for (network, _) in joined {
            self.emit(&network.api, "connect", Some(&container));
        }
        Ok(started)
    }

    /// Notes that a container starts that has a namespace with loopback alone, or this machine's.
    pub(crate) fn start_without(&self, container: &str, name: &str, mode: &Mode) {
        let network_name = match mode {
            Mode::None => "none",
            Mode::Host => HOST,
            Mode::Container(_) | Mode::Network(_) => return,
        };
        let mut state = self.state();
        let Ok(network) = state.get(network_name).map(|network| network.api.clone()) else { return };
        let sandbox = Sandbox {
            container: container.to_owned(),
            name: name.to_owned(),
            id: random_id(),
            endpoints: vec![Endpoint {
                network: network.id.clone(),
                network_name: network.name.clone(),
                id: random_id(),
                interface: String::new(),
                host_interface: String::new(),
                mac: None,
                ipv4: None,
                ipv6: None,
                gateway_v4: None,
                gateway_v6: None,
                is_open: false,
                names: Vec::new(),
                links: BTreeMap::new(),
                priority: 0,
            }],
            ..Sandbox::default()
        };
        state.sandboxes.insert(container.to_owned(), sandbox);
        self.tell_of_own_network(&state);
        drop(state);
        self.emit(&network, "connect", Some(container));
    }

    /// Publishes what a sandbox wants published, at the endpoint that leads to the world.
    pub(super) fn open_ports(
        &self,
        state: &mut State,
        sandbox: &mut Sandbox,
        served: &mut Served,
    ) -> Result<()> {
        served.ports.clear();
        sandbox.published.clear();
        if sandbox.wanted.is_empty() {
            return Ok(());
        }
        let Some(ends) = state.ends(sandbox) else { return Ok(()) };
        let others = state.sandboxes.values().filter(|other| other.container != sandbox.container);
        let taken = others.flat_map(|other| other.published.iter().copied()).collect();
        let mut opening =
            Opening { publisher: &*self.0.publisher, taken, ends, next_dynamic: &mut state.next_port };
        (sandbox.published, served.ports) = opening.open(sandbox)?;
        Ok(())
    }

    pub(super) fn serve_names(&self, sandbox: &Sandbox, sockets: Sockets) -> Result<Resolver> {
        Resolver::start(
            &self.0.runtime,
            sockets,
            sandbox.container.clone(),
            self.0.names.clone(),
            &sandbox.dns.servers,
            sandbox.namespace.clone(),
        )
        .context(|| "start the container's resolver".to_owned())
    }

    fn sandbox_file(&self, container: &str) -> PathBuf {
        self.0.run.sandboxes.join(format!("{container}.json"))
    }

    /// Keeps what an engine needs that takes over the container. A reboot ends it anyway.
    pub(super) fn keep_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        store::write_json(&self.sandbox_file(&sandbox.container), sandbox, Durability::Renamed)
    }

    fn forget_sandbox(&self, container: &str) {
        let path = self.sandbox_file(container);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("remove {}: {error}", path.display());
            }
            _ => {}
        }
    }

    /// Gives back what a container had, if it had anything. Blocks.
    pub(crate) fn stop(&self, container: &str) {
        let mut state = self.state();
        let served = state.served.remove(container);
        let Some(sandbox) = state.sandboxes.remove(container) else { return };
        drop(served);
        self.0.names.forget(container);
        if let Err(error) = state.end(&sandbox) {
            tracing::warn!(container, "give back its network: {error}");
        }
        self.forget_sandbox(container);
        self.tell_of_own_network(&state);
        let networks: Vec<_> = sandbox
            .endpoints
            .iter()
            .filter_map(|endpoint| state.networks.get(&endpoint.network))
            .map(|network| network.api.clone())
            .collect();
        drop(state);
        for network in networks {
            self.emit(&network, "disconnect", Some(container));
        }
    }
}

impl State {
    /// Where a sandbox's ports lead, if it has any: bridges publish them, and no others.
    fn ends(&self, sandbox: &Sandbox) -> Option<Ends> {
        let (v4, v6) = sandbox.gateways();
        let bridge = |endpoint: Option<&Endpoint>| {
            let endpoint = endpoint?;
            let options = self.networks.get(&endpoint.network)?.bridge()?;
            Some((endpoint.clone(), options.clone()))
        };
        let (v4, v6) = (bridge(v4), bridge(v6));
        let (endpoint, options) = v4.as_ref().or(v6.as_ref())?;
        // Who has no IPv6 of its own is reached by it all the same, in the way that its network says.
        let mode_v6 = v6.as_ref().map_or(options, |(_, options)| options).mode(false);
        Some(Ends {
            endpoint: endpoint.id.clone(),
            host_binding: options.host_binding,
            ipv4: v4.as_ref().and_then(|(endpoint, _)| endpoint.ipv4).map(|prefix| prefix.address),
            ipv6: v6.as_ref().and_then(|(endpoint, _)| endpoint.ipv6).map(|prefix| prefix.address),
            is_routed_v4: options.mode(true) == GatewayMode::Routed,
            is_routed_v6: mode_v6 == GatewayMode::Routed,
        })
    }

    /// Removes the links and the namespace of a sandbox that is none of this state's any more.
    fn end(&mut self, sandbox: &Sandbox) -> Result<()> {
        if sandbox.namespace.as_os_str().is_empty() {
            return Ok(());
        }
        let (paired, upper): (Vec<_>, Vec<_>) =
            sandbox.endpoints.iter().partition(|endpoint| endpoint.is_paired());
        self.leaving.extend(paired.into_iter().map(|endpoint| Leaving {
            container: sandbox.container.clone(),
            interface: endpoint.host_interface.clone(),
            network: endpoint.network.clone(),
            addresses: endpoint.addresses().collect(),
        }));
        // As long as they are there, nobody else on their parent can have their addresses.
        let removed = upper.into_iter().map(|endpoint| endpoint.remove_link(&sandbox.namespace));
        let removed = removed.fold(Ok(()), Result::and);
        let applied = if sandbox.published.is_empty() { Ok(()) } else { self.apply_rules() };
        sandbox::remove(&sandbox.namespace).and(applied).and(removed)
    }

    /// Forgets what the kernel has done away with, and sees to it that it is so with what `has_to_go`.
    pub(super) fn clear_leaving(
        &mut self,
        links: &mut Links,
        network: &str,
        has_to_go: impl Fn(&Leaving) -> bool,
    ) -> Result<()> {
        for leaving in self.leaving.iter().filter(|leaving| leaving.network == network && has_to_go(leaving))
        {
            links
                .remove(&leaving.interface)
                .context(|| format!("remove the interface {}", leaving.interface))?;
        }
        self.leaving.retain(|leaving| {
            leaving.network != network || !matches!(links.find(&leaving.interface), Ok(None))
        });
        Ok(())
    }
}
