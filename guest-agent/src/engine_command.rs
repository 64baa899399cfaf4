//! `coracle-agent engine`: the options, and the runtime the engine lives in.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use tracing::Level;
use wire::settings::Proxies;

use crate::logging;

/// Threads for blocking work, mostly file system calls. Tokio's own limit of 512 would let a burst of
/// requests take more memory than the engine is to use.
const BLOCKING_THREADS: usize = 32;

/// Memory pools of the C allocator. It would make one for each thread, and keep what each has freed.
const ALLOCATOR_POOLS: libc::c_int = 2;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where images, containers and volumes are stored
    #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle")]
    data_root: PathBuf,
    /// Where the state of running containers is kept; should be memory
    #[arg(long, value_name = "DIR", default_value = "/run/coracle")]
    exec_root: PathBuf,
    /// Where to serve the API: unix:///PATH, vsock://PORT or fd://NUMBER; can be repeated
    #[arg(long = "host", value_name = "ADDRESS", default_value = "unix:///run/coracle/docker.sock")]
    hosts: Vec<engine::Host>,
    /// A registry spoken to without TLS, or without checking its certificate; can be repeated
    #[arg(long = "insecure-registry", value_name = "HOST[:PORT]")]
    insecure_registries: Vec<String>,
    /// A mirror of Docker Hub to ask first; can be repeated
    #[arg(long = "registry-mirror", value_name = "URL")]
    registry_mirrors: Vec<String>,
    /// A proxy on the way to registries [default: the environment's HTTP_PROXY]
    #[arg(long, value_name = "URL")]
    http_proxy: Option<String>,
    /// The same for registries with TLS [default: HTTPS_PROXY]
    #[arg(long, value_name = "URL")]
    https_proxy: Option<String>,
    /// Hosts, domains and CIDRs that are reached without a proxy, separated by commas [default: NO_PROXY]
    #[arg(long, value_name = "LIST")]
    no_proxy: Option<String>,
    /// Give new containers the proxies in their environment
    #[arg(long)]
    container_proxy: bool,
    /// Run containers with the subordinate users and groups of this one (see subuid(5)); "default" is the
    /// user dockremap
    #[arg(long, value_name = "USER[:GROUP]")]
    userns_remap: Option<String>,
    /// Where to ask the host of this machine to open published ports: a vsock port
    #[arg(long, value_name = "PORT")]
    host_ports: Option<u32>,
    /// A folder of this machine's host that containers can mount; can be repeated
    #[arg(long = "share", value_name = "DIR", requires = "host_ports")]
    shares: Vec<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn main(options: Options) -> ExitCode {
    logging::to_stderr(options.log_level);
    match serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(options: Options) -> Result<()> {
    // SAFETY: takes no pointers, and no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ALLOCATOR_POOLS) };
    raise_open_files();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start the engine's threads")?;
    let proxies = Proxies { http: options.http_proxy, https: options.https_proxy, no: options.no_proxy };
    runtime.block_on(engine::serve(engine::Config {
        data_root: options.data_root,
        exec_root: options.exec_root,
        hosts: options.hosts,
        insecure_registries: options.insecure_registries,
        registry_mirrors: options.registry_mirrors,
        proxies: proxies.or(Proxies::from_environment()),
        container_proxy: options.container_proxy,
        userns_remap: options.userns_remap,
        host_ports: options.host_ports,
        shares: options.host_ports.is_some().then_some(options.shares),
    }))?;
    Ok(())
}

/// A container's streams, clients and layers are many descriptors: take what we may have.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
