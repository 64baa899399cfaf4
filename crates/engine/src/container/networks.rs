//! What a container has of its networks and wants of them; `network connect` and `network disconnect`.

use std::{collections::BTreeMap, sync::Arc};

use wire::docker::{
    container::{NetworkSettings, Port},
    host_config::PortBinding,
    network::EndpointSettings,
};

use super::{Container, Containers, etc_files::EtcFiles, record::Record, state::State};
use crate::{
    error::{Error, Kind, Result},
    network::{self, BRIDGE, Live, Mode, Started, Wanted},
};

/// What a container shows of its networks.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    /// By the network's name.
    pub(super) endpoints: BTreeMap<String, EndpointSettings>,
    /// What it has while it runs.
    pub(super) live: Option<Live>,
}

impl Shown {
    /// The ports that a list shows: those of the container, and where they are published.
    pub(super) fn ports(&self, record: &Record) -> Vec<Port> {
        let Some(live) = &self.live else { return Vec::new() };
        let mut ports = Vec::new();
        for (name, bindings) in all_ports(record, live) {
            let Ok((private_port, protocol)) = network::split_port(&name) else { continue };
            let port = Port { private_port, protocol, ..Port::default() };
            match bindings {
                None => ports.push(port),
                Some(bindings) => ports.extend(bindings.into_iter().map(|binding| Port {
                    ip: Some(binding.host_ip),
                    public_port: binding.host_port.parse().ok(),
                    ..port.clone()
                })),
            }
        }
        ports
    }
}

/// A container's ports with what each is bound to; `None` of those that are not published.
fn all_ports(record: &Record, live: &Live) -> BTreeMap<String, Option<Vec<PortBinding>>> {
    if !live.has_ports {
        return BTreeMap::new();
    }
    let exposed = record.config.exposed_ports.keys().chain(record.host_config.port_bindings.keys());
    let mut all: BTreeMap<_, _> = exposed
        .filter_map(|port| network::split_port(port).ok())
        .map(|(port, protocol)| (format!("{port}/{protocol}"), None))
        .collect();
    all.extend(live.ports.iter().map(|(port, bindings)| (port.clone(), Some(bindings.clone()))));
    all
}

impl Containers {
    /// What is shown of a container's networks.
    pub(super) fn shown(&self, record: &Record, state: &State) -> Shown {
        let mode = &record.host_config.network_mode;
        let live = self.0.networks.live(&record.id).filter(|_| state.pid().is_some());
        let by_default = [(mode.clone(), EndpointSettings::default())].into();
        // Containers of an engine before there were networks have only their mode.
        let nothing_said = record.endpoints.is_empty() && !state.was_started();
        let of_its_own = !matches!(Mode::of(mode), Mode::Container(_));
        let wanted = if nothing_said && of_its_own { &by_default } else { &record.endpoints };
        let endpoint = |(name, settings): (&String, &EndpointSettings)| {
            let id = self.0.networks.name_and_id(name).map(|(_, id)| id).unwrap_or_default();
            let mut shown = EndpointSettings { dns_names: None, ..settings.clone() };
            if state.was_started() {
                shown.network_id.clone_from(&id);
            }
            if let Some(live) = live.as_ref().and_then(|live| live.endpoints.get(&id)) {
                shown = EndpointSettings {
                    ipam_config: settings.ipam_config.clone(),
                    links: settings.links.clone(),
                    aliases: settings.aliases.clone(),
                    driver_opts: settings.driver_opts.clone(),
                    gw_priority: settings.gw_priority,
                    ..live.clone()
                };
            }
            (name.clone(), shown)
        };
        Shown { endpoints: wanted.iter().map(endpoint).collect(), live }
    }

    /// What `inspect` shows of a container's networks.
    pub(super) fn network_settings(&self, record: &Record, state: &State) -> NetworkSettings {
        let Shown { endpoints, live } = self.shown(record, state);
        let live = live.unwrap_or_default();
        // Docker repeats the default bridge's endpoint outside of the list.
        let bridge = endpoints.get(BRIDGE).cloned().unwrap_or_default();
        NetworkSettings {
            ports: all_ports(record, &live),
            sandbox_id: live.sandbox_id,
            sandbox_key: live.sandbox_key,
            endpoint_id: bridge.endpoint_id,
            gateway: bridge.gateway,
            global_ipv6_address: bridge.global_ipv6_address,
            global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
            ip_address: bridge.ip_address,
            ip_prefix_len: bridge.ip_prefix_len,
            ipv6_gateway: bridge.ipv6_gateway,
            mac_address: bridge.mac_address,
            networks: endpoints,
            ..NetworkSettings::default()
        }
    }

    /// What a start asks of the networks.
    pub(super) fn wanted_networks(&self, record: &Record, default: &str) -> Wanted {
        let mut endpoints = record.endpoints.clone();
        if endpoints.is_empty() {
            endpoints.insert(default.to_owned(), EndpointSettings::default());
        }
        Wanted {
            container: record.id.clone(),
            name: record.name.clone(),
            hostname: record.config.hostname.clone(),
            endpoints,
            port_bindings: record.host_config.port_bindings.clone(),
            exposed_ports: record.config.exposed_ports.clone(),
            publish_all: record.host_config.publish_all_ports,
            dns: record.host_config.dns.clone(),
            remap: self.userns_of(record).map(|userns| userns.remap),
        }
    }

