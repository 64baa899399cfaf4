//! From Docker's configuration of a container to an OCI specification, with Docker 28's defaults.
//!
//! Everything that Docker has is either done, or refused with an error that names the option. What the
//! specification depends on besides the configuration is in a `Request` and a `Machine`.

pub(crate) mod capabilities;
mod devices;
/// What a user asks to be mounted.
pub mod mounts;
/// The processes of `docker exec`.
mod process;
mod resources;
pub(crate) mod seccomp;
mod seccomp_default;
mod security;
/// Users and groups by an image's own lists.
pub mod user;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxSeccomp, Spec};
use serde_json::{Map, Value, json};
use wire::docker::{
    container::ContainerConfig,
    host_config::{HostConfig, Resources},
};

pub use mounts::{MountSource, RequestedMount};
pub use process::{ExecRequest, exec_process};
pub(super) use resources::PERIOD;
pub use user::User;

use super::{
    cgroup::{CgroupVersion, Cgroups, V1_CONTROLLERS},
    init,
};
use crate::{
    error::{Context, Error, Result},
    userns::{Range, Remap},
};
use devices::Devices;
use security::{Filter, Security};

/// What an image's command is searched in unless it says otherwise.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of `/dev/shm` unless told otherwise.
pub const DEFAULT_SHM_SIZE: i64 = 64 << 20;
/// Where containers' control groups are unless told otherwise.
const CGROUP_PARENT: &str = "/docker";
/// What a container does not see, unless it is privileged or told otherwise. [`Machine::masked`] is more.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// What a container cannot write, likewise.
pub const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const OCI_VERSION: &str = "1.2.0";

/// One container to be started.
#[derive(Debug)]
pub struct Request<'a> {
    pub id: &'a str,
    /// With the image's configuration merged in; has a command.
    pub config: &'a ContainerConfig,
    pub host: &'a HostConfig,
    /// The root file system, mounted and writable.
    pub rootfs: &'a Path,
    pub user: &'a User,
    /// Files that take the place of the image's, unless the user mounts something there.
    pub files: Files<'a>,
    pub mounts: &'a [RequestedMount],
    pub join: Join,
    /// This program, in a form that runs in any container: for `--init`.
    pub program: &'a Path,
}

/// See [`Request::files`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Files<'a> {
    pub hosts: Option<&'a Path>,
    pub hostname: Option<&'a Path>,
    pub resolv_conf: Option<&'a Path>,
}

/// Namespaces that exist already. A mode `container:ID` needs its path here.
#[derive(Debug, Clone, Default)]
pub struct Join {
    /// Also for a network that is prepared before the container starts.
    pub network: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub pid: Option<PathBuf>,
    /// A directory to be seen as `/dev/shm`: what `--ipc shareable` shares and `container:ID` joins.
    pub shm: Option<PathBuf>,
}

/// What a specification depends on of the machine.
#[derive(Debug, Clone)]
pub struct Machine {
    pub cgroups: Cgroups,
    /// A bit for each capability that can be given.
    pub capabilities: u64,
    pub cpus: usize,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// Network settings that the kernel has, of those that Docker sets.
    pub sysctls: Vec<(&'static str, &'static str)>,
    /// What Docker masks only where it exists.
    pub masked: Vec<String>,
    /// The users and groups of containers that do not ask for the machine's.
    pub remap: Option<Remap>,
}

