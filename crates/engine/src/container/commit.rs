use std::io::Write;

use wire::docker::container::ContainerConfig;

use super::{Containers, changes::check_not_leaving, create::fill_in};
use crate::{
    error::Result,
    image::{Images, NewImage},
};

/// `POST /commit`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commit {
    pub(crate) container: String,
    /// The name to give the image; may be empty.
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) author: String,
    pub(crate) comment: String,
    /// Lines of a Dockerfile.
    pub(crate) changes: Vec<String>,
    /// Freeze the container meanwhile.
    pub(crate) pause: bool,
    /// The image's configuration, where it is not to be the container's.
    pub(crate) config: Option<ContainerConfig>,
}

impl Containers {
    /// Makes an image of a container; returns its ID.
    ///
    /// # Errors
    /// Names and changes that are none, no such container, or one that is being removed, in Docker's
    /// words.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<String> {
        let mut config = ContainerConfig::default();
        // A name that is none is told before all else.
        Images::check_commit(&commit.repository, &commit.tag, &mut config, &[])?;
        let container = self.get(&commit.container)?;
        check_not_leaving(&container, "commit")?;
        let record = container.record();
        let mut config = commit.config.unwrap_or_else(|| record.config.clone());
        Images::check_commit(&commit.repository, &commit.tag, &mut config, &commit.changes)?;
        fill_in(&mut config, &record.config);
        let new = NewImage {
            repository: commit.repository,
            tag: commit.tag,
            author: commit.author,
            comment: commit.comment.clone(),
            parent: record.image_id.clone(),
            container: container.id.clone(),
            container_config: record.config.clone(),
            config,
        };
        let state = container.state();
        // What cannot be frozen is committed as it is, as in Docker.
        let paused = commit.pause
            && state.is_running()
            && !state.is_paused()
            && self.pause(&container.id).await.is_ok();
        let committed = {
            // Only as long: whoever removes it waits for its files.
            let _kept = container.files.read().await;
            let (snapshots, id) = (self.0.snapshots.clone(), container.id.clone());
            let write_layer = move |sink: &mut dyn Write| snapshots.write_layer(&id, sink);
            self.0.images.commit_container(new, write_layer).await
        };
        // Somebody else may have let it go on, or ended it.
        if paused && let Err(error) = self.unpause(&container.id).await {
            tracing::debug!(container = container.id, "{error}");
        }
        let (id, name) = committed?;
        let attributes = [("comment", &*commit.comment), ("imageID", &id), ("imageRef", &name)];
        self.emit(&container, "commit", &attributes);
        Ok(id)
    }
}
