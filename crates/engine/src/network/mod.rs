//! Networks, and the containers in them.
//!
//! A network is a record on disk, made of what the user asked for and the subnets chosen for it; one of the
//! driver `bridge` is also a bridge of this machine. A container that is in networks has a *sandbox*: a network
//! namespace made before the container's first process, with an *endpoint* for each network. Sandboxes are
//! written down below the exec root, so that an engine that takes over running containers finds them.
//!
//! Everything that changes links, addresses or rules happens under one lock, on threads that may block.

mod address;
mod bridge;
mod connect;
mod create;
mod endpoint;
mod interface;
mod ipam;
mod join;
mod mark;
mod mode;
mod names;
mod netlink;
mod nft;
mod options;
mod parent;
mod ports;
mod remove;
mod resolver;
mod restore;
mod sandbox;
mod show;
mod start;
mod validate;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use wire::docker::network as api;

use mode::HOST;
pub(crate) use mode::{BRIDGE, Mode, is_predefined};
pub(crate) use ports::{HostPorts, Listeners, PortPublisher, follow_host_network, split as split_port};
pub(crate) use resolver::ADDRESS as RESOLVER;
pub(crate) use show::{LIST_FILTERS, Live, PRUNE_FILTERS};
pub(crate) use start::{Started, Wanted};

use crate::{
    error::{Error, Result},
    events::Events,
    store::{self, Durability},
};
use endpoint::Sandbox;
use ipam::Pool;
use names::Names;
use options::BridgeOptions;
use parent::ParentOptions;
use ports::Published;
use resolver::Resolver;

/// Every network. Clones share them.
#[derive(Clone)]
pub struct Networks(Arc<Inner>);

struct Inner {
    /// Holds a file per network.
    directory: PathBuf,
    /// Holds what a reboot ends.
    run: Run,
    events: Events,
    publisher: Arc<dyn PortPublisher>,
    runtime: tokio::runtime::Handle,
    names: Arc<Names>,
    /// Whether a container runs in this machine's own network.
    own_network_used: watch::Sender<bool>,
    state: Mutex<State>,
}

/// Places below the exec root.
#[derive(Debug, Clone)]
struct Run {
    /// Network namespaces, each mounted on a file.
    namespaces: PathBuf,
    /// A file per sandbox.
    sandboxes: PathBuf,
    /// Is there when this engine, or one before it, made a router of the machine.
    forwarding: PathBuf,
}

#[derive(Default)]
struct State {
    /// The engine's identity.
    engine: String,
    /// By id.
    networks: BTreeMap<String, Network>,
    /// By container.
    sandboxes: BTreeMap<String, Sandbox>,
    /// What serves running containers, by container: what an engine's end ends.
    served: HashMap<String, Served>,
    /// What ended containers had, until the kernel has done away with it.
    leaving: Vec<Leaving>,
    /// Bridges of removed networks, which may still be there.
    doomed: BTreeSet<String>,
    /// This engine made a router of the machine.
    forwarding: bool,
    /// Who leads clients to containers by itself.
    router: Option<ports::Router>,
    /// Kept open: with the socket of a change the kernel waits, when it is closed, until the change before it is
    /// cleared away, some 10 ms.
    filter: Cell<Option<netlink::Socket>>,
    /// The kernel has the rules that bridges need.
    has_rules: Cell<bool>,
    /// Where the search for a free port begins.
    next_port: u16,
}

/// A link whose namespace is gone: the kernel removes it by itself, which takes it some time, and nobody waits for
/// that. Its addresses are not given out as long as it may answer.
struct Leaving {
    container: String,
    interface: String,
    network: String,
    addresses: Vec<IpAddr>,
}

/// What the engine does for a running container.
#[derive(Default)]
struct Served {
    ports: Vec<Box<dyn Published>>,
    resolver: Option<Resolver>,
}

/// A network.
#[derive(Debug, Clone)]
struct Network {
    api: api::Network,
    pools: Vec<Pool>,
    /// The user chose its subnets.
    has_own_subnets: bool,
    /// Somebody else made its bridge or parent, and keeps it.
    is_foreign: bool,
    driver: Driver,
}

/// What a network is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Driver {
    /// Nothing: `host`, `none`, and configurations of others.
    None,
    Bridge(BridgeOptions),
    /// `macvlan` and `ipvlan`.
    Parent(ParentOptions),
}

/// What is kept of a network on disk.
#[derive(Serialize, Deserialize)]
struct Record {
    network: api::Network,
    pools: Vec<Pool>,
    has_own_subnets: bool,
    is_foreign: bool,
}

