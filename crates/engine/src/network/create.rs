//! `network create`, and the networks that every engine has.

use wire::docker::network::{self as api, CreateRequest, CreateResponse, Ipam, IpamConfig};

use super::{
    BRIDGE, Driver, Network, Networks, State,
    ipam::{self, Pool},
    netlink::Links,
    options::{self, BridgeOptions, GatewayMode},
    validate,
};
use crate::{
    container::random_id,
    error::{Context, Error, Kind, Result},
    system::now_rfc3339,
};

/// Whose driver must not have more than one network.
const SINGLE: [&str; 2] = ["host", "null"];
const IPAM_DRIVER: &str = "default";
const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                        connect this node to swarm and try again.";

impl Networks {
    /// Makes a network. Blocks.
    ///
    /// # Errors
    /// Requests that make no sense, names and subnets that are taken, in Docker's words; what this machine
    /// refuses.
    pub(crate) fn create(&self, request: CreateRequest) -> Result<CreateResponse> {
        validate::name(&request.name)?;
        let mut network = describe(&request)?;
        let mut state = self.state();
        if state.networks.values().any(|other| other.api.name == request.name) {
            return Err(Error::conflict(format!("network with name {} already exists", request.name)));
        }
        if let Some(from) = request.config_from.as_ref().filter(|from| !from.network.is_empty()) {
            take_configuration(&mut network, from, &request, &state)?;
        }
        match network.driver.clone() {
            Driver::None => {}
            Driver::Bridge(options) => {
                self.choose_subnets(&mut network, &state)?;
                network.check_pools()?;
                self.check_bridge(&mut network, &options, &mut state)?;
            }
            Driver::Parent(options) => {
                self.choose_subnets(&mut network, &state)?;
                state.check_parent(&mut network, &options)?;
            }
        }
        let id = network.api.id.clone();
        let api = network.api.clone();
        // On disk before anything of it is in the kernel, so that nothing is there without an owner.
        self.keep(&network)?;
        state.networks.insert(id.clone(), network);
        if let Err(error) = state.bring_up(&id) {
            if let Some(network) = state.networks.remove(&id) {
                self.undo(&network, &state);
            }
            return Err(error);
        }
        self.keep_forwarding(&state);
        drop(state);
        self.emit(&api, "create", None);
        Ok(CreateResponse { id, warning: String::new() })
    }

    fn undo(&self, network: &Network, state: &State) {
        let taken_down = match &network.driver {
            Driver::None => Ok(()),
            Driver::Bridge(_) => Links::open()
                .context(|| "open a netlink socket".to_owned())
                .and_then(|mut links| network.take_down(&mut links)),
            Driver::Parent(options) => state.remove_parent(network, options),
        };
        for error in [taken_down, state.apply_rules(), self.forget(&network.api.id)]
            .into_iter()
            .filter_map(Result::err)
        {
            tracing::warn!(network = network.api.name, "undo its creation: {error}");
        }
    }

    /// Fills in the subnets that the request leaves to the engine.
    fn choose_subnets(&self, network: &mut Network, state: &State) -> Result<()> {
        let others: Vec<_> =
            state.networks.values().flat_map(|other| &other.pools).map(|pool| pool.subnet).collect();
        for (index, pool) in network.pools.iter().enumerate() {
            let own = network.pools.iter().take(index).map(|pool| &pool.subnet);
            if others.iter().chain(own).any(|other| other.overlaps(&pool.subnet)) {
                return Err(ipam::overlapping());
            }
        }
        let taken: Vec<_> = others.into_iter().chain(ipam::routed()).collect();
        let wanted = [(network.api.enable_ipv4, true), (network.api.enable_ipv6, false)];
        for (_, ipv4) in wanted.into_iter().filter(|(enabled, _)| *enabled) {
            if network.pools.iter().any(|pool| pool.subnet.is_ipv4() == ipv4) {
                continue;
            }
            let subnet =
                if ipv4 { ipam::default_v4(&taken)? } else { ipam::default_v6(&state.engine, &taken)? };
            let mut pool = Pool { subnet, range: None, gateway: None, reserved: Vec::new() };
            if network.wants_gateway(ipv4) {
                set_gateway(&mut pool)?;
            }
            network.api.ipam.config.get_or_insert_default().push(IpamConfig {
                subnet: subnet.to_string(),
                gateway: pool.gateway.map(|ip| ip.to_string()).unwrap_or_default(),
                ..IpamConfig::default()
            });
            network.pools.push(pool);
        }
        let wanted = [true, false].map(|ipv4| network.wants_gateway(ipv4));
        for pool in &mut network.pools {
            if wanted[usize::from(!pool.subnet.is_ipv4())] {
                set_gateway(pool)?;
            }
            if let Some(gateway) = pool.gateway.filter(|gateway| pool.reserved.contains(gateway)) {
                let names = network.api.ipam.config.iter().flatten().flat_map(|c| &c.auxiliary_addresses);
                let text = gateway.to_string();
                let name = names.clone().find(|(_, address)| **address == text).map_or("", |(name, _)| name);
                return Err(Error::system(format!(
                    "failed to allocate secondary ip address ({name}:{gateway}): Address already in use"
                )));
            }
        }
        Ok(())
    }

