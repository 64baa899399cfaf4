//! `inspect`.

use std::collections::BTreeMap;

use time::format_description::well_known::Rfc3339;
use wire::docker::{
    container::{Inspect, NetworkSettings},
    network::EndpointSettings,
};

use super::{Containers, etc_files::EtcFiles, record::Record};
use crate::{error::Result, network::Networks};

/// What keeps containers' file systems.
const STORAGE_DRIVER: &str = "overlay2";

impl Containers {
    /// Everything about a container.
    ///
    /// # Errors
    /// No such container.
    pub(crate) async fn inspect(&self, name: &str, size: bool, networks: &Networks) -> Result<Inspect> {
        let container = self.get(name)?;
        let (record, state) = (container.record(), container.state());
        let size = if size { Some(self.size(&container).await?) } else { None };
        let files = EtcFiles::in_directory(&container.directory);
        // Docker names the files only once they exist.
        let path = |path: &std::path::Path| {
            if state.was_started() { path.to_string_lossy().into_owned() } else { String::new() }
        };
        let execs: Vec<String> = container.exec_ids().iter().cloned().collect();
        Ok(Inspect {
            id: record.id.clone(),
            created: record.created.format(&Rfc3339).unwrap_or_default(),
            path: record.path.clone(),
            args: record.args.clone(),
            state: state.to_api(),
            image: record.image_id.clone(),
            resolv_conf_path: path(&files.resolv_conf),
            hostname_path: path(&files.hostname),
            hosts_path: path(&files.hosts),
            log_path: container
                .log
                .as_ref()
                .filter(|_| state.was_started())
                .map(|log| log.path().to_string_lossy().into_owned())
                .unwrap_or_default(),
            name: format!("/{}", record.name),
            restart_count: state.restart_count().into(),
            driver: STORAGE_DRIVER.to_owned(),
            platform: record.os.clone(),
            mount_label: String::new(),
            process_label: String::new(),
            app_armor_profile: String::new(),
            exec_ids: (!execs.is_empty()).then_some(execs),
            host_config: record.host_config.clone(),
            graph_driver: self.0.snapshots.graph_driver(&record.id),
            size_rw: size.map(|(own, _)| own),
            size_root_fs: size.map(|(_, all)| all),
            mounts: record.mounts.iter().map(|mount| mount.point.clone()).collect(),
            config: record.config.clone(),
            network_settings: NetworkSettings {
                networks: endpoints(&record, networks),
                ..NetworkSettings::default()
            },
        })
    }
}

/// A container's networks. One that shares another's has none of its own.
pub(super) fn endpoints(record: &Record, networks: &Networks) -> BTreeMap<String, EndpointSettings> {
    let mode = record.host_config.network_mode.as_str();
    if mode.starts_with("container:") {
        return BTreeMap::new();
    }
    let mut endpoint = record.endpoints.get(mode).cloned().unwrap_or_default();
    if let Ok(network) = networks.get(mode) {
        endpoint.network_id = network.id.clone();
    }
    BTreeMap::from([(mode.to_owned(), endpoint)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing;

    #[test]
    fn a_container_shows_the_network_it_is_in() {
        let networks = Networks::new("seed", "");
        let mut record = testing::record("web");
        let shown = endpoints(&record, &networks);
        assert_eq!(shown["none"].network_id, networks.get("none").unwrap().id);
        record.host_config.network_mode = "container:abc".to_owned();
        assert!(endpoints(&record, &networks).is_empty());
    }
}
