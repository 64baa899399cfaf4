use std::{collections::BTreeMap, fs, path::Path};

use wire::{
    docker::{
        API_VERSION, MIN_API_VERSION,
        system::{
            Commit, Component, IndexConfig, Info, Platform, Plugins, RegistryConfig, Runtime, Swarm, Version,
        },
    },
    settings::without_credentials,
};

use super::{Engine, timestamp};

/// The Docker release whose behaviour this engine follows. Clients compare versions, so this is what
/// `Version` says; `Platform` and `Components` say who answers.
pub(crate) const DOCKER_VERSION: &str = "28.5.2";
const OUR_VERSION: &str = env!("CARGO_PKG_VERSION");
const INDEX_SERVER: &str = "https://index.docker.io/v1/";

impl Engine {
    /// The answer of `GET /version`.
    pub(crate) fn version(&self) -> Version {
        let kernel = kernel_release();
        let details = [
            ("ApiVersion", API_VERSION),
            ("Arch", go_arch()),
            ("Coracle", OUR_VERSION),
            ("Experimental", "false"),
            ("KernelVersion", &kernel),
            ("MinAPIVersion", MIN_API_VERSION),
            ("Os", "linux"),
        ];
        Version {
            platform: Platform { name: format!("Coracle {OUR_VERSION}") },
            components: vec![Component {
                name: "Engine".to_owned(),
                version: DOCKER_VERSION.to_owned(),
                details: details.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            }],
            version: DOCKER_VERSION.to_owned(),
            api_version: API_VERSION.to_owned(),
            min_api_version: MIN_API_VERSION.to_owned(),
            os: "linux".to_owned(),
            arch: go_arch().to_owned(),
            kernel_version: kernel,
            ..Version::default()
        }
    }

