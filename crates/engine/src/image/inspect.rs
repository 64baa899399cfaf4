use wire::docker::{
    NEVER,
    image::{Config, Inspect, Metadata, RootFs},
};

use super::{Image, Images, reference::Reference};
use crate::error::Result;

impl Images {
    /// All about an image.
    ///
    /// # Errors
    /// No such image.
    pub(crate) fn inspect(&self, name: &str) -> Result<Inspect> {
        let image = self.get(name)?;
        let (repo_tags, repo_digests) = split(&self.state().references_of(image.digest));
        let layers: Vec<String> = image.diff_ids.iter().map(ToString::to_string).collect();
        Ok(Inspect {
            id: image.id.clone(),
            repo_tags,
            repo_digests,
            parent: image.record.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            comment: image.comment.clone(),
            created: image.created.clone(),
            docker_version: image.docker_version.clone(),
            author: image.author.clone(),
            architecture: image.architecture.clone(),
            variant: image.variant.clone(),
            os: image.os.clone(),
            os_version: image.os_version.clone(),
            size: i64::try_from(image.size).unwrap_or(i64::MAX),
            graph_driver: self.0.layers.graph_driver(&image.layers),
            root_fs: RootFs { kind: "layers".to_owned(), layers },
            metadata: Metadata {
                last_tag_time: image.record.last_tagged.clone().unwrap_or_else(|| NEVER.to_owned()),
            },
            config: shown_config(&image),
        })
    }
}

/// Tags and digests, as users write them.
pub(super) fn split(references: &[Reference]) -> (Vec<String>, Vec<String>) {
    let (digests, tags): (Vec<_>, Vec<_>) =
        references.iter().partition(|reference| reference.digest().is_some());
    let familiar = |references: Vec<&Reference>| references.into_iter().map(Reference::familiar).collect();
    (familiar(tags), familiar(digests))
}

fn shown_config(image: &Image) -> Config {
    let config = image.config.clone();
    Config {
        args_escaped: config.args_escaped,
        cmd: config.cmd,
        entrypoint: config.entrypoint,
        env: config.env,
        exposed_ports: config.exposed_ports,
        healthcheck: config.healthcheck,
        labels: config.labels,
        on_build: config.on_build,
        shell: config.shell,
        stop_signal: config.stop_signal,
        user: config.user,
        volumes: config.volumes,
        working_dir: config.working_dir,
    }
}
