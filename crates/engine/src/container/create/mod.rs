//! `create`: from a request and an image to a container that can be started.

mod merge;
mod mounts;
mod shares;
mod validate;

use std::{collections::BTreeMap, sync::Arc};

use time::OffsetDateTime;
use wire::docker::{
    container::{ContainerConfig, CreateRequest, CreateResponse, MountPoint},
    host_config::HostConfig,
    network::EndpointSettings,
};

pub(super) use merge::fill_in;
pub(super) use mounts::to_mount;

use super::{
    Container, Containers, logs, names,
    record::{MountedImage, Record},
    state::State,
};
use crate::{
    error::{Context, Error, Kind, Result, refuse},
    image::{Image, Platform},
    network::{Mode, Networks},
    runtime,
    snapshot::LayerId,
};
use mounts::Wanted;

impl Containers {
    /// Makes a container. `name` may be empty; `platform` is that of the image, if the request says.
    ///
    /// # Errors
    /// Requests that make no sense, and names that are taken, in Docker's words; no such image.
    pub(crate) async fn create(
        &self,
        name: &str,
        platform: Option<&str>,
        request: CreateRequest,
    ) -> Result<CreateResponse> {
        let CreateRequest { mut config, mut host_config, networking_config } = request;
        if config == ContainerConfig::default() {
            return Err(Error::invalid("config cannot be empty in order to create a container"));
        }
        // "default" is how clients of any system ask for this one's.
        let (mut endpoints, mut faults) = (BTreeMap::new(), Vec::new());
        for (network, settings) in networking_config.endpoints_config {
            match settings {
                Some(settings) => drop(endpoints.insert(network, settings)),
                None => faults.push(format!("invalid config for network {network}: EndpointsConfig is nil")),
            }
        }
        if matches!(host_config.network_mode.as_str(), "" | "default") {
            host_config.network_mode = "bridge".to_owned();
            if let Some(endpoint) = endpoints.remove("default") {
                endpoints.insert("bridge".to_owned(), endpoint);
            }
        }
        if host_config.restart_policy.name.is_empty() {
            host_config.restart_policy.name = "no".to_owned();
        }
        if let Some(shares) = &self.0.shares {
            shares::check(shares, &host_config)?;
        }
        let mut warnings = validate::validate(&mut config, &host_config, &self.0.machine)?;
        if config.image.is_empty() {
            // Nothing says what to run; what would come next is refused as well.
            merge::merge(&mut config, &ContainerConfig::default())?;
            return Err(Error::not_implemented("containers without an image are not implemented yet"));
        }
        let image = self.image_for(&config.image, platform, &mut warnings)?;
        refuse("", &faults)?;
        self.adapt(&mut host_config)?;
        merge::merge(&mut config, &image.config)?;
        merge::merge_environment(&mut config.env, &self.0.environment);
        logs::validate(&mut host_config.log_config)?;
        let of_others = self.mounts_of_others(host_config.volumes_from.as_deref().unwrap_or_default())?;
        let declared = config.volumes.iter().flatten().map(|(path, _)| path);
        let wanted = mounts::wanted(&host_config, of_others, declared, &self.0.data_root, |name| {
            let image = self.0.images.get(name)?;
            Ok(MountedImage { id: image.id.clone(), layers: image.layers.clone() })
        })?;

        let mode = Mode::of(&host_config.network_mode);
        let mut endpoints = {
            let (containers, mode, mac) = (self.clone(), mode.clone(), config.mac_address.clone());
            // Networks may be busy changing.
            crate::blocking(move || containers.take_endpoints(&mode, endpoints, &mac)).await?
        };
        let links = host_config.links.take().unwrap_or_default();
        let links = self.take_links(&links, &mode, &mut endpoints)?;

        let id = names::random_id();
        let name = self.take_name(name, &id)?;
        if config.hostname.is_empty() {
            config.hostname = if host_config.network_mode == "host" || host_config.uts_mode == "host" {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            } else {
                id[..12].to_owned()
            };
        }
        let (path, args) = merge::command(&config);
        let record = Record {
            id: id.clone(),
            name: name.clone(),
            created: OffsetDateTime::now_utc(),
            image_id: image.id.clone(),
            os: image.os.clone(),
            path,
            args,
            config,
            host_config,
            mounts: Vec::new(),
            endpoints,
            links,
        };
        let containers = self.clone();
        let made = crate::blocking(move || containers.make(record, &image, wanted)).await;
        let container = match made {
            Ok(container) => container,
            Err(error) => {
                self.release_name(&name);
                return Err(error);
            }
        };
        self.index_mut().by_id.insert(id.clone(), container.clone());
        self.emit(&container, "create", &[]);
        Ok(CreateResponse { id, warnings })
    }

