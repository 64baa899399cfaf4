//! `ps`.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use time::OffsetDateTime;
use wire::docker::container::{Summary, SummaryHostConfig, SummaryNetworkSettings};

use super::{Container, Containers, networks::Shown, record::Record, state::State};
use crate::{
    api::filters::Filters,
    error::{Error, Result},
};

/// The filters there are.
pub(crate) const LIST_FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

const STATES: &[&str] = &["created", "running", "paused", "restarting", "removing", "exited", "dead"];
const HEALTHS: &[&str] = &["none", "starting", "healthy", "unhealthy"];

/// What to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct ListQuery {
    /// Also those that do not run.
    pub(crate) all: bool,
    /// How many of the newest, running or not; 0 for no limit.
    pub(crate) limit: usize,
    /// With the sizes of their file systems.
    pub(crate) size: bool,
    pub(crate) filters: Filters,
}

/// A container as it was when the list was made.
struct Listed {
    container: Arc<Container>,
    record: Arc<Record>,
    state: State,
    shown: Shown,
}

/// Filters, taken apart and checked.
struct Wanted<'a> {
    filters: &'a Filters,
    exited: Vec<i64>,
    names: Vec<regex::Regex>,
    images: Option<BTreeSet<String>>,
    publish: Vec<PortRange>,
    expose: Vec<PortRange>,
    task: Option<bool>,
}

impl Containers {
    /// Containers, the newest first.
    ///
    /// # Errors
    /// Filters with values that make no sense, in Docker's words.
    pub(crate) async fn list(&self, query: ListQuery) -> Result<Vec<Summary>> {
        let containers = self.clone();
        // Networks may be busy changing.
        let mut all: Vec<Listed> = crate::blocking(move || {
            let listed = |container: Arc<Container>| {
                let (record, state) = (container.record(), container.state());
                let shown = containers.shown(&record, &state);
                Listed { container, record, state, shown }
            };
            Ok(containers.all().into_iter().map(listed).collect())
        })
        .await?;
        all.sort_by_key(|listed| Reverse(listed.record.created));
        let wanted = self.wanted(&query.filters)?;
        let show_all = query.all || query.limit > 0 || query.filters.has("status");
        // Positions in the order of time, for `before` and `since`.
        let position = |name: &str| -> Result<usize> {
            let id = self.get(name)?.id.clone();
            all.iter()
                .position(|listed| listed.container.id == id)
                .ok_or_else(|| super::no_such_container(name))
        };
        let mut range = 0..all.len();
        for name in query.filters.get("before") {
            range.start = range.start.max(position(name)? + 1);
        }
        for name in query.filters.get("since") {
            range.end = range.end.min(position(name)?);
        }
        let ids = self.ids_with_prefixes(query.filters.get("id"));
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let chosen: Vec<&Listed> = all
            .get(range)
            .unwrap_or_default()
            .iter()
            .filter(|listed| show_all || listed.state.is_running())
            .filter(|listed| ids.as_ref().is_none_or(|ids| ids.contains(&listed.container.id)))
            .filter(|listed| wanted.accepts(listed))
            .take(limit)
            .collect();
        let mut summaries = Vec::with_capacity(chosen.len());
        let now = OffsetDateTime::now_utc();
        let links = self.link_names();
        for listed in chosen {
            let size = if query.size { Some(self.size(&listed.container).await?) } else { None };
            summaries.push(self.summary(listed, size, now, &links));
        }
        Ok(summaries)
    }

