use wire::docker::system::DiskUsage;

use super::Engine;
use crate::{
    blocking,
    container::ListQuery,
    error::{Error, Result},
    image::ListOptions,
};

const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];

impl Engine {
    /// What takes how much of the disk: of the `kinds` named, or of all.
    ///
    /// # Errors
    /// A kind that there is not, in Docker's words; files that cannot be read.
    pub(crate) async fn disk_usage(&self, kinds: &[&str]) -> Result<DiskUsage> {
        if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(kind)) {
            return Err(Error::invalid(format!("unknown object type: {unknown}")));
        }
        let wanted = |kind: &str| kinds.is_empty() || kinds.contains(&kind);
        let mut usage = DiskUsage::default();
        if wanted("image") {
            let options = ListOptions { shared_size: true, ..ListOptions::default() };
            usage.images = Some(self.images.list(&options)?);
            usage.layers_size = i64::try_from(self.images.layers_size()).unwrap_or(i64::MAX);
        }
        if wanted("container") {
            let query = ListQuery { all: true, size: true, ..ListQuery::default() };
            usage.containers = Some(self.containers.list(query).await?);
        }
        if wanted("volume") {
            let volumes = self.volumes.clone();
            usage.volumes = Some(blocking(move || Ok(volumes.usage())).await?);
        }
        if wanted("build-cache") {
            // The builder, which is to come, will keep one.
            usage.build_cache = Some(Vec::new());
        }
        Ok(usage)
    }
}
