//! Container logs: what drivers and options there are, writing, and reading back.
//!
//! Both drivers that keep logs here, `json-file` and `local`, use the same files; Docker keeps those of
//! `local` in a format of its own, which is documented as private to it.

mod entry;
mod file;
pub(crate) mod moment;
mod reader;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::watch;
use wire::docker::host_config::LogConfig;

use file::Position;
pub(crate) use file::{Lines, LogFile};
pub(crate) use reader::LogQuery;
use reader::{LogReader, Progress};

use super::{Containers, record::Record};
use crate::error::{Context, Error, Result};

/// The driver of containers that name none.
pub(super) const DEFAULT_DRIVER: &str = "json-file";

/// A container whose driver keeps nothing is asked for its log.
pub(super) fn unreadable() -> Error {
    Error::not_implemented("configured logging driver does not support reading")
}

/// Drivers of Docker that send logs elsewhere.
const REMOTE_DRIVERS: &[&str] = &["awslogs", "fluentd", "gcplogs", "gelf", "journald", "splunk", "syslog"];

/// Options that any driver takes.
const COMMON_OPTIONS: &[&str] = &["mode", "max-buffer-size"];
const FILE_OPTIONS: &[&str] =
    &["max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"];
const LOCAL_OPTIONS: &[&str] = &["max-file", "max-size", "compress"];

/// Checks a container's log configuration and fills in the default driver.
///
/// # Errors
/// Unknown drivers and options, in Docker's words.
pub(super) fn validate(config: &mut LogConfig) -> Result<()> {
    if config.driver.is_empty() {
        config.driver = DEFAULT_DRIVER.to_owned();
    }
    if config.driver == "none" {
        return Ok(());
    }
    let options = &config.config;
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(Error::invalid(format!("logger: logging mode not supported: {mode}")));
    }
    if let Some(size) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return Err(Error::invalid(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ));
        }
        parse_size(size, 1024).ok_or_else(|| {
            Error::invalid(format!("error parsing option max-buffer-size: invalid size: '{size}'"))
        })?;
    }
    let driver = config.driver.as_str();
    let known = match driver {
        "json-file" => FILE_OPTIONS,
        "local" => LOCAL_OPTIONS,
        driver if REMOTE_DRIVERS.contains(&driver) => {
            return Err(Error::not_implemented(format!(
                "the log driver '{driver}' is not implemented yet; there are json-file, local and none"
            )));
        }
        driver => {
            return Err(Error::invalid(format!(
                "error looking up logging plugin {driver}: plugin {driver:?} not found"
            )));
        }
    };
    for name in options.keys() {
        if !known.contains(&name.as_str()) && !COMMON_OPTIONS.contains(&name.as_str()) {
            return Err(Error::invalid(format!("unknown log opt '{name}' for {driver} log driver")));
        }
    }
    limits(config)?;
    for name in ["labels-regex", "env-regex"] {
        if let Some(pattern) = options.get(name) {
            regex::Regex::new(pattern)
                .map_err(|error| Error::invalid(format!("invalid log opt {name}")).because(error))?;
        }
    }
    if let Some(tag) = options.get("tag") {
        expand_tag(tag, |_| Some(String::new()))?;
    }
    Ok(())
}

fn limits(config: &LogConfig) -> Result<file::Limits> {
    let local = config.driver == "local";
    let options = &config.config;
    let size = match options.get("max-size") {
        Some(text) => match parse_size(text, 1000) {
            Some(0) => return Err(Error::invalid("max-size must be a positive number")),
            Some(size) => Some(size),
            // Docker's way to say "unlimited".
            None if text == "-1" => None,
            None => return Err(Error::invalid(format!("invalid size: '{text}'"))),
        },
        None => local.then_some(20_000_000),
    };
    let files = match options.get("max-file") {
        Some(text) => match text.parse::<u32>() {
            Ok(0) => return Err(Error::invalid("max-file cannot be less than 1")),
            Ok(files) => files,
            Err(error) => {
                return Err(Error::invalid(format!("invalid max-file {text:?}")).because(error));
            }
        },
        None if local => 5,
        None => 1,
    };
    let compress = match options.get("compress").map(String::as_str) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(text) => return Err(Error::invalid(format!("invalid compress {text:?}: not a boolean"))),
        None => local,
    };
    if compress && (files == 1 || size.is_none()) {
        if options.contains_key("compress") {
            return Err(Error::invalid(
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ));
        }
        return Ok(file::Limits { size, files, compress: false });
    }
    Ok(file::Limits { size, files, compress })
}

