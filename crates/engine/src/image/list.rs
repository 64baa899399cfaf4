use std::collections::{BTreeMap, HashMap};

use wire::docker::image::Summary;

use super::{Image, Images, pattern, reference::Reference};
use crate::{
    api::filters::Filters,
    error::{Error, Result},
    snapshot::LayerId,
};

/// `GET /images/json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListOptions {
    /// Also the steps that other images were built from.
    pub(crate) all: bool,
    /// Tell how much is shared with other images.
    pub(crate) shared_size: bool,
    pub(crate) filters: Filters,
}

impl ListOptions {
    /// The filters that a list knows.
    pub(crate) const FILTERS: [&'static str; 6] =
        ["before", "dangling", "label", "reference", "since", "until"];
}

impl Images {
    /// The images, the newest first.
    ///
    /// # Errors
    /// Filters that make no sense.
    pub(crate) fn list(&self, options: &ListOptions) -> Result<Vec<Summary>> {
        let filters = &options.filters;
        let dangling = flag(filters, "dangling")?;
        let mut before: Option<i128> = None;
        let mut since: Option<i128> = None;
        for name in filters.get("before") {
            let created = self.get(name)?.created_nanos().unwrap_or(i128::MIN);
            before = Some(before.map_or(created, |before| before.min(created)));
        }
        for text in filters.get("until") {
            let until = until(text)?;
            before = Some(before.map_or(until, |before| before.min(until)));
        }
        for name in filters.get("since") {
            let created = self.get(name)?.created_nanos().unwrap_or(i128::MIN);
            since = Some(since.map_or(created, |since| since.max(created)));
        }
        let candidates: Vec<(std::sync::Arc<Image>, Vec<Reference>, bool)> = {
            let state = self.state();
            state
                .images
                .values()
                .map(|image| {
                    let references = state.references_of(image.digest);
                    (image.clone(), references, state.has_children(image.digest))
                })
                .collect()
        };
        let shared = if options.shared_size { self.shared(&candidates) } else { HashMap::new() };
        let empty = BTreeMap::new();
        let mut listed = Vec::new();
        for (image, references, has_children) in candidates {
            let created = image.created_nanos().unwrap_or(i128::MIN);
            if before.is_some_and(|before| created >= before)
                || since.is_some_and(|since| created <= since)
                || !filters.labels("label", image.labels().unwrap_or(&empty))
            {
                continue;
            }
            let mut shown = Vec::with_capacity(references.len());
            for reference in references {
                if fits(filters, &reference)? {
                    shown.push(reference);
                }
            }
            let (tags, digests) = super::inspect::split(&shown);
            if shown.is_empty() {
                let hidden = has_children && !options.all;
                if hidden || dangling == Some(false) || filters.has("reference") {
                    continue;
                }
            } else if dangling == Some(true) && !tags.is_empty() {
                continue;
            }
            listed.push((created, self.summary(&image, tags, digests, &shared)));
        }
        listed.sort_by(|(one, a), (other, b)| other.cmp(one).then_with(|| a.id.cmp(&b.id)));
        Ok(listed.into_iter().map(|(_, summary)| summary).collect())
    }

    fn summary(
        &self,
        image: &Image,
        repo_tags: Vec<String>,
        repo_digests: Vec<String>,
        shared: &HashMap<LayerId, u64>,
    ) -> Summary {
        let shared_size = match shared.is_empty() {
            true => -1,
            false => {
                let size: u64 = image.layers.iter().filter_map(|layer| shared.get(layer)).sum();
                i64::try_from(size).unwrap_or(i64::MAX)
            }
        };
        Summary {
            containers: i64::try_from(self.users(image).len()).unwrap_or(i64::MAX),
            created: image.created_seconds(),
            id: image.id.clone(),
            labels: image.config.labels.clone(),
            parent_id: image.record.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            repo_digests,
            repo_tags,
            shared_size,
            size: i64::try_from(image.size).unwrap_or(i64::MAX),
        }
    }

    /// The bytes of each layer that more than one image has; 0 for the others.
    fn shared(&self, images: &[(std::sync::Arc<Image>, Vec<Reference>, bool)]) -> HashMap<LayerId, u64> {
        let mut users: HashMap<LayerId, usize> = HashMap::new();
        for layer in images.iter().flat_map(|(image, ..)| &image.layers) {
            *users.entry(*layer).or_default() += 1;
        }
        users
            .into_iter()
            .map(|(id, users)| {
                let size = self.0.layers.get(id).map_or(0, |layer| layer.size);
                (id, if users > 1 { size } else { 0 })
            })
            .collect()
    }
}

/// A filter that is a boolean, with Docker's words for one that is not.
pub(super) fn flag(filters: &Filters, name: &str) -> Result<Option<bool>> {
    filters
        .flag(name)
        .map_err(|_| Error::invalid(format!("invalid filter '{name}=[{}]'", filters.get(name).join(" "))))
}

/// The filter `until`: a time, or how long ago.
pub(super) fn until(text: &str) -> Result<i128> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    if let Some(ago) = super::changes::parse_duration(text) {
        return Ok(now - i128::from(ago));
    }
    if let Some(nanos) = crate::system::parse_timestamp(text) {
        return Ok(i128::from(nanos));
    }
    let short = match text.split_once('T') {
        Some((date, clock)) if clock.matches(':').count() == 1 => format!("{date}T{clock}:00Z"),
        Some((date, clock)) => format!("{date}T{clock}Z"),
        None => format!("{text}T00:00:00Z"),
    };
    super::config::parse_time(&short)
        .ok_or_else(|| Error::system(format!("failed to parse value as time or duration: {text:?}")))
}

/// Whether a name fits the filter `reference`, in full or without its tag.
fn fits(filters: &Filters, reference: &Reference) -> Result<bool> {
    if !filters.has("reference") {
        return Ok(true);
    }
    for wanted in filters.get("reference") {
        let matches =
            |text: &str| pattern::matches(wanted, text).map_err(|error| Error::system(error.to_string()));
        if matches(&reference.familiar())? || matches(&reference.familiar_name())? {
            return Ok(true);
        }
    }
    Ok(false)
}
