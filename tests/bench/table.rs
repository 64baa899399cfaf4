use std::fmt::Write;
use std::time::Duration;

use serde_json::json;

/// A number with its unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value {
    pub(crate) number: f64,
    pub(crate) unit: &'static str,
}

impl Value {
    /// Milliseconds.
    pub(crate) fn time(time: Duration) -> Self {
        Self { number: time.as_secs_f64() * 1000.0, unit: "ms" }
    }

    /// Megabytes per second.
    pub(crate) fn throughput(bytes: usize, time: Duration) -> Self {
        // Figures are far below 2^53 bytes.
        Self { number: bytes as f64 / 1e6 / time.as_secs_f64(), unit: "MB/s" }
    }

    /// MiB.
    pub(crate) fn memory(bytes: u64) -> Self {
        // Figures are far below 2^53 bytes.
        Self { number: bytes as f64 / f64::from(1 << 20), unit: "MiB" }
    }
}

/// One line of the table: ours, what it is compared with, and what was promised.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) ours: Value,
    /// Whose figure is in the next column, and the figure.
    pub(crate) peer: Option<(&'static str, Value)>,
    pub(crate) limit: Option<Limit>,
    /// How many measurements the medians are of.
    pub(crate) samples: usize,
}

/// What a figure may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    Value(f64),
    /// Times the peer's figure.
    Ratio(f64),
    /// The least that it may be, rather.
    AtLeast(f64),
    /// Likewise, times the peer's figure.
    AtLeastRatio(f64),
}

impl Figure {
    fn ratio(&self) -> Option<f64> {
        self.peer.map(|(_, peer)| self.ours.number / peer.number)
    }

    fn within(&self) -> Option<bool> {
        match self.limit? {
            Limit::Value(most) => Some(self.ours.number <= most),
            Limit::Ratio(most) => Some(self.ratio()? <= most),
            Limit::AtLeast(least) => Some(self.ours.number >= least),
            Limit::AtLeastRatio(least) => Some(self.ratio()? >= least),
        }
    }
}

/// The middle one of some durations.
pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// A table in Markdown.
pub(crate) fn text(figures: &[Figure]) -> String {
    let mut text = String::from("| what | ours | peer | ratio | limit | n |\n|---|---|---|---|---|---|\n");
    for figure in figures {
        let value = |value: Value| format!("{:.1} {}", value.number, value.unit);
        let peer = figure.peer.map_or(String::new(), |(name, peer)| format!("{} ({name})", value(peer)));
        let ratio = figure.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let mark = match figure.within() {
            None => "",
            Some(true) => " ok",
            Some(false) => " MISSED",
        };
        let limit = match figure.limit {
            None => String::new(),
            Some(Limit::Value(most)) => format!("≤ {most} {}", figure.ours.unit),
            // A third has no end.
            Some(Limit::Ratio(most)) => format!("≤ {} ×", (most * 100.0).round() / 100.0),
            Some(Limit::AtLeast(least)) => format!("≥ {least} {}", figure.ours.unit),
            Some(Limit::AtLeastRatio(least)) => format!("≥ {least} ×"),
        };
        let (name, ours, samples) = (&figure.name, value(figure.ours), figure.samples);
        let _ = writeln!(text, "| {name} | {ours} | {peer} | {ratio} | {limit}{mark} | {samples} |");
    }
    text
}

/// The same for programs.
pub(crate) fn json(figures: &[Figure]) -> String {
    let rows: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name,
                "ours": figure.ours.number,
                "unit": figure.ours.unit,
                "peer": figure.peer.map(|(name, _)| name),
                "peer_value": figure.peer.map(|(_, value)| value.number),
                "ratio": figure.ratio(),
                "within_limit": figure.within(),
                "samples": figure.samples,
            })
        })
        .collect();
    serde_json::Value::from(rows).to_string()
}