impl Machine {
    /// Looks at this machine.
    pub fn read(cgroups: &Cgroups) -> io::Result<Self> {
        let exists = |path: &str| Path::new(path).exists();
        let possible = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
        let last: usize =
            possible.trim().rsplit(['-', ',']).next().and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Self {
            cgroups: cgroups.clone(),
            capabilities: rustix::thread::capabilities(None)?.permitted.bits(),
            cpus: std::thread::available_parallelism()?.get(),
            seccomp: exists("/proc/sys/kernel/seccomp/actions_avail"),
            sysctls: [
                ("net.ipv4.ping_group_range", "0 2147483647"),
                ("net.ipv4.ip_unprivileged_port_start", "0"),
            ]
            .into_iter()
            .filter(|(name, _)| exists(&format!("/proc/sys/{}", name.replace('.', "/"))))
            .collect(),
            masked: (0..=last)
                .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"))
                .filter(|path| exists(path))
                .collect(),
            remap: None,
        })
    }

    /// The users and groups of this container, if they are not the machine's.
    fn remap(&self, host: &HostConfig) -> Option<Remap> {
        self.remap.filter(|_| host.userns_mode != "host")
    }
}

/// Checks the limits that `POST /containers/{id}/update` brings, before they meet those that are there.
/// Drops those that this machine has none of, and returns warnings of them.
///
/// # Errors
/// What Docker refuses, in its words.
pub(crate) fn check_update(resources: &mut Resources, machine: &Machine) -> Result<Vec<String>> {
    resources::check_update(resources, &machine.cgroups, machine.cpus)
}

/// Checks what `POST /containers/create` brings, as far as it can be known before the container exists.
///
/// # Errors
/// What Docker refuses, in its words, and what is not implemented.
pub fn check(config: &ContainerConfig, host: &HostConfig, machine: &Machine) -> Result<()> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for variable in config.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {variable}")));
        }
    }
    mounts::requested(host)?;
    capabilities::choose(
        machine.capabilities,
        host.privileged,
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
    )?;
    Security::parse(host.security_opt.as_deref().unwrap_or_default())?;
    resources::check(&host.resources, machine.cpus)?;
    resources::ulimits(&host.resources)?;
    let modes = Modes::parse(host)?;
    if machine.remap(host).is_some() {
        check_remapped(host, &modes)?;
    }
    unsupported(host)?;
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        let value = host.oom_score_adj;
        return Err(Error::invalid(format!(
            "Invalid value {value}, range for oom score adj is [-1000, 1000]"
        )));
    }
    Ok(())
}

/// What needs the machine's own root, in Docker's words.
fn check_remapped(host: &HostConfig, modes: &Modes) -> Result<()> {
    let refused = if host.privileged {
        "privileged mode is incompatible with user namespaces.  You must run the container in the host \
         namespace when running privileged mode"
    } else if modes.network == Mode::Host {
        "cannot share the host's network namespace when user namespaces are enabled"
    } else if modes.pid == Mode::Host {
        "cannot share the host PID namespace when user namespaces are enabled"
    } else {
        return Ok(());
    };
    Err(Error::invalid(refused))
}

/// Options that mean something in Docker and are refused here.
fn unsupported(host: &HostConfig) -> Result<()> {
    if !matches!(host.runtime.as_str(), "" | "runc" | "io.containerd.runc.v2") {
        return Err(Error::invalid(format!("unknown or invalid runtime name: {}", host.runtime)));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(Error::invalid(format!("invalid isolation '{}' on linux", host.isolation)));
    }
    if host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()) {
        return Err(Error::invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ));
    }
    if host.annotations.as_ref().is_some_and(|all| all.contains_key("")) {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    if !host.cgroup.is_empty() {
        return Err(Error::not_implemented("HostConfig.Cgroup is not implemented"));
    }
    if let Some(request) = host.resources.device_requests.iter().flatten().next() {
        // No driver is there that could be asked, as on a machine without GPUs.
        let capabilities = request.capabilities.iter().flatten();
        let capabilities: Vec<String> = capabilities.map(|all| format!("[{}]", all.join(" "))).collect();
        return Err(Error::invalid(format!(
            "could not select device driver {:?} with capabilities: [{}]",
            request.driver,
            capabilities.join(" ")
        )));
    }
    Ok(())
}

/// Whose namespace a container is in.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    Private,
    Host,
    Container,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ipc {
    Private,
    Shareable,
    /// Private, and without `/dev/shm`.
    None,
    Host,
    Container,
}