    fn wanted<'a>(&self, filters: &'a Filters) -> Result<Wanted<'a>> {
        let one_of = |name: &str, what: &str, known: &[&str]| -> Result<()> {
            match filters.get(name).iter().find(|value| !known.contains(&value.as_str())) {
                None => Ok(()),
                Some(value) => Err(Error::invalid(format!(
                    "invalid filter '{name}={value}': invalid value for {what} ({value}): must be \
                     one of {}",
                    known.join(", ")
                ))),
            }
        };
        one_of("status", "state", STATES)?;
        one_of("health", "health", HEALTHS)?;
        let exited = filters.get("exited").iter().map(|value| {
            value.parse().map_err(|error: std::num::ParseIntError| {
                Error::invalid(format!("invalid filter 'exited={value}'")).because(error)
            })
        });
        let images = filters.has("ancestor").then(|| {
            let names = filters.get("ancestor").iter();
            names.filter_map(|name| self.0.images.get(name).ok()).map(|image| image.id.clone()).collect()
        });
        let ports = |name: &str| {
            filters.get(name).iter().map(|value| PortRange::parse(name, value)).collect::<Result<_>>()
        };
        Ok(Wanted {
            filters,
            exited: exited.collect::<Result<_>>()?,
            // What is no expression is compared as it is.
            names: filters.get("name").iter().filter_map(|name| regex::Regex::new(name).ok()).collect(),
            images,
            publish: ports("publish")?,
            expose: ports("expose")?,
            task: filters.flag("is-task")?,
        })
    }

    /// The ids that each of `prefixes` alone stands for; `None` when none is given.
    fn ids_with_prefixes(&self, prefixes: &[String]) -> Option<BTreeSet<String>> {
        if prefixes.is_empty() {
            return None;
        }
        let index = self.index();
        let only = |prefix: &String| {
            let mut fitting = index.by_id.range(prefix.clone()..).map(|(id, _)| id);
            let first = fitting.next().filter(|id| id.starts_with(prefix))?;
            let another = fitting.next().is_some_and(|id| id.starts_with(prefix) && first != prefix);
            (!another && !prefix.is_empty()).then(|| first.clone())
        };
        Some(prefixes.iter().filter_map(only).collect())
    }

    /// Bytes of a container's own files, and of all it sees.
    pub(super) async fn size(&self, container: &Container) -> Result<(i64, i64)> {
        let (snapshots, id) = (self.0.snapshots.clone(), container.id.clone());
        let (own, all) = crate::blocking(move || snapshots.size(&id)).await?;
        Ok((i64::try_from(own).unwrap_or(i64::MAX), i64::try_from(all).unwrap_or(i64::MAX)))
    }

    fn summary(
        &self,
        listed: &Listed,
        size: Option<(i64, i64)>,
        now: OffsetDateTime,
        links: &BTreeMap<String, Vec<String>>,
    ) -> Summary {
        let record = &listed.record;
        Summary {
            id: record.id.clone(),
            names: {
                let links = links.get(&record.id).into_iter().flatten().cloned();
                links.chain([format!("/{}", record.name)]).collect()
            },
            image: self.image_name(record),
            image_id: record.image_id.clone(),
            command: command(record),
            created: record.created.unix_timestamp(),
            ports: listed.shown.ports(record),
            size_rw: size.map(|(own, _)| own).filter(|own| *own != 0),
            size_root_fs: size.map(|(_, all)| all).filter(|all| *all != 0),
            labels: record.config.labels.clone().unwrap_or_default(),
            state: listed.state.word().to_owned(),
            status: listed.state.sentence(now),
            host_config: SummaryHostConfig {
                network_mode: record.host_config.network_mode.clone(),
                annotations: record.host_config.annotations.clone(),
            },
            network_settings: SummaryNetworkSettings { networks: listed.shown.endpoints.clone() },
            mounts: record.mounts.iter().map(|mount| mount.point.clone()).collect(),
        }
    }

    /// The name the container was made from, unless it means another image by now.
    fn image_name(&self, record: &Record) -> String {
        let name = &record.config.image;
        match self.0.images.get(name) {
            Ok(image) if image.id == record.image_id => name.clone(),
            _ => record.image_id.clone(),
        }
    }
}

impl Wanted<'_> {
    fn accepts(&self, listed: &Listed) -> bool {
        let Listed { container: _, record, state, shown } = listed;
        let filters = self.filters;
        let slashed = format!("/{}", record.name);
        let health = state.health().map_or("none", |health| health.status().word());
        let no_labels = BTreeMap::new();
        let labels = record.config.labels.as_ref().unwrap_or(&no_labels);
        let named = filters.passes("name", |name| name == record.name || name == slashed)
            || self.names.iter().any(|name| name.is_match(&record.name) || name.is_match(&slashed));
        named
            && self.task != Some(true)
            && filters.labels("label", labels)
            && (self.exited.is_empty()
                || (!state.is_running()
                    && state.was_started()
                    && self.exited.contains(&state.exit_code().into())))
            && filters.passes("status", |status| status == state.word())
            && filters.passes("health", |wanted| wanted == health)
            && filters.passes("volume", |volume| {
                record.mounts.iter().any(|mount| {
                    let point = &mount.point;
                    let name = if point.name.is_empty() { &point.source } else { &point.name };
                    volume == point.destination || volume == name
                })
            })
            && self.images.as_ref().is_none_or(|images| images.contains(&record.image_id))
            && self.in_network(shown)
            && self.has_port(shown, record)
    }

    fn in_network(&self, shown: &Shown) -> bool {
        let endpoints = &shown.endpoints;
        self.filters.passes("network", |wanted| {
            endpoints.contains_key(wanted)
                || endpoints.values().any(|endpoint| {
                    !endpoint.network_id.is_empty() && endpoint.network_id.starts_with(wanted)
                })
        })
    }

    fn has_port(&self, shown: &Shown, record: &Record) -> bool {
        if self.publish.is_empty() && self.expose.is_empty() {
            return true;
        }
        shown.ports(record).iter().any(|port| {
            let published = port
                .public_port
                .is_some_and(|number| self.publish.iter().any(|range| range.holds(number, &port.protocol)));
            published || self.expose.iter().any(|range| range.holds(port.private_port, &port.protocol))
        })
    }
}

