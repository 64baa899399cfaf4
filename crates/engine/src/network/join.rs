//! How a container comes into a network: addresses, links, routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::fd::AsFd,
    path::Path,
};

use wire::docker::network::EndpointSettings;

use super::{
    Driver, Network, State,
    address::{Mac, Prefix},
    endpoint::{Endpoint, Sandbox, used_addresses},
    interface, ipam,
    netlink::{Links, NewUpper, NewVeth},
    options::{BridgeOptions, DEFAULT_PREFIX},
    parent::{self, ParentOptions},
    sandbox, validate,
};
use crate::{
    container::random_id,
    error::{Context, Error, Kind, Result},
};

impl State {
    /// Gives a sandbox a place in a network: addresses, and an interface.
    pub(super) fn join(
        &mut self,
        sandbox: &mut Sandbox,
        network: &str,
        settings: &EndpointSettings,
        hostname: &str,
    ) -> Result<()> {
        let network = self.get(network)?.clone();
        if network.driver == Driver::None {
            return Err(not_joinable(&network));
        }
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
        let endpoint = match self.describe(sandbox, &network, settings, hostname) {
            Ok(endpoint) => endpoint,
            // There may be addresses once all is gone that is about to go.
            Err(_) if self.leaving.iter().any(|leaving| leaving.network == network.api.id) => {
                self.clear_leaving(&mut links, &network.api.id, |_| true)?;
                self.describe(sandbox, &network, settings, hostname)?
            }
            Err(error) => return Err(error),
        };
        match &network.driver {
            Driver::Bridge(options) => self.join_bridge(&mut links, &network, options, sandbox, &endpoint)?,
            Driver::Parent(options) => join_parent(&mut links, &network, options, sandbox, &endpoint)?,
            Driver::None => {}
        }
        set_wishes(sandbox, &endpoint, settings)
            .inspect_err(|_| drop(endpoint.remove_link(&sandbox.namespace)))?;
        sandbox.endpoints.push(endpoint);
        Ok(())
    }

    /// A pair of links, one of them in the bridge.
    fn join_bridge(
        &self,
        links: &mut Links,
        network: &Network,
        options: &BridgeOptions,
        sandbox: &Sandbox,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let bridge = match links.find(&options.interface) {
            Ok(Some(bridge)) => bridge.index,
            // Somebody has removed it, or it could not be made at the engine's start.
            _ => network.bring_up_bridge(options, links, &self.engine)?,
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
            peer_namespace: namespace.as_fd(),
        };
        links.add_veth(&veth).context(what)?;
        let configured = configure(&sandbox.namespace, endpoint).and_then(|()| {
            if options.icc {
                return Ok(());
            }
            match links.find(&endpoint.host_interface).context(what)? {
                Some(port) => links.isolate_port(port.index).context(what),
                None => Ok(()),
            }
        });
        configured.inspect_err(|_| drop(links.remove(&endpoint.host_interface)))
    }

    /// An endpoint with addresses that are free, and nothing of it made.
    fn describe(
        &self,
        sandbox: &Sandbox,
        network: &Network,
        settings: &EndpointSettings,
        hostname: &str,
    ) -> Result<Endpoint> {
        let mut used = used_addresses(self.sandboxes.values(), network);
        let leaving = self.leaving.iter().filter(|leaving| leaving.network == network.api.id);
        used.extend(leaving.flat_map(|leaving| leaving.addresses.iter().copied()));
        let asked = settings.ipam_config.clone().unwrap_or_default();
        let place = |ipv4: bool, asked: &str| match network.has_family(ipv4) {
            true => network.place(ipv4, asked.parse().ok(), &used),
            false => Ok(Place::default()),
        };
        let (v4, v6) = (place(true, &asked.ipv4_address)?, place(false, &asked.ipv6_address)?);
        let asked = validate::mac(&settings.mac_address)?;
        let mac = match (&network.driver, asked, v4.address.map(|prefix| prefix.address)) {
            (Driver::Parent(options), _, _) if !options.has_own_mac() => {
                if asked.is_some() {
                    return Err(Error::system(
                        "ipvlan interfaces do not support custom mac address assignment",
                    ));
                }
                None
            }
            (_, Some(mac), _) => Some(mac),
            (_, None, Some(IpAddr::V4(address))) => Some(Mac::of(address)),
            (_, None, _) => Some(Mac::random()),
        };
        let id = random_id();
        let prefix = network.bridge().map_or(DEFAULT_PREFIX, |options| &options.container_prefix);
        let host_interface = match network.driver {
            Driver::Bridge(_) => format!("veth{}", id.get(..7).unwrap_or_default()),
            _ => String::new(),
        };
        Ok(Endpoint {
            network: network.api.id.clone(),
            network_name: network.api.name.clone(),
            interface: match interface::name(settings)? {
                Some(name) => name,
                None => sandbox.free_interface(prefix),
            },
            host_interface,
            id,
            mac,
            ipv4: v4.address,
            ipv6: v6.address,
            gateway_v4: v4.gateway,
            gateway_v6: v6.gateway,
            is_open: network.parent().is_some_and(ParentOptions::is_open) && !network.is_closed(),
            names: dns_names(network, sandbox, settings, hostname),
            links: links(settings),
            priority: settings.gw_priority,
        })
    }
}

