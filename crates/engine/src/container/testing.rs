//! Containers for tests.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use wire::docker::{container::ContainerConfig, host_config::HostConfig};

use super::{names, record::Record};

/// A record as `create` would have made it.
pub(super) fn record(name: &str) -> Record {
    Record {
        id: names::random_id(),
        name: name.to_owned(),
        created: OffsetDateTime::now_utc(),
        image_id: format!("sha256:{}", names::random_id()),
        os: "linux".to_owned(),
        path: "true".to_owned(),
        args: Vec::new(),
        config: ContainerConfig {
            image: "busybox".to_owned(),
            labels: Some(BTreeMap::new()),
            ..ContainerConfig::default()
        },
        host_config: HostConfig {
            network_mode: "none".to_owned(),
            log_config: wire::docker::host_config::LogConfig {
                driver: "json-file".to_owned(),
                ..Default::default()
            },
            ..HostConfig::default()
        },
        mounts: Vec::new(),
        endpoints: BTreeMap::new(),
        links: BTreeMap::new(),
    }
}