    /// Refuses a bridge that another network has, and notes whether there is one already.
    fn check_bridge(&self, network: &mut Network, own: &BridgeOptions, state: &mut State) -> Result<()> {
        let has_it =
            |other: &&Network| other.bridge().is_some_and(|bridge| bridge.interface == own.interface);
        if let Some(other) = state.networks.values().find(has_it) {
            let name = &own.interface;
            return Err(Error::new(
                Kind::Forbidden,
                format!(
                    "cannot create network {} ({name}): conflicts with network {} ({name}): networks have \
                     same bridge name",
                    network.api.id, other.api.id
                ),
            ));
        }
        let what = || format!("look for the bridge {}", own.interface);
        let mut links = Links::open().context(what)?;
        if state.doomed.remove(&own.interface) {
            // If the kernel has done so already, there is nothing to be done.
            links.remove(&own.interface).context(what)?;
        }
        let found = links.find(&own.interface).context(what)?;
        network.is_foreign = found.is_some();
        Ok(())
    }

    /// Sees to it that there are the networks that every engine has.
    pub(super) fn make_predefined(&self, state: &mut State, created: &str) -> Result<()> {
        for (name, driver) in [("host", "host"), ("none", "null"), (BRIDGE, "bridge")] {
            if state.networks.values().any(|network| network.api.name == name) {
                continue;
            }
            let mut network = Network {
                api: api::Network {
                    name: name.to_owned(),
                    id: predefined_id(&state.engine, name),
                    created: created.to_owned(),
                    scope: "local".to_owned(),
                    driver: driver.to_owned(),
                    enable_ipv4: true,
                    ipam: Ipam { driver: IPAM_DRIVER.to_owned(), ..Ipam::default() },
                    ..api::Network::default()
                },
                pools: Vec::new(),
                has_own_subnets: false,
                is_foreign: false,
                driver: Driver::None,
            };
            if driver == "bridge" {
                network.api.options = options::of_default_bridge();
                network.driver = Driver::of(&network.api)?;
                network.take_over()?;
                self.choose_subnets(&mut network, state)?;
            }
            self.keep(&network)?;
            state.networks.insert(network.api.id.clone(), network);
        }
        Ok(())
    }
}