/// The namespaces that a container's options ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Modes {
    network: Mode,
    pid: Mode,
    ipc: Ipc,
    uts_is_host: bool,
    /// `None` for the default.
    cgroup: Option<Mode>,
}

impl Modes {
    fn parse(host: &HostConfig) -> Result<Self> {
        let of_container = |mode: &str| mode.strip_prefix("container:").is_some_and(|id| !id.is_empty());
        let pid = match host.pid_mode.as_str() {
            "" | "private" => Mode::Private,
            "host" => Mode::Host,
            mode if of_container(mode) => Mode::Container,
            mode => return Err(Error::invalid(format!("invalid PID mode: {mode}"))),
        };
        let ipc = match host.ipc_mode.as_str() {
            "" | "private" => Ipc::Private,
            "shareable" => Ipc::Shareable,
            "none" => Ipc::None,
            "host" => Ipc::Host,
            mode if of_container(mode) => Ipc::Container,
            mode => return Err(Error::invalid(format!("invalid IPC mode: {mode}"))),
        };
        let uts_is_host = match host.uts_mode.as_str() {
            "" => false,
            "host" => true,
            mode => return Err(Error::invalid(format!("invalid UTS mode: {mode}"))),
        };
        let cgroup = match host.cgroupns_mode.as_str() {
            "" => None,
            "private" => Some(Mode::Private),
            "host" => Some(Mode::Host),
            mode => return Err(Error::invalid(format!("invalid cgroup namespace mode: {mode}"))),
        };
        if !matches!(host.userns_mode.as_str(), "" | "host") {
            return Err(Error::invalid(format!("invalid USER mode: {}", host.userns_mode)));
        }
        let network = match host.network_mode.as_str() {
            "host" => Mode::Host,
            mode if mode.starts_with("container:") => Mode::Container,
            _ => Mode::Private,
        };
        Ok(Self { network, pid, ipc, uts_is_host, cgroup })
    }
}

/// Builds the specification.
///
/// # Errors
/// As [`check`], and devices and profiles that cannot be used.
pub fn build(request: &Request<'_>, machine: &Machine) -> Result<Spec> {
    let Request { config, host, .. } = request;
    unsupported(host)?;
    let modes = Modes::parse(host)?;
    let security = Security::parse(host.security_opt.as_deref().unwrap_or_default())?;
    let capabilities = capabilities::choose(
        machine.capabilities,
        host.privileged,
        host.cap_add.as_deref().unwrap_or_default(),
        host.cap_drop.as_deref().unwrap_or_default(),
    )?;
    let group = cgroup_path(request.id, &host.resources.cgroup_parent);
    let devices = Devices::of(host)?;
    let mut resources = resources::limits(host, machine.cgroups.version())?;
    if let Some(fields) = resources.as_object_mut() {
        fields.insert("devices".to_owned(), json!(devices.rules));
    }
    let mut linux = json!({
        "resources": resources,
        "devices": devices.nodes,
        "cgroupsPath": group,
        "namespaces": namespaces(&modes, &request.join, host, machine)?,
        "sysctl": sysctls(&modes, host, machine),
        "maskedPaths": [],
        "readonlyPaths": [],
    });
    if let Some(fields) = linux.as_object_mut() {
        fields.insert("maskedPaths".to_owned(), json!(masked_paths(host, machine)));
        fields.insert("readonlyPaths".to_owned(), json!(readonly_paths(host)));
        if let Some(filter) = filter(&security, host, machine, &capabilities)? {
            let filter = serde_json::to_value(filter).context(|| "encode a seccomp profile".to_owned())?;
            fields.insert("seccomp".to_owned(), filter);
        }
    }
    let writable_cgroups = security.writable_cgroups.unwrap_or(host.privileged);
    let mounts = all_mounts(request, &modes, machine, &group, writable_cgroups)?;
    if let (Some(propagation), Some(fields)) = (root_propagation(request.mounts)?, linux.as_object_mut()) {
        fields.insert("rootfsPropagation".to_owned(), json!(propagation));
    }
    if let (Some(remap), Some(fields)) = (machine.remap(host), linux.as_object_mut()) {
        let range = |range: Range| json!([{ "containerID": 0, "hostID": range.first, "size": range.count }]);
        fields.insert("uidMappings".to_owned(), range(remap.uids));
        fields.insert("gidMappings".to_owned(), range(remap.gids));
    }
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "process": {
            "terminal": config.tty,
            "user": user_json(request.user),
            "args": arguments(request, &modes)?,
            "env": environment(config, config.tty, &[]),
            "cwd": mounts::clean(Path::new("/").join(&config.working_dir).as_path()),
            "capabilities": sets(&capabilities),
            "rlimits": resources::ulimits(&host.resources)?,
            "noNewPrivileges": security.no_new_privileges,
            "oomScoreAdj": host.oom_score_adj,
        },
        "root": { "path": request.rootfs, "readonly": host.readonly_rootfs },
        "mounts": mounts,
        "annotations": host.annotations.clone().unwrap_or_default(),
        "linux": linux,
    });
    if let Some(fields) = spec.as_object_mut().filter(|_| !modes.uts_is_host) {
        fields.insert("hostname".to_owned(), json!(config.hostname));
        if !config.domainname.is_empty() {
            fields.insert("domainname".to_owned(), json!(config.domainname));
        }
    }
    let [rows, columns] = host.console_size;
    if config.tty
        && (rows, columns) != (0, 0)
        && let Some(process) = spec.get_mut("process").and_then(Value::as_object_mut)
    {
        process.insert("consoleSize".to_owned(), json!({ "height": rows, "width": columns }));
    }
    serde_json::from_value(spec).context(|| format!("build the specification of container {}", request.id))
}

