//! A container's start and end, as far as its network is concerned.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use wire::docker::{container::Empty, host_config::PortBinding, network::EndpointSettings};

use super::{
    Leaving, Mode, Network, Networks, Served, State,
    address::{Mac, Prefix},
    endpoint::{Dns, Endpoint, Sandbox, used_addresses},
    netlink::{Links, NewVeth},
    options::BridgeOptions,
    ports::{self, Opening},
    resolver::{Resolver, Sockets},
    sandbox, validate,
};
use crate::{
    container::random_id,
    error::{Context, Error, Kind, Result},
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
            Mode::Host => "host",
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
                names: Vec::new(),
                links: BTreeMap::new(),
                priority: 0,
            }],
            ..Sandbox::default()
        };
        state.sandboxes.insert(container.to_owned(), sandbox);
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
        let Some(to) = sandbox.gateway().cloned() else { return Ok(()) };
        let others = state.sandboxes.values().filter(|other| other.container != sandbox.container);
        let taken = others.flat_map(|other| other.published.iter().copied()).collect();
        let bridge = state.networks.get(&to.network).and_then(|network| network.bridge.as_ref());
        let host_binding = bridge.and_then(|bridge| bridge.host_binding);
        let mut opening = Opening {
            publisher: &*self.0.publisher,
            taken,
            host_binding,
            next_dynamic: &mut state.next_port,
        };
        (sandbox.published, served.ports) = opening.open(sandbox, &to)?;
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
    /// Removes the links and the namespace of a sandbox that is none of this state's any more.
    fn end(&mut self, sandbox: &Sandbox) -> Result<()> {
        if sandbox.namespace.as_os_str().is_empty() {
            return Ok(());
        }
        self.leaving.extend(sandbox.endpoints.iter().map(|endpoint| Leaving {
            container: sandbox.container.clone(),
            interface: endpoint.host_interface.clone(),
            network: endpoint.network.clone(),
            addresses: endpoint.addresses().collect(),
        }));
        let applied = if sandbox.published.is_empty() { Ok(()) } else { self.apply_rules() };
        sandbox::remove(&sandbox.namespace).and(applied)
    }

    /// Forgets what the kernel has done away with, and sees to it that it is so with what `has_to_go`.
    fn clear_leaving(
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

    /// Gives a sandbox a place in a network: addresses, and a pair of links between it and the bridge.
    pub(super) fn join(
        &mut self,
        sandbox: &mut Sandbox,
        network: &str,
        settings: &EndpointSettings,
        hostname: &str,
    ) -> Result<()> {
        let network = self.get(network)?.clone();
        let Some(options) = &network.bridge else { return Err(not_joinable(&network)) };
        if sandbox.endpoint(&network.api.id).is_some() {
            return Err(already_in(&sandbox.name, &network.api.name));
        }
        validate::endpoint(&network, settings)?;
        let mut links = Links::open().context(|| "open a netlink socket".to_owned())?;
        let asked = settings.ipam_config.clone().unwrap_or_default();
        let asked = [asked.ipv4_address, asked.ipv6_address];
        let asked: Vec<IpAddr> = asked.iter().filter_map(|address| address.parse().ok()).collect();
        // A container that starts again gets the address that it had, if that is the lowest free one.
        self.clear_leaving(&mut links, &network.api.id, |leaving| {
            leaving.container == sandbox.container
                || leaving.addresses.iter().any(|address| asked.contains(address))
        })?;
        let endpoint = match self.describe(sandbox, &network, options, settings, hostname) {
            Ok(endpoint) => endpoint,
            // There may be addresses once all is gone that is about to go.
            Err(_) if self.leaving.iter().any(|leaving| leaving.network == network.api.id) => {
                self.clear_leaving(&mut links, &network.api.id, |_| true)?;
                self.describe(sandbox, &network, options, settings, hostname)?
            }
            Err(error) => return Err(error),
        };
        let bridge = match links.find(&options.interface) {
            Ok(Some(bridge)) => bridge.index,
            // Somebody has removed it, or it could not be made at the engine's start.
            _ => network.bring_up(options, &mut links)?,
        };
        if !self.has_rules.get() {
            // Without them, nothing keeps networks apart, and nothing leads out of them.
            self.apply_rules()?;
        }
        let what = || format!("connect the container to network {}", network.api.name);
        let namespace = sandbox::open(&sandbox.namespace)?;
        let veth = NewVeth {
            name: &endpoint.host_interface,
            bridge,
            mtu: options.mtu,
            peer_name: &endpoint.interface,
            peer_mac: endpoint.mac.unwrap_or_else(Mac::random),
            peer_namespace: std::os::fd::AsFd::as_fd(&namespace),
        };
        links.add_veth(&veth).context(what)?;
        let configured = configure(&sandbox.namespace, &endpoint).and_then(|()| {
            if options.icc {
                return Ok(());
            }
            match links.find(&endpoint.host_interface).context(what)? {
                Some(port) => links.isolate_port(port.index).context(what),
                None => Ok(()),
            }
        });
        if let Err(error) = configured {
            let _ = links.remove(&endpoint.host_interface);
            return Err(error);
        }
        sandbox.endpoints.push(endpoint);
        Ok(())
    }

    /// An endpoint with addresses that are free, and nothing of it made.
    fn describe(
        &self,
        sandbox: &Sandbox,
        network: &Network,
        options: &BridgeOptions,
        settings: &EndpointSettings,
        hostname: &str,
    ) -> Result<Endpoint> {
        let mut used = used_addresses(self.sandboxes.values(), network);
        let leaving = self.leaving.iter().filter(|leaving| leaving.network == network.api.id);
        used.extend(leaving.flat_map(|leaving| leaving.addresses.iter().copied()));
        let asked = settings.ipam_config.clone().unwrap_or_default();
        let address = |ipv4: bool, asked: &str| -> Result<Option<Prefix>> {
            let Some(pool) = network.pools.iter().find(|pool| pool.subnet.is_ipv4() == ipv4) else {
                return Ok(None);
            };
            if !network.has_family(ipv4) {
                return Ok(None);
            }
            let address = match asked.parse() {
                Ok(address) => {
                    pool.check_free(address, &used)?;
                    address
                }
                Err(_) => pool.free(&used)?,
            };
            Ok(Some(Prefix::new(address, pool.subnet.length)))
        };
        let ipv4 = address(true, &asked.ipv4_address)?;
        let ipv6 = address(false, &asked.ipv6_address)?;
        let gateway = |ipv4: bool, own: Option<Prefix>| {
            let pool = network.pools.iter().find(|pool| pool.subnet.is_ipv4() == ipv4)?;
            pool.gateway.filter(|_| own.is_some() && !network.api.internal)
        };
        let mac = match (validate::mac(&settings.mac_address)?, ipv4.map(|prefix| prefix.address)) {
            (Some(mac), _) => mac,
            (None, Some(IpAddr::V4(address))) => Mac::of(address),
            (None, _) => Mac::random(),
        };
        let id = random_id();
        Ok(Endpoint {
            network: network.api.id.clone(),
            network_name: network.api.name.clone(),
            interface: sandbox.free_interface(&options.container_prefix),
            host_interface: format!("veth{}", id.get(..7).unwrap_or_default()),
            id,
            mac: Some(mac),
            ipv4,
            ipv6,
            gateway_v4: gateway(true, ipv4),
            gateway_v6: gateway(false, ipv6),
            names: dns_names(network, sandbox, settings, hostname),
            links: links(settings),
            priority: settings.gw_priority,
        })
    }
}

