//! What is kept of a container on disk: `container.json`, and `state.json` beside it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use wire::docker::{
    container::{ContainerConfig, MountPoint},
    host_config::HostConfig,
    network::EndpointSettings,
};

use super::state::State;
use crate::{
    error::Result,
    snapshot::LayerId,
    store::{self, Durability},
};

/// Everything about a container that does not change by running it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// Without the leading slash that Docker's API shows.
    pub(crate) name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    pub(crate) image_id: String,
    /// The image's platform.
    pub(crate) os: String,
    /// The program and its arguments.
    pub(crate) path: String,
    pub(crate) args: Vec<String>,
    /// The image's configuration with the request's on top.
    pub(crate) config: ContainerConfig,
    /// The request's, with defaults filled in.
    pub(crate) host_config: HostConfig,
    pub(crate) mounts: Vec<Mount>,
    /// What is wanted of each of its networks, by the network's name.
    pub(crate) endpoints: BTreeMap<String, EndpointSettings>,
    /// Containers that it knows by another name on the default bridge: their ids, by that name.
    #[serde(default)]
    pub(crate) links: BTreeMap<String, String>,
}

/// Something mounted into a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    /// As inspect shows it.
    pub(crate) point: MountPoint,
    /// A volume without a name of its own goes with its container.
    pub(crate) anonymous: bool,
    /// What in a volume or an image is mounted, relative to it; empty for all of it.
    #[serde(default)]
    pub(crate) subpath: String,
    /// The image that is mounted, if it is one.
    #[serde(default)]
    pub(crate) image: Option<MountedImage>,
    /// Without what is mounted below its source.
    #[serde(default)]
    pub(crate) non_recursive: bool,
    /// What is mounted below its source can be written, if that can.
    #[serde(default)]
    pub(crate) read_only_non_recursive: bool,
}

/// An image as a container shows it, whatever becomes of its name and record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountedImage {
    pub(crate) id: String,
    /// Bottom first.
    pub(crate) layers: Vec<LayerId>,
}

impl Mount {
    pub(crate) fn is_volume(&self) -> bool {
        self.point.kind == "volume"
    }

    /// Whether what is mounted has a place of its own only until the container has mounted it.
    pub(crate) fn has_brief_place(&self) -> bool {
        self.image.is_some() || !self.subpath.is_empty()
    }
}

impl Record {
    /// Whether the container is made from an image, or has it mounted.
    pub(crate) fn uses_image(&self, id: &str) -> bool {
        let mut mounted = self.mounts.iter().filter_map(|mount| mount.image.as_ref());
        self.image_id == id || mounted.any(|image| image.id == id)
    }

    /// A file of this container's in its directory.
    pub(crate) fn file(directory: &Path) -> PathBuf {
        directory.join("container.json")
    }

    /// Reads a record; `None` when its creation was cut short.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>> {
        store::read_json(&Self::file(directory))
    }

    /// Keeps the record: it is on the disk when this returns.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        store::write_json(&Self::file(directory), self, Durability::Synced)
    }
}

/// Reads a state; the default when none was kept.
pub(crate) fn load_state(directory: &Path) -> Result<State> {
    Ok(store::read_json(&directory.join("state.json"))?.unwrap_or_default())
}

/// Keeps a state.
pub(crate) fn save_state(directory: &Path, state: &State, durability: Durability) -> Result<()> {
    store::write_json(&directory.join("state.json"), state, durability)
}