/// Relative parents are below the root as well, and none is above it.
fn cgroup_path(id: &str, parent: &str) -> PathBuf {
    let parent = if parent.is_empty() { CGROUP_PARENT } else { parent };
    mounts::clean(&Path::new("/").join(parent.trim_start_matches('/')).join(id))
}

fn user_json(user: &User) -> Value {
    json!({ "uid": user.uid, "gid": user.gid, "additionalGids": user.groups })
}

/// Bounding, effective and permitted; nothing is inherited.
fn sets(capabilities: &[&str]) -> Value {
    json!({ "bounding": capabilities, "effective": capabilities, "permitted": capabilities })
}

fn arguments(request: &Request<'_>, modes: &Modes) -> Result<Vec<String>> {
    let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut arguments = words(&request.config.entrypoint);
    arguments.extend(words(&request.config.cmd));
    if arguments.is_empty() {
        return Err(Error::invalid("no command specified"));
    }
    if has_init(request.host, modes) {
        arguments.splice(0..0, [init::PATH.to_owned(), "--".to_owned()]);
    }
    Ok(arguments)
}

/// An init makes sense only as the first process of a pid namespace.
fn has_init(host: &HostConfig, modes: &Modes) -> bool {
    host.init == Some(true) && modes.pid == Mode::Private
}

/// Docker's own variables, then the container's, then `more`; the last of a name counts, in the place of
/// the first.
fn environment(config: &ContainerConfig, terminal: bool, more: &[String]) -> Vec<String> {
    let mut all = vec![format!("PATH={DEFAULT_PATH}")];
    let domain = Some(&config.domainname).filter(|domain| !domain.is_empty());
    all.push(match domain {
        Some(domain) => format!("HOSTNAME={}.{domain}", config.hostname),
        None => format!("HOSTNAME={}", config.hostname),
    });
    if terminal {
        all.push("TERM=xterm".to_owned());
    }
    for variable in config.env.iter().flatten().chain(more) {
        let name = variable.split('=').next().unwrap_or_default();
        let found = all.iter().position(|other| other.split('=').next() == Some(name));
        match (found, variable.contains('=')) {
            (Some(at), true) => all[at].clone_from(variable),
            (None, true) => all.push(variable.clone()),
            // A name alone takes the variable away.
            (Some(at), false) => drop(all.remove(at)),
            (None, false) => {}
        }
    }
    all
}