/// The program and its arguments in one line.
fn command(record: &Record) -> String {
    let mut command = record.path.clone();
    for argument in &record.args {
        command.push(' ');
        if argument.contains(' ') {
            command.push_str(&format!("'{argument}'"));
        } else {
            command.push_str(argument);
        }
    }
    command
}

/// `80`, `80/udp`, `8000-8010/tcp`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortRange {
    first: u16,
    last: u16,
    protocol: String,
}

impl PortRange {
    fn parse(filter: &str, text: &str) -> Result<Self> {
        if text.contains(':') {
            return Err(Error::invalid(format!("filter for '{filter}' should not contain ':': {text}")));
        }
        let wrong = |why: &str| Error::invalid(format!("error while looking up for {filter} {text}: {why}"));
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        if !matches!(protocol, "tcp" | "udp" | "sctp") {
            return Err(wrong(&format!("invalid proto: {protocol}")));
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |digits: &str| {
            digits.parse::<u16>().map_err(|error| wrong(&format!("invalid port {digits:?}: {error}")))
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(wrong("invalid range specified for port"));
        }
        Ok(Self { first, last, protocol: protocol.to_owned() })
    }

    fn holds(&self, port: u16, protocol: &str) -> bool {
        (self.first..=self.last).contains(&port) && self.protocol == protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::testing;

    fn listed(name: &str) -> Listed {
        let record = testing::record(name);
        let directory = tempfile::tempdir().unwrap();
        let container = Container::new(record, State::default(), directory.path()).unwrap();
        let endpoints = [("none".to_owned(), Default::default())].into();
        let shown = Shown { endpoints, ..Shown::default() };
        Listed { record: container.record(), state: container.state(), container, shown }
    }

    fn accepts(listed: &Listed, filters: &str) -> bool {
        let filters = Filters::parse(Some(filters), LIST_FILTERS).unwrap();
        let wanted = Wanted {
            exited: filters.get("exited").iter().map(|code| code.parse().unwrap()).collect(),
            names: filters.get("name").iter().map(|name| regex::Regex::new(name).unwrap()).collect(),
            images: None,
            publish: Vec::new(),
            expose: Vec::new(),
            task: filters.flag("is-task").unwrap(),
            filters: &filters,
        };
        wanted.accepts(listed)
    }

    #[test]
    fn filters_are_dockers() {
        let mut web = listed("web-1");
        for filters in [
            "{}",
            r#"{"name":["web"]}"#,
            r#"{"name":["^/web-\\d$"]}"#,
            r#"{"status":["created"]}"#,
            r#"{"health":["none"]}"#,
            r#"{"network":["none"]}"#,
            r#"{"is-task":["false"]}"#,
        ] {
            assert!(accepts(&web, filters), "{filters}");
        }
        for filters in [
            r#"{"name":["db"]}"#,
            r#"{"name":["^web$"]}"#,
            r#"{"status":["running"]}"#,
            r#"{"exited":["0"]}"#,
            r#"{"health":["healthy"]}"#,
            r#"{"network":["host"]}"#,
            r#"{"is-task":["true"]}"#,
            r#"{"label":["tier"]}"#,
            r#"{"volume":["/data"]}"#,
        ] {
            assert!(!accepts(&web, filters), "{filters}");
        }
        web.state.started(1);
        web.state.exited(3, OffsetDateTime::now_utc());
        assert!(accepts(&web, r#"{"exited":["3"],"status":["exited"]}"#));
        assert!(!accepts(&web, r#"{"exited":["0"]}"#));
    }

    #[test]
    fn ports_may_be_ranges() {
        let range = PortRange::parse("expose", "8000-8010/udp").unwrap();
        assert!(range.holds(8005, "udp") && !range.holds(8005, "tcp") && !range.holds(8011, "udp"));
        assert!(PortRange::parse("expose", "80").unwrap().holds(80, "tcp"));
        for text in ["80:90", "http", "90-80", "80/xyz", ""] {
            assert!(PortRange::parse("expose", text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_command_is_one_line() {
        let mut record = testing::record("web");
        record.path = "sh".to_owned();
        record.args = vec!["-c".to_owned(), "sleep 1".to_owned()];
        assert_eq!(command(&record), "sh -c 'sleep 1'");
    }
}
