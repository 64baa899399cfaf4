//! `container prune`.

use std::sync::atomic::Ordering;

use time::OffsetDateTime;
use wire::docker::container::PruneReport;

use super::{Containers, logs::moment, remove::RemoveOptions};
use crate::{
    api::filters::Filters,
    error::{Error, Result},
};

/// The filters there are.
pub(crate) const PRUNE_FILTERS: &[&str] = &["label", "label!", "until"];

impl Containers {
    /// Removes every container that does not run.
    ///
    /// # Errors
    /// A prune that is under way, and an `until` that is no time, in Docker's words.
    pub(crate) async fn prune(&self, filters: &Filters) -> Result<PruneReport> {
        let until = match filters.get("until") {
            [] => None,
            [text] => Some(parse_until(text)?),
            _ => return Err(Error::invalid("more than one until filter specified")),
        };
        if self.0.pruning.swap(true, Ordering::Acquire) {
            return Err(Error::conflict("a prune operation is already running"));
        }
        let report = self.prune_now(filters, until).await;
        self.0.pruning.store(false, Ordering::Release);
        report
    }

    async fn prune_now(&self, filters: &Filters, until: Option<moment::Nanos>) -> Result<PruneReport> {
        let mut report = PruneReport::default();
        let mut deleted = Vec::new();
        for container in self.all() {
            let record = container.record();
            let labels = record.config.labels.clone().unwrap_or_default();
            let young = until.is_some_and(|until| record.created.unix_timestamp_nanos() > i128::from(until));
            let kept = filters.has("label!") && filters.labels("label!", &labels);
            if container.state().is_running() || young || kept || !filters.labels("label", &labels) {
                continue;
            }
            let (size, _) = self.size(&container).await?;
            match self.remove(&container.id, RemoveOptions::default()).await {
                Ok(()) => {
                    report.space_reclaimed += u64::try_from(size).unwrap_or(0);
                    deleted.push(container.id.clone());
                }
                Err(error) => tracing::warn!("prune: {error}"),
            }
        }
        let reclaimed = report.space_reclaimed.to_string();
        self.0.events.emit("container", "prune", "", [("reclaimed", reclaimed)]);
        report.containers_deleted = (!deleted.is_empty()).then_some(deleted);
        Ok(report)
    }
}

/// Reads a time as `prune` takes it: a duration before now (`10m`, `1h30m`), or a moment.
pub(crate) fn parse_until(text: &str) -> Result<moment::Nanos> {
    until(text, moment::now())
}

fn until(text: &str, now: moment::Nanos) -> Result<moment::Nanos> {
    if text != "0"
        && let Some(duration) = parse_duration(text)
    {
        // Docker counts in whole seconds here.
        return Ok((now - duration).div_euclid(1_000_000_000) * 1_000_000_000);
    }
    if let Some(nanos) = crate::system::parse_timestamp(text) {
        return Ok(nanos);
    }
    // Times without a zone, or without a time of day.
    for (length, rest) in [(10, "T00:00:00Z"), (13, ":00:00Z"), (16, ":00Z"), (19, "Z")] {
        if text.len() == length
            && let Ok(time) = OffsetDateTime::parse(
                &format!("{text}{rest}"),
                &time::format_description::well_known::Rfc3339,
            )
        {
            return Ok(i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX));
        }
    }
    Err(Error::invalid(format!("failed to parse value as time or duration: {text:?}")))
}

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `300ms`. Nanoseconds.
fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if total > 9e18 {
        return None;
    }
    let total = total as i64;
    Some(if negative { -total } else { total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_duration_or_a_moment() {
        let now = 1_000_000_000_000_000_000;
        assert_eq!(until("1h30m", now).unwrap(), now - 5400 * 1_000_000_000);
        assert_eq!(until("500ms", now).unwrap(), now - 1_000_000_000);
        assert_eq!(until("1136073600", now).unwrap(), 1_136_073_600_000_000_000);
        for text in ["2006-01-01", "2006-01-01T00", "2006-01-01T00:00:00", "2006-01-01T01:00:00+01:00"] {
            assert_eq!(until(text, now).unwrap(), 1_136_073_600_000_000_000, "{text}");
        }
        for text in ["", "soon", "10", "1x", "h"] {
            let parsed = until(text, now);
            assert!(parsed.is_err() || text == "10", "{text}");
        }
    }
}