/// From the engine's identity, so that they stay the same.
fn predefined_id(engine: &str, name: &str) -> String {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(format!("{engine}/{name}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl State {
    /// Brings a network into the kernel, if it has anything there.
    pub(super) fn bring_up(&mut self, id: &str) -> Result<()> {
        let Some(network) = self.networks.get_mut(id) else { return Ok(()) };
        let mut links = Links::open().context(|| "open a netlink socket".to_owned())?;
        match network.driver.clone() {
            Driver::None => Ok(()),
            Driver::Bridge(options) => {
                network.bring_up_bridge(&options, &mut links, &self.engine)?;
                let ipv6 = network.api.enable_ipv6;
                self.enable_forwarding(ipv6)?;
                self.apply_rules()
            }
            Driver::Parent(options) => network.bring_up_parent(&options, &mut links, &self.engine),
        }
    }
}

/// The network that a request describes, as far as the request alone says.
fn describe(request: &CreateRequest) -> Result<Network> {
    let driver = if request.driver.is_empty() { "bridge" } else { request.driver.as_str() };
    if request.config_only {
        if request.config_from.as_ref().is_some_and(|from| !from.network.is_empty()) {
            return Err(Error::new(
                Kind::Forbidden,
                "a configuration network cannot depend on another configuration network",
            ));
        }
    } else {
        match driver {
            "bridge" | "macvlan" | "ipvlan" => {}
            "overlay" => return Err(Error::new(Kind::Forbidden, NO_SWARM)),
            single if SINGLE.contains(&single) => {
                let message = format!("only one instance of \"{single}\" network is allowed");
                return Err(Error::new(Kind::Forbidden, message));
            }
            other => return Err(Error::not_found(format!("plugin {other:?} not found"))),
        }
    }
    if request.scope == "swarm" || request.ingress {
        let message = "cannot create a swarm scoped network when swarm is not active";
        return Err(Error::new(Kind::Forbidden, message));
    }
    let enabled =
        |asked: Option<bool>, option: &str, default: bool| match (asked, request.options.get(option)) {
            (Some(asked), _) => Ok(asked),
            (None, None) => Ok(default),
            (None, Some(text)) => options::boolean(text)
                .ok_or_else(|| Error::invalid(format!("driver-opt {option:?} is not a valid bool"))),
        };
    let enable_ipv4 = enabled(request.enable_ipv4, options::ENABLE_V4, true)?;
    let enable_ipv6 = enabled(request.enable_ipv6, options::ENABLE_V6, false)?;
    if !enable_ipv4 && !enable_ipv6 {
        return Err(Error::invalid("IPv4 or IPv6 must be enabled"));
    }
    let mut ipam = request.ipam.clone().unwrap_or_default();
    if ipam.driver.is_empty() {
        ipam.driver = IPAM_DRIVER.to_owned();
    }
    if ipam.driver != IPAM_DRIVER {
        return Err(Error::not_found(format!("plugin {:?} not found", ipam.driver)));
    }
    let configs = ipam.config.clone().unwrap_or_default();
    let pools = validate::pools(&configs)?;
    if configs.is_empty() {
        ipam.config = None;
    }
    let id = random_id();
    let driver = if request.config_only { "null" } else { driver };
    let api = api::Network {
        name: request.name.clone(),
        id,
        created: now_rfc3339(),
        scope: if request.scope.is_empty() { "local".to_owned() } else { request.scope.clone() },
        driver: driver.to_owned(),
        enable_ipv4,
        enable_ipv6,
        ipam,
        internal: request.internal,
        attachable: request.attachable,
        config_only: request.config_only,
        options: request.options.clone(),
        labels: request.labels.clone(),
        ..api::Network::default()
    };
    Ok(Network {
        driver: Driver::of(&api)?,
        api,
        has_own_subnets: !pools.is_empty(),
        pools,
        is_foreign: false,
    })
}

/// Takes over what another network is there to describe.
fn take_configuration(
    network: &mut Network,
    from: &api::ConfigReference,
    request: &CreateRequest,
    state: &State,
) -> Result<()> {
    let name = &from.network;
    let source = state
        .get(name)
        .map_err(|_| Error::not_found(format!("configuration network {name:?} does not exist")))?;
    if !source.api.config_only {
        let message = format!("{name:?} is not a configuration network");
        return Err(Error::new(Kind::Forbidden, message));
    }
    let says_itself = !request.labels.is_empty()
        || !request.options.is_empty()
        || request.ipam.as_ref().is_some_and(|ipam| ipam.config.as_ref().is_some_and(|c| !c.is_empty()));
    if says_itself {
        return Err(Error::new(
            Kind::Forbidden,
            "user specified configurations are not supported if the network depends on a configuration network",
        ));
    }
    network.pools.clone_from(&source.pools);
    network.has_own_subnets = source.has_own_subnets;
    network.api.ipam = source.api.ipam.clone();
    network.api.labels = source.api.labels.clone();
    network.api.options = source.api.options.clone();
    network.api.enable_ipv4 = source.api.enable_ipv4;
    network.api.enable_ipv6 = source.api.enable_ipv6;
    network.api.internal = source.api.internal;
    network.api.attachable = source.api.attachable;
    network.api.config_from = from.clone();
    network.driver = Driver::of(&network.api)?;
    Ok(())
}

impl Network {
    /// Goes on with the bridge of that name if there is one, and with its address, as Docker does: containers of
    /// somebody else may be there.
    fn take_over(&mut self) -> Result<()> {
        let Some(name) = self.bridge().map(|options| options.interface.clone()) else { return Ok(()) };
        let what = || format!("look for the bridge {name}");
        let Ok(mut links) = Links::open() else { return Ok(()) };
        let Some(found) = links.find(&name).context(what)? else { return Ok(()) };
        self.is_foreign = true;
        let Some(address) = links.address_v4(found.index).context(what)? else { return Ok(()) };
        tracing::warn!("the bridge {name} is there already: its address {address} is used, and it stays");
        let subnet = address.network();
        let gateway = address.address;
        self.pools.push(Pool { subnet, range: None, gateway: Some(gateway), reserved: Vec::new() });
        self.api.ipam.config.get_or_insert_default().push(IpamConfig {
            subnet: subnet.to_string(),
            gateway: gateway.to_string(),
            ..IpamConfig::default()
        });
        Ok(())
    }

    /// Refuses what a bridge cannot have of addresses, in Docker's words.
    fn check_pools(&self) -> Result<()> {
        let of_ipv4 = self.pools.iter().filter(|pool| pool.subnet.is_ipv4()).count();
        if of_ipv4 > 1 || self.pools.len() - of_ipv4 > 1 {
            return Err(Error::new(Kind::Forbidden, "bridge driver doesn't support multiple subnets"));
        }
        if self.api.internal && self.chosen_gateway(true).is_some() {
            return Err(Error::invalid("no gateway can be set on an internal bridge network"));
        }
        Ok(())
    }

    /// Whether an address is kept for who leads out of it, even if the user names none.
    fn wants_gateway(&self, ipv4: bool) -> bool {
        match &self.driver {
            Driver::Parent(options) => !self.is_closed() && !options.is_open(),
            // An internal network has no use for the address of who is not there.
            Driver::Bridge(options) => {
                let is_isolated = options.mode(ipv4) == GatewayMode::Isolated;
                !is_isolated && (options.is_here(ipv4) || !self.api.internal)
            }
            Driver::None => true,
        }
    }
}

/// Gives the gateway the lowest free address of a pool, unless the user chose one.
fn set_gateway(pool: &mut Pool) -> Result<()> {
    if pool.gateway.is_none() {
        let free = pool.free(&Default::default());
        let free = free.ok_or_else(|| Error::system("failed to allocate gateway (): no available IPs"))?;
        pool.gateway = Some(free);
    }
    Ok(())
}