impl fmt::Debug for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Networks").field("directory", &self.0.directory).finish_non_exhaustive()
    }
}

impl Networks {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether a container runs in this machine's own network, and when that changes.
    pub(crate) fn own_network_used(&self) -> watch::Receiver<bool> {
        self.0.own_network_used.subscribe()
    }

    fn tell_of_own_network(&self, state: &State) {
        let mut endpoints = state.sandboxes.values().flat_map(|sandbox| &sandbox.endpoints);
        let used = endpoints.any(|endpoint| endpoint.network_name == HOST);
        self.0.own_network_used.send_if_modified(|now| std::mem::replace(now, used) != used);
    }

    fn file(&self, id: &str) -> PathBuf {
        self.0.directory.join(format!("{id}.json"))
    }

    /// Keeps a network: it is on the disk when this returns.
    fn keep(&self, network: &Network) -> Result<()> {
        let record = Record {
            network: network.api.clone(),
            pools: network.pools.clone(),
            has_own_subnets: network.has_own_subnets,
            is_foreign: network.is_foreign,
        };
        store::write_json(&self.file(&network.api.id), &record, Durability::Synced)
    }

    /// Tells what happened to a network, and to which container's place in it.
    fn emit(&self, network: &api::Network, action: &str, container: Option<&str>) {
        let mut attributes = vec![("name", network.name.as_str()), ("type", network.driver.as_str())];
        attributes.extend(container.map(|id| ("container", id)));
        self.0.events.emit("network", action, &network.id, attributes);
    }
}

impl Network {
    fn has_family(&self, ipv4: bool) -> bool {
        if ipv4 { self.api.enable_ipv4 } else { self.api.enable_ipv6 }
    }

    fn is_default_bridge(&self) -> bool {
        self.api.name == BRIDGE
    }

    fn bridge(&self) -> Option<&BridgeOptions> {
        match &self.driver {
            Driver::Bridge(options) => Some(options),
            _ => None,
        }
    }

    fn parent(&self) -> Option<&ParentOptions> {
        match &self.driver {
            Driver::Parent(options) => Some(options),
            _ => None,
        }
    }

    /// Nothing leads from it to the world.
    fn is_closed(&self) -> bool {
        self.api.internal || self.parent().is_some_and(|options| options.is_dummy)
    }

    fn from_record(record: Record) -> Result<Self> {
        let Record { network: api, pools, has_own_subnets, is_foreign } = record;
        Ok(Self { driver: Driver::of(&api)?, api, pools, has_own_subnets, is_foreign })
    }

    fn load(path: &Path) -> Result<Option<Self>> {
        store::read_json(path)?.map(Self::from_record).transpose()
    }
}

impl Driver {
    /// What a network's name of its driver and its options say.
    ///
    /// # Errors
    /// Options that make no sense, in Docker's words.
    fn of(api: &api::Network) -> Result<Self> {
        Ok(match api.driver.as_str() {
            _ if api.config_only => Self::None,
            "bridge" => {
                let options = BridgeOptions::parse(&api.id, &api.options)?;
                options.check_internal(api.internal)?;
                Self::Bridge(options)
            }
            driver @ ("macvlan" | "ipvlan") => {
                Self::Parent(ParentOptions::parse(driver, &api.id, &api.options)?)
            }
            _ => Self::None,
        })
    }
}

impl State {
    /// A network by name, id, or the start of an id that fits one network only.
    ///
    /// # Errors
    /// No such network, or several, in Docker's words.
    fn get(&self, name_or_id: &str) -> Result<&Network> {
        let by_name = || self.networks.values().find(|network| network.api.name == name_or_id);
        if let Some(network) = self.networks.get(name_or_id).or_else(by_name) {
            return Ok(network);
        }
        let fits = |network: &&Network| !name_or_id.is_empty() && network.api.id.starts_with(name_or_id);
        let mut fitting = self.networks.values().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network),
            (None, _) => Err(not_found(name_or_id)),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {name_or_id} is ambiguous ({} matches found based on ID prefix)",
                2 + fitting.count()
            ))),
        }
    }

    /// The containers' places in a network.
    fn endpoints<'a>(
        &'a self,
        network: &'a str,
    ) -> impl Iterator<Item = (&'a Sandbox, &'a endpoint::Endpoint)> {
        self.sandboxes
            .values()
            .filter_map(move |sandbox| sandbox.endpoint(network).map(|endpoint| (sandbox, endpoint)))
    }
}

fn not_found(name: &str) -> Error {
    Error::not_found(format!("network {name} not found"))
}
