//! `--link` on the default bridge: a container knows others by names of its own, and finds in its environment
//! what they are.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use wire::docker::network::EndpointSettings;

use super::{Container, Containers, Index, record::Record};
use crate::{
    error::{Error, Result},
    network::{self, BRIDGE, Mode},
};

/// Another container, as one that links to it sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Linked {
    /// For its `/etc/hosts`.
    pub(super) hosts: Vec<(IpAddr, Vec<String>)>,
    pub(super) environment: Vec<String>,
}

/// The container that `parent/alias` means.
pub(super) fn linked(index: &Index, name: &str) -> Option<Arc<Container>> {
    let (parent, alias) = name.split_once('/')?;
    let parent = index.by_id.get(index.names.get(parent)?)?;
    index.by_id.get(parent.record().links.get(alias)?).cloned()
}

/// `container:alias`, or a name that is both.
pub(super) fn split(link: &str) -> Result<(&str, &str)> {
    let (container, alias) = link.split_once(':').unwrap_or((link, link));
    // As inspect shows it: `/web:/own/alias`.
    let alias = alias.rsplit('/').next().unwrap_or_default();
    let container = container.trim_start_matches('/');
    if container.is_empty() || alias.is_empty() {
        return Err(Error::invalid(format!("bad format for links: {link}")));
    }
    Ok((container, alias))
}

impl Containers {
    /// Sorts out what a request links to: on the default bridge, containers that exist; in a network with
    /// names, names for the resolver.
    pub(super) fn take_links(
        &self,
        links: &[String],
        mode: &Mode,
        endpoints: &mut BTreeMap<String, EndpointSettings>,
    ) -> Result<BTreeMap<String, String>> {
        let mut own = BTreeMap::new();
        let Mode::Network(network) = mode else { return Ok(own) };
        for link in links {
            let (name, alias) = split(link)?;
            if network == BRIDGE {
                let container = self.get(name).map_err(|error| {
                    Error::invalid(format!("could not get container for {name}")).because(error)
                })?;
                own.insert(alias.to_owned(), container.id.clone());
            } else if let Some(endpoint) = endpoints.get_mut(network) {
                endpoint.links.get_or_insert_default().push(format!("{name}:{alias}"));
            }
        }
        Ok(own)
    }

    /// `HostConfig.Links` as inspect shows it.
    pub(super) fn links_of(&self, record: &Record) -> Option<Vec<String>> {
        let links = record.links.iter().filter_map(|(alias, id)| {
            let other = self.get(id).ok()?;
            Some(format!("/{}:/{}/{alias}", other.record().name, record.name))
        });
        let links: Vec<String> = links.collect();
        (!links.is_empty()).then_some(links)
    }

    /// The names that containers have by links, by container.
    pub(super) fn link_names(&self) -> BTreeMap<String, Vec<String>> {
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for container in self.all() {
            let record = container.record();
            for (alias, id) in &record.links {
                names.entry(id.clone()).or_default().push(format!("/{}/{alias}", record.name));
            }
        }
        names
    }

    /// What a starting container gets of those that it links to.
    ///
    /// # Errors
    /// One that does not run, in Docker's words.
    pub(super) fn linked(&self, record: &Record) -> Result<Linked> {
        let mut all = Linked::default();
        for (alias, id) in &record.links {
            // It was removed; so is the link.
            let Ok(other) = self.get(id) else { continue };
            let other_record = other.record();
            let address = self.shown(&other_record, &other.state()).endpoints.remove(BRIDGE);
            let address = address.and_then(|endpoint| endpoint.ip_address.parse::<IpAddr>().ok());
            let Some(address) = address else {
                return Err(Error::system(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    other_record.name, record.name
                )));
            };
            let mut names = vec![alias.clone()];
            for name in [&other_record.config.hostname, &other_record.name] {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
            all.hosts.push((address, names));
            all.environment.extend(environment(&record.name, alias, address, &other_record));
        }
        Ok(all)
    }

    /// Removes the link that `name` (`parent/alias`) means.
    ///
    /// # Errors
    /// None of that name, in Docker's words.
    pub(super) async fn remove_link(&self, name: &str) -> Result<()> {
        let conflict = || Error::system("Conflict, cannot remove the default link name of the container");
        let (parent, alias) = name.trim_start_matches('/').split_once('/').ok_or_else(conflict)?;
        let parent = self.get(parent)?;
        let _changing = parent.changing.lock().await;
        let mut record = (*parent.record()).clone();
        if record.links.remove(alias).is_none() {
            return Err(super::no_such_container(name));
        }
        let target = parent.clone();
        crate::blocking(move || target.set_record(record)).await
    }
}

/// Where the container called `alias` is, and what it was started with.
fn environment(own_name: &str, alias: &str, address: IpAddr, other: &Record) -> Vec<String> {
    let prefix = alias.to_uppercase().replace('-', "_");
    let mut variables = Vec::new();
    let mut ports: Vec<(u16, String)> =
        other.config.exposed_ports.keys().filter_map(|port| network::split_port(port).ok()).collect();
    ports.sort_by_key(|(port, protocol)| (protocol.clone(), *port));
    if let Some((port, protocol)) = ports.first() {
        variables.push(format!("{prefix}_PORT={protocol}://{address}:{port}"));
    }
    for (port, protocol) in &ports {
        let one = format!("{prefix}_PORT_{port}_{}", protocol.to_uppercase());
        variables.push(format!("{one}={protocol}://{address}:{port}"));
        variables.push(format!("{one}_ADDR={address}"));
        variables.push(format!("{one}_PORT={port}"));
        variables.push(format!("{one}_PROTO={protocol}"));
    }
    variables.push(format!("{prefix}_NAME=/{own_name}/{alias}"));
    let inherited = other.config.env.iter().flatten().filter_map(|variable| variable.split_once('='));
    let inherited = inherited.filter(|(name, _)| !matches!(*name, "PATH" | "HOME"));
    variables.extend(inherited.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing;

    #[test]
    fn links_are_read_as_users_and_inspect_write_them() {
        assert_eq!(split("web:front").unwrap(), ("web", "front"));
        assert_eq!(split("web").unwrap(), ("web", "web"));
        assert_eq!(split("/web:/own/front").unwrap(), ("web", "front"));
        assert!(split(":x").is_err() && split("web:").is_err());
    }

    #[test]
    fn the_environment_tells_what_a_link_is() {
        let mut other = testing::record("web");
        other.config.exposed_ports = [("80/tcp".to_owned(), Default::default())].into();
        other.config.env = Some(vec!["PATH=/bin".to_owned(), "A=b".to_owned()]);
        assert_eq!(
            environment("own", "my-db", IpAddr::from([172, 17, 0, 3]), &other),
            [
                "MY_DB_PORT=tcp://172.17.0.3:80",
                "MY_DB_PORT_80_TCP=tcp://172.17.0.3:80",
                "MY_DB_PORT_80_TCP_ADDR=172.17.0.3",
                "MY_DB_PORT_80_TCP_PORT=80",
                "MY_DB_PORT_80_TCP_PROTO=tcp",
                "MY_DB_NAME=/own/my-db",
                "MY_DB_ENV_A=b",
            ]
        );
    }
}
