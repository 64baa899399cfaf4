use std::io::Write;

use tokio::task::spawn_blocking;
use wire::docker::container::ContainerConfig;

use super::{
    Image, Images, changes,
    config::{self, ConfigFile, MAX_DOCUMENT, NewConfig, Step},
    import::new_name,
    reference::Reference,
};
use crate::{
    error::{Context, Result},
    snapshot::{Blob, Compression, Digest, LayerId, NewLayer},
    system::DOCKER_VERSION,
};

/// What a container is to become.
#[derive(Debug, Clone)]
pub(crate) struct NewImage {
    /// The name to give it; may be empty.
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) author: String,
    pub(crate) comment: String,
    /// The ID of the image that the container was made from.
    pub(crate) parent: String,
    pub(crate) container: String,
    pub(crate) container_config: ContainerConfig,
    pub(crate) config: ContainerConfig,
}

impl Images {
    /// Checks the name for a new image, and applies `changes`, lines of a Dockerfile, to its configuration.
    ///
    /// # Errors
    /// Names and changes that are none, in Docker's words.
    pub(crate) fn check_commit(
        repository: &str,
        tag: &str,
        config: &mut ContainerConfig,
        changes: &[String],
    ) -> Result<()> {
        new_name(repository, tag)?;
        changes::apply(config, changes)
    }

    /// Makes an image of a container: its image's layers, and on top what `write_layer` writes, unless it
    /// says that this is nothing. Returns the ID and the name.
    ///
    /// # Errors
    /// The container's image is gone; those of `write_layer`. Nothing is left behind then.
    pub(crate) async fn commit_container(
        &self,
        new: NewImage,
        write_layer: impl FnOnce(&mut dyn Write) -> Result<bool> + Send + 'static,
    ) -> Result<(String, String)> {
        let reference = new_name(&new.repository, &new.tag)?;
        let images = self.clone();
        let made = spawn_blocking(move || images.commit_blocking(&new, write_layer));
        let image = made.await.context(|| "commit a container".to_owned())??;
        self.tell("create", &image.id, &image.id, Some(&image));
        let name = reference.as_ref().map(Reference::familiar).unwrap_or_default();
        if let Some(reference) = reference {
            self.tag_reference(&image.id, reference).await?;
        }
        Ok((image.id.clone(), name))
    }

    fn commit_blocking(
        &self,
        new: &NewImage,
        write_layer: impl FnOnce(&mut dyn Write) -> Result<bool>,
    ) -> Result<std::sync::Arc<Image>> {
        let inner = &self.0;
        let parent = self.get(&new.parent)?;
        let mut file = ConfigFile::decode(&inner.blobs.read(parent.digest, MAX_DOCUMENT)?)?;
        let _below = inner.layers.hold(&parent.layers);
        let mut writer = inner.blobs.writer()?;
        let is_empty = !write_layer(&mut writer)?;
        let mut holds = None;
        if !is_empty {
            let staged = writer.finish();
            let diff_id = staged.digest();
            let media_type = Compression::None.layer_media_type().unwrap_or_default().to_owned();
            let blob = Blob { media_type, digest: diff_id, size: staged.size() };
            let layer = NewLayer { below: parent.layers.clone(), diff_id, blob };
            let top: [LayerId; 1] = [layer.id()];
            holds = Some((inner.layers.hold(&top), inner.blobs.hold([diff_id])));
            staged.commit()?;
            inner.layers.unpack(&layer, inner.blobs.open_blob(diff_id)?)?;
            file.rootfs.diff_ids.push(diff_id);
        }
        let created = config::now()?;
        file.history.push(Step {
            created: created.clone(),
            created_by: new.container_config.cmd.as_deref().unwrap_or_default().join(" "),
            author: new.author.clone(),
            comment: new.comment.clone(),
            empty_layer: is_empty,
        });
        file.rootfs.kind = "layers".to_owned();
        let config = NewConfig {
            architecture: &parent.architecture,
            variant: &parent.variant,
            os: &parent.os,
            os_version: &parent.os_version,
            author: &new.author,
            created: &created,
            docker_version: DOCKER_VERSION,
            container: &new.container,
            container_config: Some(&new.container_config),
            config: &new.config,
            history: &file.history,
            rootfs: &file.rootfs,
            comment: None,
        };
        let config = serde_json::to_vec(&config).context(|| "encode the configuration".to_owned())?;
        let _config = inner.blobs.hold([Digest::of(&config)]);
        let digest = inner.blobs.write(&config)?;
        let image = self.commit_child(digest, parent.digest)?;
        drop(holds);
        Ok(image)
    }
}
