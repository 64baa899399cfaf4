use wire::docker::image::HistoryItem;

use super::{
    Images,
    config::{self, ConfigFile, MAX_DOCUMENT},
};
use crate::error::{Error, Result};

impl Images {
    /// How an image came to be, the latest step first. Blocks: it reads the configuration.
    ///
    /// # Errors
    /// No such image; a history that does not fit the layers.
    pub(crate) fn history(&self, name: &str) -> Result<Vec<HistoryItem>> {
        let image = self.get(name)?;
        let file = ConfigFile::decode(&self.0.blobs.read(image.digest, MAX_DOCUMENT)?)?;
        let mut layers = image.layers.iter();
        let mut items = Vec::with_capacity(file.history.len());
        for step in file.history {
            let size = match step.empty_layer {
                true => 0,
                false => {
                    let layer = layers
                        .next()
                        .ok_or_else(|| Error::system("too many non-empty layers in History section"))?;
                    self.0.layers.get(*layer).map_or(0, |layer| layer.size)
                }
            };
            items.push(HistoryItem {
                comment: step.comment,
                created: config::parse_seconds(&step.created),
                created_by: step.created_by,
                id: "<missing>".to_owned(),
                size: i64::try_from(size).unwrap_or(i64::MAX),
                tags: None,
            });
        }
        items.reverse();
        // Steps made here are images of their own.
        let state = self.state();
        let mut step = Some(image);
        for item in &mut items {
            let Some(image) = step.take() else { break };
            item.id = image.id.clone();
            let (tags, _) = super::inspect::split(&state.references_of(image.digest));
            item.tags = (!tags.is_empty()).then_some(tags);
            step = image.record.parent.and_then(|parent| state.images.get(&parent).cloned());
        }
        Ok(items)
    }
}