/// An address in a network, and who leads out of there.
#[derive(Default)]
struct Place {
    address: Option<Prefix>,
    gateway: Option<IpAddr>,
}

impl Network {
    /// A free address, or the one asked for.
    fn place(&self, ipv4: bool, asked: Option<IpAddr>, used: &BTreeSet<IpAddr>) -> Result<Place> {
        let mut pools = self.pools.iter().filter(|pool| pool.subnet.is_ipv4() == ipv4);
        let (pool, address) = match asked {
            Some(address) => {
                let Some(pool) = pools.find(|pool| pool.subnet.contains(address)) else {
                    return Err(Error::invalid(format!(
                        "invalid address {address}: It does not belong to any of this network's subnets"
                    )));
                };
                pool.check_free(address, used)?;
                (pool, address)
            }
            None => pools
                .find_map(|pool| Some((pool, pool.free(used)?)))
                .ok_or_else(|| ipam::exhausted(ipv4, &self.api.name, &self.api.id))?,
        };
        let leads_out = !self.is_closed() && !self.parent().is_some_and(ParentOptions::is_open);
        Ok(Place {
            address: Some(Prefix::new(address, pool.subnet.length)),
            gateway: self.chosen_gateway(ipv4).or(pool.gateway).filter(|_| leads_out),
        })
    }

    /// Who leads out instead of this machine, in Docker's names for it.
    pub(super) fn chosen_gateway(&self, ipv4: bool) -> Option<IpAddr> {
        self.bridge()?;
        let name = if ipv4 { "DefaultGatewayIPv4" } else { "DefaultGatewayIPv6" };
        let mut subnets = self.api.ipam.config.iter().flatten();
        let address: IpAddr =
            subnets.find_map(|subnet| subnet.auxiliary_addresses.get(name)?.parse().ok())?;
        (address.is_ipv4() == ipv4).then_some(address)
    }
}

/// A link on that of this machine.
fn join_parent(
    links: &mut Links,
    network: &Network,
    options: &ParentOptions,
    sandbox: &Sandbox,
    endpoint: &Endpoint,
) -> Result<()> {
    let parent = options.find(links)?;
    let namespace = sandbox::open(&sandbox.namespace)?;
    // Its name is first looked for where its parent is, and there may be an eth0.
    let made_as = format!("veth{}", endpoint.id.get(..7).unwrap_or_default());
    let upper = NewUpper {
        name: &made_as,
        kind: options.kind,
        parent: parent.index,
        mac: endpoint.mac,
        namespace: namespace.as_fd(),
    };
    let what = || format!("failed to create the {} port", network.api.driver);
    links.add_upper(&upper).map_err(parent::failed(what()))?;
    let rename = || {
        let mut links = Links::open()?;
        let renamed = links.rename(&made_as, &endpoint.interface);
        if renamed.is_err() {
            links.remove(&made_as)?;
        }
        Ok(renamed)
    };
    sandbox::enter(&sandbox.namespace, rename)?.map_err(parent::failed(what()))?;
    configure(&sandbox.namespace, endpoint).inspect_err(|_| drop(endpoint.remove_link(&sandbox.namespace)))
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
        // The only one on its parent begins with the parent's.
        if let Some(mac) = endpoint.mac.filter(|_| !endpoint.is_paired()) {
            links.set_mac(interface.index, mac)?;
        }
        for address in [endpoint.ipv4, endpoint.ipv6].into_iter().flatten() {
            links.add_address(interface.index, address)?;
        }
        links.set_up(interface.index)
    })
}

/// Gives the interface in the container what its user wants of it beside the network's addresses.
fn set_wishes(sandbox: &Sandbox, endpoint: &Endpoint, settings: &EndpointSettings) -> Result<()> {
    let sysctls: Vec<_> = interface::sysctls(settings).into_iter().flatten().collect();
    let addresses = interface::link_local(settings);
    if sysctls.is_empty() && addresses.is_empty() {
        return Ok(());
    }
    let set = || {
        let mut links = Links::open()?;
        let found = links.find(&endpoint.interface)?;
        for (found, address) in found.iter().flat_map(|found| addresses.iter().map(move |to| (found, to))) {
            links.add_address(found.index, *address)?;
        }
        // What fails here is the user's to know.
        Ok(sysctls.iter().try_for_each(|sysctl| sysctl.apply(&endpoint.interface)))
    };
    sandbox::enter(&sandbox.namespace, set)?.map_err(|error| Error::system(error.to_string()))
}

/// Sends what is for the world by the endpoints that lead there.
pub(super) fn set_routes(sandbox: &Sandbox) -> Result<()> {
    let (v4, v6) = sandbox.gateways();
    sandbox::enter(&sandbox.namespace, || {
        let mut links = Links::open()?;
        for (ipv4, by) in [(true, v4), (false, v6)] {
            // An IPv6 kernel adds routes with equal prefixes beside each other.
            if !ipv4 || by.is_none() {
                links.remove_default_route(ipv4).or_else(no_such_family)?;
            }
            if let Some(endpoint) = by
                && let Some(interface) = links.find(&endpoint.interface)?
            {
                match if ipv4 { endpoint.gateway_v4 } else { endpoint.gateway_v6 } {
                    Some(gateway) => links.set_default_route(interface.index, gateway)?,
                    None => links.set_default_link(interface.index, ipv4)?,
                }
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