/// Reads `20m`, `1.5 GB`: units of `base` (1000 or 1024). Bytes.
fn parse_size(text: &str, base: u64) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let unit = unit.trim_start();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let size = number * (base as f64).powi(power);
    (size.is_finite() && size < 1e18).then_some(size as u64)
}

/// The log of a container with this record; `None` for the driver `none`.
pub(super) fn open(record: &Record, directory: &Path) -> Result<Option<LogFile>> {
    let config = &record.host_config.log_config;
    if config.driver == "none" {
        return Ok(None);
    }
    let path = if config.driver == "local" {
        directory.join("local-logs").join("container.log")
    } else {
        directory.join(format!("{}-json.log", record.id))
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).context(|| format!("create {}", parent.display()))?;
    }
    Ok(Some(LogFile::new(path, limits(config)?, attributes(record)?)))
}

/// What log options say to keep with each entry, as a JSON object; empty for nothing.
fn attributes(record: &Record) -> Result<String> {
    let options = &record.host_config.log_config.config;
    let no_labels = BTreeMap::new();
    let labels = record.config.labels.as_ref().unwrap_or(&no_labels);
    let variables = || record.config.env.iter().flatten().filter_map(|variable| variable.split_once('='));
    let mut kept = BTreeMap::<String, String>::new();
    let named = |option: &str| -> Vec<String> {
        let names = options.get(option).map(String::as_str).unwrap_or_default();
        names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    for name in named("labels") {
        if let Some(value) = labels.get(&name) {
            kept.insert(name, value.clone());
        }
    }
    for name in named("env") {
        if let Some((_, value)) = variables().find(|(variable, _)| *variable == name) {
            kept.insert(name, value.to_owned());
        }
    }
    let matching = |option: &str| options.get(option).and_then(|text| regex::Regex::new(text).ok());
    if let Some(pattern) = matching("labels-regex") {
        let pairs = labels.iter().filter(|(name, _)| pattern.is_match(name));
        kept.extend(pairs.map(|(name, value)| (name.clone(), value.clone())));
    }
    if let Some(pattern) = matching("env-regex") {
        let pairs = variables().filter(|(name, _)| pattern.is_match(name));
        kept.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    if let Some(tag) = options.get("tag").filter(|tag| !tag.is_empty()) {
        let image_id = record.image_id.strip_prefix("sha256:").unwrap_or(&record.image_id);
        let short = |id: &str| id.get(..12).unwrap_or(id).to_owned();
        let tag = expand_tag(tag, |field| {
            Some(match field {
                "ID" => short(&record.id),
                "FullID" => record.id.clone(),
                "Name" => record.name.clone(),
                "ImageID" => short(image_id),
                "ImageFullID" => image_id.to_owned(),
                "ImageName" => record.config.image.clone(),
                "DaemonName" => "docker".to_owned(),
                _ => return None,
            })
        })?;
        kept.insert("tag".to_owned(), tag);
    }
    if kept.is_empty() {
        return Ok(String::new());
    }
    serde_json::to_string(&kept).context(|| "encode log attributes".to_owned())
}

/// Replaces `{{.Field}}` in a tag.
fn expand_tag(tag: &str, value: impl Fn(&str) -> Option<String>) -> Result<String> {
    let mut expanded = String::new();
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once("{{") {
        let field = after
            .split_once("}}")
            .and_then(|(field, after)| Some((value(field.trim().strip_prefix('.')?)?, after)));
        let Some((field, after)) = field else {
            return Err(Error::not_implemented(format!(
                "the log tag {tag:?}: templates beyond single fields are not implemented yet"
            )));
        };
        expanded.push_str(before);
        expanded.push_str(&field);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// A container's log on its way to a client.
pub(crate) struct Logs {
    /// The container has a terminal: entries come without headers.
    pub(crate) is_raw: bool,
    /// Pieces of some 128 KiB.
    pub(crate) pieces: futures_util::stream::BoxStream<'static, std::io::Result<Bytes>>,
}

impl Containers {
    /// Reads a container's log as a client asked. With `follow` it goes on until the container ends, or
    /// `until` passes.
    ///
    /// # Errors
    /// A container that is being removed, or whose driver keeps nothing, in Docker's words.
    pub(crate) fn logs(&self, name: &str, query: LogQuery) -> Result<Logs> {
        let container = self.get(name)?;
        if container.state().is_leaving() {
            return Err(Error::conflict(
                "can not get logs from container which is dead or marked for removal",
            ));
        }
        let log = container.log.clone().ok_or_else(unreadable)?;
        let is_raw = container.record().config.tty;
        let query = LogQuery { multiplexed: !is_raw, ..query };
        Ok(Logs { is_raw, pieces: stream(log, query, None).boxed() })
    }
}

/// What was logged up to `end`, for a client that attaches and wants the past first.
pub(super) fn replay(
    log: Arc<LogFile>,
    query: LogQuery,
    end: PastEnd,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
    stream(log, query, Some(end.0))
}

/// Where a log ended when a client attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PastEnd(Position);

impl LogFile {
    /// Where the log ends now.
    pub(crate) fn end_so_far(&self) -> PastEnd {
        PastEnd(*self.watch().borrow())
    }
}

/// A log being read.
struct Reading {
    log: Arc<LogFile>,
    query: LogQuery,
    end: Option<Position>,
    position: watch::Receiver<Position>,
    /// `None` before the first read.
    reader: Option<LogReader>,
    over: bool,
}

fn stream(
    log: Arc<LogFile>,
    query: LogQuery,
    end: Option<Position>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
    let position = log.watch();
    let reading = Reading { log, query, end, position, reader: None, over: false };
    futures_util::stream::unfold(reading, |mut reading| async move {
        match reading.next().await {
            Ok(Some(piece)) => Some((Ok(piece), reading)),
            Ok(None) => None,
            Err(error) => {
                reading.over = true;
                Some((Err(error), reading))
            }
        }
    })
}

impl Reading {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        while !self.over {
            let position = *self.position.borrow_and_update();
            let reader = self.reader.take();
            let (log, query, end) = (self.log.clone(), self.query.clone(), self.end);
            let (reader, piece, progress) = tokio::task::spawn_blocking(move || {
                let mut reader = match reader {
                    Some(reader) => reader,
                    None => LogReader::open(log, query, end)?,
                };
                let mut piece = Vec::new();
                let progress = reader.read(&mut piece, position)?;
                std::io::Result::Ok((reader, piece, progress))
            })
            .await
            .map_err(std::io::Error::other)??;
            self.reader = Some(reader);
            let follow = self.query.follow && self.end.is_none() && position.live;
            match progress {
                Progress::More => {}
                Progress::CaughtUp if follow => {
                    if piece.is_empty() {
                        self.wait().await;
                    }
                }
                Progress::CaughtUp | Progress::Over => self.over = true,
            }
            if !piece.is_empty() {
                return Ok(Some(piece.into()));
            }
        }
        Ok(None)
    }

    /// Waits until more is written, or the container ends.
    async fn wait(&mut self) {
        let Some(until) = self.query.until else {
            // The log lives as long as `self.log`.
            let _ = self.position.changed().await;
            return;
        };
        let left = u64::try_from(until.saturating_sub(moment::now())).unwrap_or(0);
        let deadline = tokio::time::sleep(std::time::Duration::from_nanos(left));
        tokio::select! {
            _ = self.position.changed() => {}
            () = deadline => self.over = true,
        }
    }
}

#[cfg(test)]
mod tests;