fn namespaces(modes: &Modes, join: &Join, host: &HostConfig, machine: &Machine) -> Result<Vec<Value>> {
    let mut all = vec![json!({ "type": "mount" })];
    let mut add = |kind: &str, path: Option<&PathBuf>| {
        all.push(match path {
            Some(path) => json!({ "type": kind, "path": path }),
            None => json!({ "type": kind }),
        });
    };
    let joined = |path: &Option<PathBuf>, option: &str| {
        path.clone().ok_or_else(|| Error::system(format!("no namespace to join for {option}")))
    };
    if machine.remap(host).is_some() {
        add("user", None);
    }
    match modes.network {
        Mode::Host => {}
        Mode::Private => add("network", join.network.as_ref()),
        Mode::Container => add("network", Some(&joined(&join.network, "--network container:")?)),
    }
    if !modes.uts_is_host {
        add("uts", None);
    }
    match modes.pid {
        Mode::Host => {}
        Mode::Private => add("pid", None),
        Mode::Container => add("pid", Some(&joined(&join.pid, "--pid container:")?)),
    }
    match modes.ipc {
        Ipc::Host => {}
        Ipc::Container => add("ipc", Some(&joined(&join.ipc, "--ipc container:")?)),
        Ipc::Private | Ipc::Shareable | Ipc::None => add("ipc", None),
    }
    if cgroup_is_private(modes, host, machine) {
        add("cgroup", None);
    }
    Ok(all)
}

fn cgroup_is_private(modes: &Modes, _host: &HostConfig, machine: &Machine) -> bool {
    match modes.cgroup {
        Some(ref mode) => *mode == Mode::Private,
        None => machine.cgroups.version() == CgroupVersion::V2,
    }
}

/// What makes ports below 1024 and `ping` need no capabilities, where the network is the container's
/// own, and then what the user asks for.
fn sysctls(modes: &Modes, host: &HostConfig, machine: &Machine) -> Map<String, Value> {
    let mut all = Map::new();
    if modes.network == Mode::Private {
        // A range of groups that there are not in a namespace of users is refused.
        let fits = |name: &str| machine.remap(host).is_none() || name != "net.ipv4.ping_group_range";
        let own = machine.sysctls.iter().filter(|(name, _)| fits(name));
        all.extend(own.map(|(name, value)| ((*name).to_owned(), json!(value))));
    }
    all.extend(host.sysctls.iter().flatten().map(|(name, value)| (name.clone(), json!(value))));
    all
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn masked_paths(host: &HostConfig, machine: &Machine) -> Vec<String> {
    match &host.masked_paths {
        Some(paths) => paths.clone(),
        None if host.privileged => Vec::new(),
        None => owned(MASKED_PATHS).into_iter().chain(machine.masked.clone()).collect(),
    }
}

fn readonly_paths(host: &HostConfig) -> Vec<String> {
    match &host.readonly_paths {
        Some(paths) => paths.clone(),
        None if host.privileged => Vec::new(),
        None => owned(READONLY_PATHS),
    }
}

fn filter(
    security: &Security,
    host: &HostConfig,
    machine: &Machine,
    capabilities: &[&str],
) -> Result<Option<LinuxSeccomp>> {
    match &security.filter {
        Some(Filter::Unconfined) => Ok(None),
        Some(Filter::Profile(_)) if !machine.seccomp => {
            Err(Error::system("seccomp is not enabled in your kernel, cannot run a custom seccomp profile"))
        }
        Some(Filter::Profile(text)) => seccomp::load_profile(text, capabilities),
        None if host.privileged => Ok(None),
        Some(Filter::Default) | None if !machine.seccomp => Ok(None),
        Some(Filter::Default) | None => seccomp::default_profile(capabilities).map(Some),
    }
}

/// A mount as OCI JSON.
fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn bind(source: &Path, destination: &Path, options: &[String]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn all_mounts(
    request: &Request<'_>,
    modes: &Modes,
    machine: &Machine,
    group: &Path,
    writable_cgroups: bool,
) -> Result<Vec<Value>> {
    let host = request.host;
    let taken: BTreeSet<&Path> = request.mounts.iter().map(|mount| mount.destination.as_path()).collect();
    let mut all = vec![mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])];
    all.push(mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]));
    all.push(mount(
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ));
    let read_only: &[&str] = if host.privileged { &[] } else { &["ro"] };
    all.push(mount("/sys", "sysfs", "sysfs", &[&["nosuid", "noexec", "nodev"], read_only].concat()));
    all.extend(cgroup_mounts(machine, group, writable_cgroups));
    all.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    all.extend(shm(request, modes)?);

    let dev_is_taken = taken.contains(Path::new("/dev"));
    all.retain(|mount| {
        let destination = Path::new(mount["destination"].as_str().unwrap_or_default());
        let below_dev = destination.starts_with("/dev") && destination != Path::new("/dev");
        !(taken.contains(destination) || dev_is_taken && below_dev)
    });
    if host.readonly_rootfs {
        let writable = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"];
        for mount in &mut all {
            let stays = writable.iter().any(|path| mount["destination"] == *path);
            if let Some(options) = mount["options"].as_array_mut().filter(|_| !stays)
                && !options.contains(&json!("ro"))
            {
                options.push(json!("ro"));
            }
        }
    }
    all.extend(users_mounts(request, &taken)?);
    if has_init(host, modes) {
        all.push(bind(request.program, Path::new(init::PATH), &["bind", "ro"].map(str::to_owned)));
    }
    Ok(all)
}

