//! The engine as a whole: what it is made of, its start and its end.

mod disk_usage;
mod host;
mod info;
mod timestamp;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{SignalKind, signal};
use wire::settings::Proxies;

pub use host::Host;
pub(crate) use info::DOCKER_VERSION;
pub(crate) use timestamp::now_rfc3339;
pub use timestamp::parse_timestamp;

use crate::{
    api,
    container::Containers,
    error::{Context, Error, Result},
    events::Events,
    image::{Images, RegistryOptions},
    network::{self, HostPorts, Listeners, Networks, PortPublisher},
    runtime::Runtime,
    snapshot::{Layers, Snapshots},
    store::{self, Durability},
    userns::{Remap, Userns},
    volume::Volumes,
};

/// The `Server` header of every answer, as Docker's: clients take it apart.
pub(crate) const SERVER: &str = "Docker/28.5.2 (linux)";

/// How long containers have to end when the engine does, unless whoever stops it says otherwise.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// In the exec root: whoever sends SIGTERM may have left here, as decimal seconds, how long containers
/// have to end.
pub const STOP_TIMEOUT_FILE: &str = "stop-timeout";

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Holds everything that outlives the machine's power: images, containers, logs.
    pub data_root: PathBuf,
    /// Holds what a reboot ends: sockets, mounts, the state of running containers.
    pub exec_root: PathBuf,
    /// Where the API is served.
    pub hosts: Vec<Host>,
    /// Registries reached by plain HTTP, as `host[:port]` or a CIDR.
    pub insecure_registries: Vec<String>,
    /// Asked before Docker Hub.
    pub registry_mirrors: Vec<String>,
    /// On the way to registries.
    pub proxies: Proxies,
    /// Whether new containers have the proxies in their environment.
    pub container_proxy: bool,
    /// The vsock port at which this engine's host opens published ports, if it is in a machine.
    pub host_ports: Option<u32>,
    /// The host's folders that this engine's machine has, if it is in one.
    pub shares: Option<Vec<PathBuf>>,
    /// Whose subordinate users and groups are those of containers; see [`Remap::parse`].
    pub userns_remap: Option<String>,
}

impl Config {
    /// Variables of each new container, in capitals and not: programs differ in what they read.
    pub(crate) fn container_environment(&self) -> Vec<String> {
        let proxies = self.container_proxy.then(|| self.proxies.variables()).into_iter().flatten();
        proxies
            .flat_map(|(name, value)| {
                [format!("{name}={value}"), format!("{}={value}", name.to_ascii_lowercase())]
            })
            .collect()
    }
}

/// A running engine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) events: Events,
    pub(crate) images: Images,
    pub(crate) containers: Containers,
    pub(crate) volumes: Volumes,
    pub(crate) networks: Networks,
}

/// What a data root is known by, written when it was made.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Identity {
    /// A UUID.
    id: String,
    /// RFC 3339.
    created: String,
}

/// Runs an engine until SIGTERM or SIGINT, then stops its containers and returns.
///
/// An engine that is killed instead leaves its containers running; the next one on the same roots
/// takes them over.
///
/// # Errors
/// Roots that cannot be used, another engine on the same data root, a socket that cannot be bound.
pub async fn serve(config: Config) -> Result<()> {
    // Before anything slow: a stop that comes during the start must not kill us half way.
    let mut terminate = signal(SignalKind::terminate()).context(|| "catch SIGTERM".to_owned())?;
    let mut interrupt = signal(SignalKind::interrupt()).context(|| "catch SIGINT".to_owned())?;
    for host in &config.hosts {
        host.keep_from_children().context(|| format!("inherit the socket {host}"))?;
    }
    for root in [&config.data_root, &config.exec_root] {
        fs::create_dir_all(root).context(|| format!("create {}", root.display()))?;
    }
    let _lock = lock(&config)?;
    let hosts = config.hosts.clone();
    let (engine, runtime) = open(config).await?;
    let serving = api::serve(engine.clone(), &hosts)?;
    tracing::info!(
        hosts = hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(" "),
        "the engine is ready"
    );
    tokio::select! {
        () = serving => {}
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping the containers"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping the containers"),
    }
    let timeout = stop_timeout(&engine.config.exec_root);
    engine.containers.shutdown(timeout).await;
    runtime.shutdown().await
}

/// What [`STOP_TIMEOUT_FILE`] says, if it is there and makes sense.
fn stop_timeout(exec_root: &std::path::Path) -> Duration {
    let said = fs::read_to_string(exec_root.join(STOP_TIMEOUT_FILE)).ok();
    let seconds = said.and_then(|text| text.trim().parse().ok());
    seconds.map_or(SHUTDOWN_TIMEOUT, Duration::from_secs)
}

/// Keeps two engines from one data root.
fn lock(config: &Config) -> Result<fs::File> {
    let path = config.data_root.join("lock");
    let file = fs::File::create(&path).context(|| format!("create {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        let root = config.data_root.display();
        Error::conflict(format!("another engine uses the data root {root}")).because(error)
    })?;
    Ok(file)
}

async fn open(config: Config) -> Result<(Arc<Engine>, Runtime)> {
    let (data_root, exec_root) = (&config.data_root, &config.exec_root);
    let identity = identity(&config)?;
    let events = Events::default();
    let remap = config.userns_remap.as_deref().map(Remap::parse).transpose()?;
    let userns = Userns::open(remap, data_root, exec_root)?;
    let layers = Layers::open(data_root)?;
    let snapshots = Snapshots::open(data_root, exec_root, layers.clone())?;
    let registry = RegistryOptions {
        insecure: config.insecure_registries.clone(),
        mirrors: config.registry_mirrors.clone(),
        proxies: config.proxies.clone(),
    };
    let images = Images::open(data_root, layers, events.clone(), registry)?;
    let program = std::env::current_exe().context(|| "find the engine's program".to_owned())?;
    let (runtime, held) = Runtime::connect(exec_root, &program).await?;
    let volumes = Volumes::open(data_root, events.clone())?;
    let host_ports = config.host_ports.map(HostPorts::new).transpose()?.map(Arc::new);
    let networks = {
        let (data_root, exec_root, identity, events) =
            (data_root.clone(), exec_root.clone(), identity.clone(), events.clone());
        let runtime = tokio::runtime::Handle::current();
        let publisher: Arc<dyn PortPublisher> = match &host_ports {
            Some(ports) => Arc::clone(ports) as _,
            None => Arc::new(Listeners::new()?),
        };
        crate::blocking(move || {
            let (id, created) = (&identity.id, &identity.created);
            Networks::open(&data_root, &exec_root, id, created, events, publisher, runtime)
        })
        .await?
    };
    let containers = Containers::open(
        &config,
        images.clone(),
        snapshots,
        volumes.clone(),
        networks.clone(),
        runtime.clone(),
        held,
        userns,
        events.clone(),
    )
    .await?;
    if let Some(ports) = host_ports {
        tokio::spawn(network::follow_host_network(ports, networks.own_network_used()));
    }
    let engine = Engine { config, identity, events, images, containers, volumes, networks };
    Ok((Arc::new(engine), runtime))
}

fn identity(config: &Config) -> Result<Identity> {
    let path = config.data_root.join("engine.json");
    if let Some(identity) = store::read_json(&path)? {
        return Ok(identity);
    }
    let uuid =
        fs::read_to_string("/proc/sys/kernel/random/uuid").context(|| "make an engine id".to_owned())?;
    let identity = Identity { id: uuid.trim().to_owned(), created: timestamp::now_rfc3339() };
    store::write_json(&path, &identity, Durability::Synced)?;
    Ok(identity)
}