    /// Puts a container into a network, now or at its next start.
    ///
    /// # Errors
    /// Those that cannot be in it, and what [`network::Networks::start`] tells.
    pub(crate) async fn connect(
        &self,
        name: &str,
        network: &str,
        settings: Option<EndpointSettings>,
    ) -> Result<()> {
        let container = self.get(name)?;
        let _changing = container.changing.lock().await;
        let (containers, target, network) = (self.clone(), container.clone(), network.to_owned());
        crate::blocking(move || containers.connect_locked(&target, &network, settings.unwrap_or_default()))
            .await
    }

    fn connect_locked(
        &self,
        container: &Arc<Container>,
        network: &str,
        mut settings: EndpointSettings,
    ) -> Result<()> {
        let networks = &self.0.networks;
        let record = container.record();
        let (network, _) = networks
            .name_and_id(network)
            .ok_or_else(|| Error::not_found(format!("network {network} not found")))?;
        match Mode::of(&record.host_config.network_mode) {
            Mode::None => return Err(private()),
            Mode::Host if network == "host" => {
                return Err(Error::new(
                    Kind::Forbidden,
                    format!("endpoint with name {} already exists in network host", record.name),
                ));
            }
            Mode::Host | Mode::Container(_) => {
                return Err(Error::invalid(
                    "container sharing network namespace with another container or host cannot be connected to \
                     any other network",
                ));
            }
            Mode::Network(_) => {}
        }
        networks.check_endpoint(&network, &settings)?;
        let state = container.state();
        if state.is_leaving() {
            return Err(Error::conflict(format!(
                "container {} is marked for removal and cannot be connected or disconnected to the network",
                record.id
            )));
        }
        // What Docker's answers show of a network joined by itself.
        settings.ipam_config.get_or_insert_default();
        settings.aliases.get_or_insert_default();
        settings.driver_opts.get_or_insert_default();
        if state.pid().is_some() {
            let files = EtcFiles::in_directory(&container.directory);
            let joined = networks.connect(&record.id, &network, &settings, &record.config.hostname)?;
            files.join(&record, &joined)?;
        }
        let mut changed = (*record).clone();
        changed.endpoints.insert(network, settings);
        container.set_record(changed)
    }

    /// Takes a container out of a network. A container that is gone has left nothing there, so that nothing is
    /// to be forced.
    ///
    /// # Errors
    /// It is not in it; networks that a container keeps.
    pub(crate) async fn disconnect(&self, name: &str, network: &str) -> Result<()> {
        let (networks, wanted) = (self.0.networks.clone(), network.to_owned());
        let known = crate::blocking(move || Ok(networks.name_and_id(&wanted))).await?;
        let (network, _) = known.ok_or_else(|| Error::not_found(format!("network {network} not found")))?;
        let container = self.get(name)?;
        let _changing = container.changing.lock().await;
        let (containers, target) = (self.clone(), container.clone());
        crate::blocking(move || containers.disconnect_locked(&target, &network)).await
    }

    fn disconnect_locked(&self, container: &Arc<Container>, network: &str) -> Result<()> {
        let record = container.record();
        if network == "host" && record.host_config.network_mode == "host" {
            return Err(Error::invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        if !record.endpoints.contains_key(network) {
            return Err(Error::system(format!(
                "container {} is not connected to network {network}",
                record.id
            )));
        }
        let running = container.state().pid().is_some();
        if running && !matches!(Mode::of(&record.host_config.network_mode), Mode::None) {
            let files = EtcFiles::in_directory(&container.directory);
            let gone = self.0.networks.disconnect(&record.id, network)?;
            files.leave(&record, &gone)?;
        }
        let mut changed = (*record).clone();
        changed.endpoints.remove(network);
        container.set_record(changed)
    }

    /// Makes the network of a container that starts, and returns what its processes join, if anything.
    pub(super) fn start_network(&self, record: &Record, mode: &Mode) -> Result<Option<Started>> {
        let networks = &self.0.networks;
        let Mode::Network(default) = mode else {
            networks.start_without(&record.id, &record.name, mode);
            return Ok(None);
        };
        let unusable =
            |error: Error| Error::new(error.kind(), "failed to set up container networking").because(error);
        let Some((default, _)) = networks.name_and_id(default) else {
            let what = if record.endpoints.contains_key(default) {
                format!("network {default} not found")
            } else {
                format!(
                    "could not find a network matching network mode {default}: network {default} not found"
                )
            };
            return Err(unusable(Error::not_found(what)));
        };
        networks.start(&self.wanted_networks(record, &default)).map(Some).map_err(unusable)
    }
}

fn private() -> Error {
    Error::invalid(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode",
    )
}