    /// The image, when it is for the platform asked for.
    fn image_for(
        &self,
        name: &str,
        platform: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> Result<Arc<Image>> {
        let image = self.0.images.get(name)?;
        let own = image.platform();
        match platform {
            Some(platform) => {
                let asked = Platform::parse(platform)?;
                if !asked.accepts(&own) {
                    return Err(Error::not_found(format!(
                        "image with reference {name} was found but its platform ({own}) does not match \
                         the specified platform ({asked})"
                    )));
                }
            }
            None => {
                let host = Platform::host();
                if !host.accepts(&own) {
                    warnings.push(format!(
                        "The requested image's platform ({own}) does not match the detected host platform \
                         ({host}) and no specific platform was requested"
                    ));
                }
            }
        }
        Ok(image)
    }

    /// What a container wants of its networks, by their names. One that does not exist may be made before the
    /// start, which tells if it is not.
    fn take_endpoints(
        &self,
        mode: &Mode,
        wanted: BTreeMap<String, EndpointSettings>,
        mac_address: &str,
    ) -> Result<BTreeMap<String, EndpointSettings>> {
        let networks = &self.0.networks;
        let named = |name: &str| networks.name_and_id(name).map_or_else(|| name.to_owned(), |(name, _)| name);
        let mut endpoints: BTreeMap<_, _> =
            wanted.into_iter().map(|(name, settings)| (named(&name), settings)).collect();
        let default = match mode {
            Mode::Container(_) => return Ok(BTreeMap::new()),
            Mode::None => "none".to_owned(),
            Mode::Host => "host".to_owned(),
            Mode::Network(name) => named(name),
        };
        if endpoints.is_empty() {
            endpoints.insert(default.clone(), EndpointSettings::default());
        }
        if let Some(endpoint) = endpoints.get_mut(&default).filter(|endpoint| endpoint.mac_address.is_empty())
        {
            mac_address.clone_into(&mut endpoint.mac_address);
        }
        for (name, settings) in &endpoints {
            let invalid = |error: Error| {
                Error::new(error.kind(), format!("invalid config for network {name}")).because(error)
            };
            Networks::check_mac(&settings.mac_address).map_err(invalid)?;
            let has_addresses = matches!(mode, Mode::Network(_)) && networks.name_and_id(name).is_some();
            if has_addresses {
                networks.check_endpoint(name, settings).map_err(invalid)?;
            }
        }
        Ok(endpoints)
    }

    /// Fills in what a host configuration leaves open.
    fn adapt(&self, host_config: &mut HostConfig) -> Result<()> {
        if host_config.resources.memory > 0 && host_config.resources.memory_swap == 0 {
            host_config.resources.memory_swap = host_config.resources.memory.saturating_mul(2);
        }
        if host_config.shm_size == 0 {
            host_config.shm_size = runtime::spec::DEFAULT_SHM_SIZE;
        }
        if host_config.ipc_mode.is_empty() {
            host_config.ipc_mode = "private".to_owned();
        }
        if host_config.cgroupns_mode.is_empty() {
            let unified = self.0.runtime.cgroups().version() == runtime::CgroupVersion::V2;
            host_config.cgroupns_mode = if unified { "private" } else { "host" }.to_owned();
        }
        if host_config.runtime.is_empty() {
            host_config.runtime = "runc".to_owned();
        }
        host_config.resources.oom_kill_disable.get_or_insert(false);
        for mode in [&mut host_config.network_mode, &mut host_config.ipc_mode, &mut host_config.pid_mode] {
            if let Some(other) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.get(other)?.id);
            }
        }
        let unlabelled =
            host_config.privileged || host_config.ipc_mode == "host" || host_config.pid_mode == "host";
        let options = host_config.security_opt.get_or_insert_default();
        if unlabelled && !options.iter().any(|option| option.starts_with("label=")) {
            options.push("label=disable".to_owned());
        }
        if options.is_empty() {
            host_config.security_opt = None;
        }
        if !host_config.privileged {
            let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
            host_config.masked_paths.get_or_insert_with(|| {
                let mut masked = paths(runtime::spec::MASKED_PATHS);
                masked.extend(self.0.machine.masked.iter().cloned());
                masked
            });
            host_config.readonly_paths.get_or_insert_with(|| paths(runtime::spec::READONLY_PATHS));
        }
        Ok(())
    }

    /// Takes the name asked for, or a made-up one.
    fn take_name(&self, name: &str, id: &str) -> Result<String> {
        if !name.is_empty() {
            let name = names::check(name)?;
            self.reserve_name(name, id)?;
            return Ok(name.to_owned());
        }
        for attempt in 0..names::ATTEMPTS {
            let name = names::random(attempt);
            if self.reserve_name(&name, id).is_ok() {
                return Ok(name);
            }
        }
        let name = id[..12].to_owned();
        self.reserve_name(&name, id)?;
        Ok(name)
    }

    /// Makes the container's directory, file system and volumes, and its record last: without one, the
    /// next engine removes the rest, but for volumes without names, which a prune removes.
    fn make(&self, mut record: Record, image: &Image, wanted: Vec<Wanted>) -> Result<Arc<Container>> {
        let directory = self.0.root.join(&record.id);
        let what = || format!("create {}", directory.display());
        std::fs::create_dir(&directory).context(what)?;
        let mut own = Vec::new();
        let made = self.fill(&mut record, image, wanted, &mut own).and_then(|()| {
            record.save(&directory)?;
            // The directory's own name.
            crate::store::sync_directory(&self.0.root).context(what)?;
            Container::new(record.clone(), State::default(), &directory)
        });
        if made.is_err() {
            self.0.volumes.release(&record.id);
            self.remove_volumes(&own);
            if let Err(error) = self.finish_removal(&record.id, &directory) {
                tracing::error!(container = record.id, "undo its creation: {error}");
            }
        }
        made
    }

    /// `own` gets the names of the volumes that are made for this container alone.
    fn fill(
        &self,
        record: &mut Record,
        image: &Image,
        wanted: Vec<Wanted>,
        own: &mut Vec<String>,
    ) -> Result<()> {
        let snapshots = &self.0.snapshots;
        let mounted: Vec<LayerId> = wanted.iter().flat_map(Wanted::image_layers).copied().collect();
        snapshots.create(&record.id, &image.layers, &mounted)?;
        let volumes = &self.0.volumes;
        let mut root: Option<std::path::PathBuf> = None;
        for wanted in wanted {
            let (mut mount, new, fill, declared) = match wanted {
                Wanted::Ready(mut mount) => {
                    if let Some(image) = &mount.image {
                        mount.point.source =
                            snapshots.image_place(&image.layers).to_string_lossy().into_owned();
                    }
                    if mount.is_volume() {
                        volumes.keep(&mount.point.name, &record.id)?;
                    }
                    record.mounts.push(mount);
                    continue;
                }
                Wanted::Volume { mount, volume, fill, declared } => (mount, volume, fill, declared),
            };
            mount.point.name = volumes.acquire(new, &record.id)?;
            mount.point.source = volumes.path(&mount.point.name).to_string_lossy().into_owned();
            if mount.anonymous {
                own.push(mount.point.name.clone());
            }
            record.mounts.push(mount.clone());
            if fill {
                let root = match &root {
                    Some(root) => root,
                    None => root.insert(snapshots.mount(&record.id, None)?),
                };
                let MountPoint { name, destination, .. } = &mount.point;
                volumes.fill(name, &mount.subpath, &record.id, root, destination).map_err(
                    |error| match error.kind() {
                        Kind::Conflict if declared => Error::system(format!(
                            "cannot mount volume over existing file, file exists {}",
                            root.join(destination.trim_start_matches('/')).display()
                        )),
                        Kind::Conflict => Error::system(error.to_string()),
                        _ => error,
                    },
                )?;
            }
        }
        if root.is_some() {
            snapshots.unmount(&record.id)?;
        }
        Ok(())
    }
}
