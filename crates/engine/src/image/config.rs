use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wire::docker::container::ContainerConfig;

use super::{Image, blobs::Blobs, store::Record};
use crate::{
    error::{Context, Error, Kind, Result},
    snapshot::{Blob, Digest, LayerId, Layers},
};

/// Most bytes of a configuration or manifest: Docker takes manifests up to this size.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// Most layers of an image: more than overlayfs can stack (500).
const MAX_LAYERS: usize = 500;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(super) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// An image's configuration, as far as this engine reads it (OCI image specification, "Image
/// Configuration").
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ConfigFile {
    pub(super) architecture: String,
    pub(super) variant: String,
    pub(super) os: String,
    #[serde(rename = "os.version")]
    pub(super) os_version: String,
    pub(super) created: String,
    pub(super) author: String,
    pub(super) comment: String,
    pub(super) docker_version: String,
    pub(super) config: ContainerConfig,
    pub(super) rootfs: RootFs,
    pub(super) history: Vec<Step>,
}

/// An image's configuration as this engine writes it, in Docker's fields. What is empty and can be left out
/// is.
#[derive(Debug, Serialize)]
pub(super) struct NewConfig<'a> {
    pub(super) architecture: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) variant: &'a str,
    pub(super) os: &'a str,
    #[serde(rename = "os.version", skip_serializing_if = "str::is_empty")]
    pub(super) os_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) author: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<&'a str>,
    pub(super) created: &'a str,
    pub(super) docker_version: &'a str,
    /// What it was made from, if that was a container.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) container: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container_config: Option<&'a ContainerConfig>,
    pub(super) config: &'a ContainerConfig,
    pub(super) history: &'a [Step],
    pub(super) rootfs: &'a RootFs,
}

/// The uncompressed layers, bottom first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) diff_ids: Vec<Digest>,
}

/// How a layer, or a change without one, came to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Step {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) created: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) created_by: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) author: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) comment: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) empty_layer: bool,
}

impl ConfigFile {
    /// # Errors
    /// What is no configuration of an image that could run here.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let config: Self = wire::docker::decode(bytes)
            .map_err(|error| Error::invalid("invalid image configuration").because(error))?;
        if !config.os.is_empty() && config.os != "linux" {
            return Err(Error::invalid(format!(
                "image operating system {:?} cannot be used on this platform",
                config.os
            )));
        }
        if config.rootfs.diff_ids.len() > MAX_LAYERS {
            let count = config.rootfs.diff_ids.len();
            return Err(Error::invalid(format!(
                "max depth exceeded: {count} layers, at most {MAX_LAYERS} can be stacked"
            )));
        }
        Ok(config)
    }
}

/// A manifest: the configuration and the layers as blobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) config: Blob,
    #[serde(default)]
    pub(super) layers: Vec<Blob>,
}

/// A list of manifests for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    #[serde(default)]
    pub(super) manifests: Vec<IndexEntry>,
}

/// A line of an [`Index`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IndexEntry {
    #[serde(flatten)]
    pub(super) blob: Blob,
    #[serde(default)]
    pub(super) platform: IndexPlatform,
    #[serde(default)]
    pub(super) annotations: std::collections::BTreeMap<String, String>,
}

/// For which machines a manifest is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct IndexPlatform {
    pub(super) architecture: String,
    pub(super) os: String,
    pub(super) variant: String,
}

/// A manifest or a list of them: what it is stands in it, or in the header that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    Manifest(Manifest),
    Index(Index),
}

impl Document {
    /// # Errors
    /// Neither, or one of the kinds that are not used any more.
    pub(super) fn decode(bytes: &[u8], media_type: Option<&str>) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            #[serde(default)]
            schema_version: u32,
            #[serde(default)]
            media_type: Option<String>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
        }
        let said = |error| Error::invalid("invalid manifest").because(error);
        let shape: Shape = serde_json::from_slice(bytes).map_err(said)?;
        if shape.schema_version != 2 {
            return Err(Error::invalid(
                "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has \
                 been removed",
            ));
        }
        let is_index = match shape.media_type.as_deref().or(media_type) {
            Some(OCI_INDEX | DOCKER_INDEX) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            _ => shape.manifests.is_some(),
        };
        match is_index {
            true => serde_json::from_slice(bytes).map(Self::Index).map_err(said),
            false => serde_json::from_slice(bytes).map(Self::Manifest).map_err(said),
        }
    }
}