/// What the resolver knows a container by: its name, its aliases, its short id, its host's name.
fn dns_names(
    network: &Network,
    sandbox: &Sandbox,
    settings: &EndpointSettings,
    hostname: &str,
) -> Vec<String> {
    if network.is_default_bridge() {
        return Vec::new();
    }
    let short = sandbox.container.get(..12).unwrap_or(&sandbox.container);
    let aliases = settings.aliases.iter().flatten().map(String::as_str);
    let mut names: Vec<String> = Vec::new();
    for name in std::iter::once(sandbox.name.as_str()).chain(aliases).chain([short, hostname]) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// `container:alias`, by alias.
fn links(settings: &EndpointSettings) -> BTreeMap<String, String> {
    let link = |text: &String| {
        let (container, alias) = text.split_once(':').unwrap_or((text, text));
        (alias.to_owned(), container.trim_start_matches('/').to_owned())
    };
    settings.links.iter().flatten().map(link).collect()
}

/// Gives the interface in the container what is its.
fn configure(namespace: &Path, endpoint: &Endpoint) -> Result<()> {
    sandbox::enter(namespace, || {
        // The kernel may be without IPv6 altogether.
        let disabled = if endpoint.ipv6.is_some() { "0" } else { "1" };
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", endpoint.interface), disabled);
        let mut links = Links::open()?;
        let gone = || std::io::Error::from_raw_os_error(libc::ENODEV);
        let interface = links.find(&endpoint.interface)?.ok_or_else(gone)?;
        for address in [endpoint.ipv4, endpoint.ipv6].into_iter().flatten() {
            links.add_address(interface.index, address)?;
        }
        links.set_up(interface.index)
    })
}

/// Sends what is for the world by the endpoint that leads there.
pub(super) fn set_routes(sandbox: &Sandbox) -> Result<()> {
    let gateway = sandbox.gateway();
    sandbox::enter(&sandbox.namespace, || {
        let mut links = Links::open()?;
        for ipv4 in [true, false] {
            let by = gateway.and_then(|endpoint| {
                let address = if ipv4 { endpoint.gateway_v4 } else { endpoint.gateway_v6 };
                address.map(|address| (&endpoint.interface, address))
            });
            // An IPv6 kernel adds routes with equal prefixes beside each other.
            if !ipv4 || by.is_none() {
                links.remove_default_route(!ipv4).or_else(no_such_family)?;
            }
            if let Some((interface, address)) = by
                && let Some(interface) = links.find(interface)?
            {
                links.set_default_route(interface.index, address)?;
            }
        }
        Ok(())
    })
}

/// A kernel without IPv6 has no routes of it to remove.
fn no_such_family(error: std::io::Error) -> std::io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    }
}

/// Docker's words for a container that is in the network already.
pub(super) fn already_in(container: &str, network: &str) -> Error {
    let message = format!("endpoint with name {container} already exists in network {network}");
    Error::new(Kind::Forbidden, message)
}

/// Docker's words for networks that nothing but a container's creation puts it in.
pub(super) fn not_joinable(network: &Network) -> Error {
    match network.api.driver.as_str() {
        "host" => Error::invalid(
            "cannot connect container to host network - container must be created in host network mode",
        ),
        _ if network.api.config_only => {
            Error::invalid(format!("cannot connect to the configuration network {}", network.api.name))
        }
        _ => Error::invalid(
            "container cannot be connected to multiple networks with one of the networks in private (none) \
             mode",
        ),
    }
}
