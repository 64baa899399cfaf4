use std::collections::BTreeMap;

use tokio::task::spawn_blocking;
use wire::docker::image::{DeleteItem, PruneReport};

use super::{Image, Images, RemoveOptions, list};
use crate::{
    api::filters::Filters,
    error::{Context, Kind, Result},
};

impl Images {
    /// The filters that prune knows.
    pub(crate) const PRUNE_FILTERS: [&'static str; 4] = ["dangling", "label", "label!", "until"];

    /// Removes the images that no container uses: those without a name, or with `dangling=false` all.
    ///
    /// # Errors
    /// Filters that make no sense.
    pub(crate) async fn prune(&self, filters: Filters) -> Result<PruneReport> {
        let images = self.clone();
        spawn_blocking(move || images.prune_blocking(&filters)).await.context(|| "prune images".to_owned())?
    }

    fn prune_blocking(&self, filters: &Filters) -> Result<PruneReport> {
        let dangling_only = list::flag(filters, "dangling")?.unwrap_or(true);
        let mut until: Option<i128> = None;
        for text in filters.get("until") {
            until = Some(list::until(text)?);
        }
        let candidates: Vec<(std::sync::Arc<Image>, Vec<String>)> = {
            let state = self.state();
            let mut candidates = Vec::new();
            for image in state.images.values() {
                let references = state.references_of(image.digest);
                let has_tag = references.iter().any(|reference| reference.tag().is_some());
                let is_step = references.is_empty() && state.has_children(image.digest);
                if is_step || (dangling_only && has_tag) || !passes(filters, until, image) {
                    continue;
                }
                let names = match references.is_empty() {
                    true => vec![image.digest.hex()],
                    false => references.iter().map(ToString::to_string).collect(),
                };
                candidates.push((image.clone(), names));
            }
            candidates
        };
        let before = self.layer_sizes();
        let mut items = Vec::new();
        for (image, names) in candidates {
            for name in names {
                match self.remove_blocking(&name, RemoveOptions::default()) {
                    Ok(removed) => items.extend(removed),
                    // Used, or gone meanwhile.
                    Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => {}
                    Err(error) => tracing::warn!("remove the image {}: {error}", image.id),
                }
            }
        }
        let space_reclaimed = items.iter().filter_map(|item| before.get(item.deleted.as_deref()?)).sum();
        self.0.events.emit("image", "prune", "", [("reclaimed", format!("{space_reclaimed}"))]);
        let images_deleted: Option<Vec<DeleteItem>> = (!items.is_empty()).then_some(items);
        Ok(PruneReport { images_deleted, space_reclaimed })
    }

    /// Bytes of all images' layers, each counted once.
    pub(crate) fn layers_size(&self) -> u64 {
        self.layer_sizes().values().sum()
    }

    fn layer_sizes(&self) -> BTreeMap<String, u64> {
        let layers: std::collections::HashSet<_> =
            self.state().images.values().flat_map(|image| image.layers.clone()).collect();
        layers.into_iter().filter_map(|id| Some((id.to_string(), self.0.layers.get(id)?.size))).collect()
    }
}

fn passes(filters: &Filters, until: Option<i128>, image: &Image) -> bool {
    if until.is_some_and(|until| image.created_nanos().is_none_or(|created| created > until)) {
        return false;
    }
    let empty = BTreeMap::new();
    let labels = image.labels().unwrap_or(&empty);
    let excluded = filters.has("label!") && filters.labels("label!", labels);
    filters.labels("label", labels) && !excluded
}