/// Makes an image of its parts on disk.
///
/// # Errors
/// A configuration that is missing or damaged; a layer that is missing.
pub(super) fn load_image(digest: Digest, record: Record, blobs: &Blobs, layers: &Layers) -> Result<Image> {
    let file = ConfigFile::decode(&blobs.read(digest, MAX_DOCUMENT)?)?;
    let diff_ids = file.rootfs.diff_ids;
    let chain = LayerId::chain(&diff_ids);
    let mut size = 0_u64;
    for id in &chain {
        let layer = layers
            .get(*id)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("layer {id} does not exist")))?;
        size = size.saturating_add(layer.size);
    }
    let comment = match file.comment.is_empty() {
        true => file.history.last().map(|step| step.comment.clone()).unwrap_or_default(),
        false => file.comment,
    };
    Ok(Image {
        id: digest.to_string(),
        config: file.config,
        os: if file.os.is_empty() { "linux".to_owned() } else { file.os },
        os_version: file.os_version,
        architecture: file.architecture,
        variant: file.variant,
        created: file.created,
        author: file.author,
        comment,
        docker_version: file.docker_version,
        layers: chain,
        size,
        digest,
        diff_ids,
        record,
    })
}

/// An RFC 3339 time in nanoseconds since the Unix epoch.
pub(super) fn parse_time(text: &str) -> Option<i128> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp_nanos)
}

/// An RFC 3339 time in seconds since the Unix epoch; 0 for none.
pub(super) fn parse_seconds(text: &str) -> i64 {
    OffsetDateTime::parse(text, &Rfc3339).map_or(0, OffsetDateTime::unix_timestamp)
}

/// This moment as RFC 3339.
pub(super) fn now() -> Result<String> {
    OffsetDateTime::now_utc().format(&Rfc3339).context(|| "tell the time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_configuration_with_nulls_is_read() {
        let text = format!(
            r#"{{"architecture":"arm64","os":"linux","config":{{"Env":null,"Cmd":["sh"],
            "Labels":null,"ExposedPorts":null}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},
            "history":[{{"created_by":"x","empty_layer":true}}]}}"#
        );
        let file = ConfigFile::decode(text.as_bytes()).unwrap();
        assert_eq!(file.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert_eq!(file.rootfs.diff_ids.len(), 1);
        assert!(file.history[0].empty_layer);
    }

    #[test]
    fn configurations_that_cannot_run_are_refused() {
        let windows = ConfigFile::decode(br#"{"os":"windows"}"#).unwrap_err().to_string();
        assert_eq!(windows, "image operating system \"windows\" cannot be used on this platform");
        assert!(ConfigFile::decode(br#"{"rootfs":{"diff_ids":["../../x"]}}"#).is_err());
        let many = format!(r#"{{"rootfs":{{"diff_ids":[{}]}}}}"#, vec![format!("{DIGEST:?}"); 501].join(","));
        assert!(ConfigFile::decode(many.as_bytes()).unwrap_err().to_string().starts_with("max depth"));
        assert!(ConfigFile::decode(b"[").is_err());
    }

    #[test]
    fn manifests_and_indexes_are_told_apart() {
        let blob = format!(r#"{{"mediaType":"m","digest":"{DIGEST}","size":0}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{blob},"layers":[{blob}]}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{blob}]}}"#);
        assert!(matches!(Document::decode(manifest.as_bytes(), None), Ok(Document::Manifest(_))));
        assert!(matches!(Document::decode(index.as_bytes(), None), Ok(Document::Index(_))));
        assert!(
            Document::decode(manifest.as_bytes(), Some(OCI_INDEX)).is_ok_and(
                |document| matches!(document, Document::Index(index) if index.manifests.is_empty())
            )
        );
        let old = Document::decode(br#"{"schemaVersion":1}"#, None).unwrap_err().to_string();
        assert!(old.contains("schema 1"), "{old}");
    }
}
