//! `inspect`.

use time::format_description::well_known::Rfc3339;
use wire::docker::{container::Inspect, host_config::HostConfig};

use super::{Containers, etc_files::EtcFiles};
use crate::error::Result;

/// What keeps containers' file systems.
const STORAGE_DRIVER: &str = "overlay2";

impl Containers {
    /// Everything about a container.
    ///
    /// # Errors
    /// No such container.
    pub(crate) async fn inspect(&self, name: &str, size: bool) -> Result<Inspect> {
        let container = self.get(name)?;
        let (record, state) = (container.record(), container.state());
        let size = if size { Some(self.size(&container).await?) } else { None };
        let network_settings = {
            let (containers, record, state) = (self.clone(), record.clone(), state.clone());
            // Networks may be busy changing.
            crate::blocking(move || Ok(containers.network_settings(&record, &state))).await?
        };
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
            host_config: HostConfig { links: self.links_of(&record), ..record.host_config.clone() },
            graph_driver: self.0.snapshots.graph_driver(&record.id),
            size_rw: size.map(|(own, _)| own),
            size_root_fs: size.map(|(_, all)| all),
            mounts: record.mounts.iter().map(|mount| mount.point.clone()).collect(),
            config: record.config.clone(),
            network_settings,
        })
    }
}
