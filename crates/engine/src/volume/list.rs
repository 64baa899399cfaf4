use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wire::docker::volume::{List, UsageData, Volume};

use super::{DRIVER, Entry, Volumes, remove::no_such_volume};
use crate::{
    api::filters::Filters,
    error::{Error, Result},
    snapshot,
};

/// The filters that a list knows.
pub(crate) const LIST_FILTERS: &[&str] = &["dangling", "driver", "label", "name"];

impl Volumes {
    /// A volume as inspect shows it.
    ///
    /// # Errors
    /// No such volume, in Docker's words.
    pub(crate) fn inspect(&self, name: &str) -> Result<Volume> {
        self.state().get(name).map(|entry| self.show(name, entry)).ok_or_else(|| no_such_volume(name))
    }

    /// The volumes, by name.
    ///
    /// # Errors
    /// Filters that make no sense, in Docker's words.
    pub(crate) fn list(&self, filters: &Filters) -> Result<List> {
        let dangling = filters.flag("dangling").map_err(|_| {
            Error::invalid(format!("invalid filter 'dangling=[{}]'", filters.get("dangling").join(" ")))
        })?;
        // What is no expression is compared as it is.
        let names: Vec<regex::Regex> =
            filters.get("name").iter().filter_map(|name| regex::Regex::new(name).ok()).collect();
        let volumes = self
            .state()
            .iter()
            .filter(|(name, entry)| {
                let labels = entry.record.labels.clone().unwrap_or_default();
                let named = filters.passes("name", |wanted| wanted == *name)
                    || names.iter().any(|wanted| wanted.is_match(name));
                named
                    && dangling.is_none_or(|dangling| dangling == entry.users.is_empty())
                    && filters.passes("driver", |driver| driver == DRIVER)
                    && filters.labels("label", &labels)
            })
            .map(|(name, entry)| self.show(name, entry))
            .collect();
        Ok(List { volumes, warnings: None })
    }

    /// The volumes with how much of the disk they take. Those with driver options take none that is theirs
    /// to tell. Blocks as long as their files are many.
    pub(crate) fn usage(&self) -> Vec<Volume> {
        let own: Vec<(Volume, usize)> = self
            .state()
            .iter()
            .filter(|(_, entry)| !entry.record.has_options())
            .map(|(name, entry)| (self.show(name, entry), entry.users.len()))
            .collect();
        own.into_iter()
            .map(|(mut volume, users)| {
                let size = match snapshot::disk_usage(&self.path(&volume.name)) {
                    Ok(size) => i64::try_from(size).unwrap_or(i64::MAX),
                    Err(error) => {
                        tracing::warn!("measure the volume {}: {error}", volume.name);
                        // Docker's word for "nobody knows".
                        -1
                    }
                };
                let ref_count = i64::try_from(users).unwrap_or(i64::MAX);
                volume.usage_data = Some(UsageData { ref_count, size });
                volume
            })
            .collect()
    }

    fn show(&self, name: &str, entry: &Entry) -> Volume {
        let created: OffsetDateTime = entry.record.created;
        Volume {
            created_at: created.replace_nanosecond(0).unwrap_or(created).format(&Rfc3339).unwrap_or_default(),
            driver: DRIVER.to_owned(),
            labels: entry.record.labels.clone(),
            mountpoint: self.path(name).to_string_lossy().into_owned(),
            name: name.to_owned(),
            options: entry.record.options.clone(),
            scope: "local".to_owned(),
            usage_data: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::Events,
        volume::{New, Words},
    };

    #[test]
    fn filters_are_dockers() {
        let root = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(root.path(), Events::default()).unwrap();
        let labels = Some(Words::from([("tier".to_owned(), "db".to_owned())]));
        volumes.create(New { name: "data-1".to_owned(), labels, ..New::default() }).unwrap();
        volumes.acquire(New { name: "data-2".to_owned(), ..New::default() }, "c1").unwrap();
        let names = |filters: &str| -> Vec<String> {
            let filters = Filters::parse(Some(filters), LIST_FILTERS).unwrap();
            volumes.list(&filters).unwrap().volumes.into_iter().map(|volume| volume.name).collect()
        };
        assert_eq!(names("{}"), ["data-1", "data-2"]);
        assert_eq!(names(r#"{"dangling":["true"]}"#), ["data-1"]);
        assert_eq!(names(r#"{"dangling":["0"]}"#), ["data-2"]);
        assert_eq!(names(r#"{"label":["tier=db"],"driver":["local"]}"#), ["data-1"]);
        assert_eq!(names(r#"{"name":["ta-2"]}"#), ["data-2"]);
        assert!(names(r#"{"driver":["nfs"]}"#).is_empty());
        let usage = volumes.usage();
        assert_eq!(usage[1].usage_data, Some(UsageData { ref_count: 1, size: 0 }));
        assert!(!usage[0].created_at.contains('.'));
    }
}