    /// The answer of `GET /info`.
    pub(crate) fn info(&self) -> Info {
        let counts = self.containers.counts();
        let cgroup = Cgroup::read();
        let (memory, _) = memory_and_uptime();
        Info {
            id: self.identity.id.clone(),
            containers: counts.total,
            containers_running: counts.running,
            containers_paused: counts.paused,
            containers_stopped: counts.stopped,
            images: self.images.count(),
            driver: "overlay2".to_owned(),
            driver_status: self.driver_status(),
            plugins: Plugins {
                volume: vec!["local".to_owned()],
                network: crate::network::Networks::drivers(),
                authorization: None,
                log: ["json-file", "none"].map(str::to_owned).to_vec(),
            },
            memory_limit: cgroup.has("memory"),
            swap_limit: cgroup.has("memory"),
            cpu_cfs_period: cgroup.has("cpu"),
            cpu_cfs_quota: cgroup.has("cpu"),
            cpu_shares: cgroup.has("cpu"),
            cpu_set: cgroup.has("cpuset"),
            pids_limit: cgroup.has("pids"),
            oom_kill_disable: cgroup.version == 1 && cgroup.has("memory"),
            ipv4_forwarding: fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .is_ok_and(|value| value.trim() == "1"),
            fds: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            tasks: tokio::runtime::Handle::try_current()
                .map_or(0, |handle| handle.metrics().num_alive_tasks()),
            system_time: timestamp::now_rfc3339(),
            logging_driver: "json-file".to_owned(),
            cgroup_driver: "cgroupfs".to_owned(),
            cgroup_version: cgroup.version.to_string(),
            event_listeners: self.events.listeners(),
            kernel_version: kernel_release(),
            operating_system: operating_system(),
            os_version: os_release("VERSION_ID").unwrap_or_default(),
            os_type: "linux".to_owned(),
            architecture: rustix::system::uname().machine().to_string_lossy().into_owned(),
            index_server_address: INDEX_SERVER.to_owned(),
            registry_config: self.registry_config(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            mem_total: memory,
            docker_root_dir: self.config.data_root.display().to_string(),
            http_proxy: shown(&self.config.proxies.http),
            https_proxy: shown(&self.config.proxies.https),
            no_proxy: self.config.proxies.no.clone().unwrap_or_default(),
            name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            server_version: DOCKER_VERSION.to_owned(),
            runtimes: BTreeMap::from([("runc".to_owned(), Runtime { path: "coracle-agent".to_owned() })]),
            default_runtime: "runc".to_owned(),
            swarm: Swarm { local_node_state: "inactive".to_owned(), ..Swarm::default() },
            live_restore_enabled: true,
            init_binary: "docker-init".to_owned(),
            containerd_commit: Commit::default(),
            runc_commit: Commit::default(),
            init_commit: Commit::default(),
            security_options: self.security_options(cgroup.version),
            cdi_spec_dirs: Vec::new(),
            ..Info::default()
        }
    }

    fn driver_status(&self) -> Vec<(String, String)> {
        let backing = backing_filesystem(&self.config.data_root).unwrap_or("unknown");
        [
            ("Backing Filesystem", backing),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    fn registry_config(&self) -> RegistryConfig {
        let is_cidr = |registry: &&String| registry.contains('/');
        let insecure = &self.config.insecure_registries;
        let mut index_configs = BTreeMap::from([(
            "docker.io".to_owned(),
            IndexConfig {
                name: "docker.io".to_owned(),
                mirrors: self.config.registry_mirrors.clone(),
                secure: true,
                official: true,
            },
        )]);
        for registry in insecure.iter().filter(|registry| !is_cidr(registry)) {
            let config = IndexConfig { name: registry.clone(), ..IndexConfig::default() };
            index_configs.insert(registry.clone(), config);
        }
        // Loopback addresses are reached by plain HTTP without being asked for, as in Docker.
        let loopback = ["::1/128", "127.0.0.0/8"].map(str::to_owned);
        RegistryConfig {
            insecure_registry_cidrs: insecure.iter().filter(is_cidr).cloned().chain(loopback).collect(),
            index_configs,
            mirrors: self.config.registry_mirrors.clone(),
        }
    }

    fn security_options(&self, cgroup_version: u8) -> Vec<String> {
        let mut options = vec!["name=seccomp,profile=builtin".to_owned()];
        if cgroup_version == 2 {
            options.push("name=cgroupns".to_owned());
        }
        if self.config.userns_remap.is_some() {
            options.push("name=userns".to_owned());
        }
        options
    }
}

/// A proxy, without what opens it.
fn shown(proxy: &Option<String>) -> String {
    proxy.as_deref().map(without_credentials).unwrap_or_default()
}

/// What this machine's cgroups can limit.
struct Cgroup {
    version: u8,
    controllers: Vec<String>,
}

impl Cgroup {
    fn read() -> Self {
        if let Ok(controllers) = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
            let controllers = controllers.split_whitespace().map(str::to_owned).collect();
            return Self { version: 2, controllers };
        }
        let controllers = fs::read_dir("/sys/fs/cgroup")
            .map(|entries| {
                let names = entries.flatten().map(|entry| entry.file_name());
                names.map(|name| name.to_string_lossy().into_owned()).collect()
            })
            .unwrap_or_default();
        Self { version: 1, controllers }
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// This machine's architecture in Go's words, which Docker's API uses.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Bytes of memory, seconds since boot.
fn memory_and_uptime() -> (u64, i64) {
    let info = rustix::system::sysinfo();
    let memory = u64::from(info.mem_unit).saturating_mul(info.totalram);
    (memory, info.uptime)
}

fn operating_system() -> String {
    os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned())
}

/// A field of os-release(5).
fn os_release(field: &str) -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix('='))?;
    Some(line.trim_matches(['"', '\'']).to_owned())
}

fn backing_filesystem(path: &Path) -> Option<&'static str> {
    // statfs(2) has the numbers.
    Some(match rustix::fs::statfs(path).ok()?.f_type {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        _ => return None,
    })
}