/// What the user mounts, and the files that the engine keeps, those higher up first.
fn users_mounts(request: &Request<'_>, taken: &BTreeSet<&Path>) -> Result<Vec<Value>> {
    let mut all: Vec<(PathBuf, Value)> = Vec::new();
    for requested in request.mounts {
        let destination = requested.destination.clone();
        let json = match &requested.source {
            MountSource::Bind { path, .. } => bind(path, &destination, &requested.options()?),
            MountSource::Tmpfs { .. } => json!({
                "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": requested.options()?,
            }),
            MountSource::Volume { name, .. } => {
                let name = name.as_deref().unwrap_or("an anonymous one");
                return Err(Error::not_implemented(format!("volumes are not implemented ({name})")));
            }
            MountSource::Image { name, .. } => {
                return Err(Error::not_implemented(format!("image mounts are not implemented ({name})")));
            }
        };
        all.push((destination, json));
    }
    let files = request.files;
    for (source, destination) in [
        (files.resolv_conf, "/etc/resolv.conf"),
        (files.hostname, "/etc/hostname"),
        (files.hosts, "/etc/hosts"),
    ] {
        let destination = Path::new(destination);
        if let Some(source) = source.filter(|_| !taken.contains(destination)) {
            let read_only: &[&str] = if request.host.readonly_rootfs { &["ro"] } else { &[] };
            let options: Vec<String> =
                [&["rbind", "rprivate"], read_only].concat().into_iter().map(str::to_owned).collect();
            all.push((destination.to_owned(), bind(source, destination, &options)));
        }
    }
    all.sort_by_key(|(destination, _)| destination.components().count());
    Ok(all.into_iter().map(|(_, json)| json).collect())
}

/// On version 2 the hierarchy as the container's namespace shows it. On version 1 the container's own
/// groups are bound: a namespaced mount there could be written whatever its options say.
fn cgroup_mounts(machine: &Machine, group: &Path, writable: bool) -> Vec<Value> {
    const ROOT: &str = "/sys/fs/cgroup";
    let protected: &[&str] = if writable { &[] } else { &["ro"] };
    let options = |first: &[&'static str]| [first, &["nosuid", "noexec", "nodev"], protected].concat();
    if machine.cgroups.version() == CgroupVersion::V2 {
        return vec![mount(ROOT, "cgroup", "cgroup", &options(&[]))];
    }
    let mut all = vec![mount(ROOT, "tmpfs", "tmpfs", &options(&["mode=755"]))];
    for hierarchy in machine.cgroups.v1_hierarchies() {
        let Some(name) = hierarchy.file_name().and_then(|name| name.to_str()) else { continue };
        if !name.split(',').any(|controller| V1_CONTROLLERS.contains(&controller)) {
            continue;
        }
        let source = hierarchy.join(group.strip_prefix("/").unwrap_or(group));
        let options: Vec<String> = options(&["rbind"]).into_iter().map(str::to_owned).collect();
        all.push(bind(&source, &Path::new(ROOT).join(name), &options));
    }
    all
}

fn shm(request: &Request<'_>, modes: &Modes) -> Result<Option<Value>> {
    let path = Path::new("/dev/shm");
    let shared = |source: &Path| {
        bind(source, path, &["rbind", "rprivate", "nosuid", "noexec", "nodev"].map(str::to_owned))
    };
    let size = match request.host.shm_size {
        0 => DEFAULT_SHM_SIZE,
        size => size,
    };
    Ok(match (&modes.ipc, &request.join.shm) {
        (Ipc::None, _) => None,
        (Ipc::Host, _) => Some(shared(path)),
        (Ipc::Container | Ipc::Shareable, Some(source)) => Some(shared(source)),
        (Ipc::Container, None) => {
            return Err(Error::not_implemented(
                "--ipc container: needs the other container's /dev/shm, which is not shared",
            ));
        }
        (Ipc::Private | Ipc::Shareable, _) => Some(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &format!("size={size}")],
        )),
    })
}

/// The root's propagation must not hold back that of what is mounted on it.
fn root_propagation(mounts: &[RequestedMount]) -> Result<Option<&'static str>> {
    let mut root = None;
    for mount in mounts {
        let MountSource::Bind { path, .. } = &mount.source else { continue };
        match mount.propagation.as_deref().unwrap_or_default() {
            "shared" | "rshared" => {
                mounted_as(path, &["shared:"], "a shared mount")?;
                root = Some("shared");
            }
            "slave" | "rslave" => {
                mounted_as_shared_or_slave(path)?;
                root = root.or(Some("rslave"));
            }
            _ => {}
        }
    }
    Ok(root)
}

/// # Errors
/// What is at `path` is in a mount that mounts do not spread from; in Docker's words.
pub(crate) fn mounted_as_shared_or_slave(path: &Path) -> Result<()> {
    mounted_as(path, &["shared:", "master:"], "a shared or slave mount")
}

/// Propagation that the source's own mount does not have cannot be had.
fn mounted_as(path: &Path, tags: &[&str], wanted: &str) -> Result<()> {
    let what = || format!("look at the mount of {}", path.display());
    let resolved = fs::canonicalize(path).context(what)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").context(what)?;
    let found = mounts
        .lines()
        .filter_map(|line| {
            let (fields, _) = line.split_once(" - ")?;
            let mut fields = fields.split(' ').skip(4);
            let point = PathBuf::from(fields.next()?);
            resolved.starts_with(&point).then(|| (point, fields.skip(1).collect::<Vec<_>>()))
        })
        .max_by_key(|(point, _)| point.components().count());
    let Some((point, options)) = found else {
        return Err(Error::system(format!("Can't find mount point of {}", path.display())));
    };
    if options.iter().any(|option| tags.iter().any(|tag| option.starts_with(tag))) {
        return Ok(());
    }
    Err(Error::system(format!(
        "path {} is mounted on {} but it is not {wanted}",
        path.display(),
        point.display()
    )))
}

#[cfg(test)]
mod tests;
