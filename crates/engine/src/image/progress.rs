//! What long work tells its client, line by line, in Docker's form.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::mpsc;
use wire::docker::image::{Progress as Line, ProgressDetail, ProgressError};

use crate::error::{Error, Kind};

/// How many lines may wait for a slow client.
const BACKLOG: usize = 64;
/// How often a transfer is reported.
const EVERY: Duration = Duration::from_millis(100);

/// Where progress goes. Clones go to the same client.
#[derive(Debug, Clone)]
pub(crate) struct Progress(mpsc::Sender<Bytes>);

/// The lines, for the body of an answer.
pub(crate) type Updates = mpsc::Receiver<Bytes>;

impl Progress {
    pub(crate) fn new() -> (Self, Updates) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), receiver)
    }

    /// Returns when the client is gone.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }

    /// Whether the client is gone: work for it is in vain.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the client takes the line. One that is gone gets nothing, which is no error here.
    async fn send(&self, line: &Line) {
        let _ = self.0.send(encode(line)).await;
    }

    /// A line about the whole.
    pub(crate) async fn status(&self, status: impl Into<String>) {
        self.send(&Line { status: Some(status.into()), ..Line::default() }).await;
    }

    /// A line about a reference: "Pulling from …".
    pub(crate) async fn status_of(&self, id: &str, status: impl Into<String>) {
        let line = Line { status: Some(status.into()), id: Some(id.to_owned()), ..Line::default() };
        self.send(&line).await;
    }

    /// What becomes of a layer.
    pub(crate) async fn layer(&self, id: &str, status: &str) {
        self.send(&layer_line(id, status)).await;
    }

    /// A line as load writes them, from a thread that may block.
    pub(crate) fn stream_blocking(&self, text: impl Into<String>) {
        let line = Line { stream: Some(text.into()), ..Line::default() };
        let _ = self.0.blocking_send(encode(&line));
    }

    /// Reports a transfer of `total` bytes (0: nobody knows) about the layer `id`.
    pub(crate) fn transfer(&self, id: &str, status: &'static str, total: u64) -> Transfer {
        Transfer { progress: self.clone(), id: id.to_owned(), status, total, told: Mutex::new((0, None)) }
    }
}

/// How far one transfer is. Told now and then; a line that the client has no room for is left out.
#[derive(Debug)]
pub(crate) struct Transfer {
    progress: Progress,
    id: String,
    status: &'static str,
    total: u64,
    told: Mutex<(u64, Option<Instant>)>,
}

impl Transfer {
    /// `bytes` more are done.
    pub(crate) fn advance(&self, bytes: u64) {
        let Ok(mut told) = self.told.lock() else { return };
        told.0 = told.0.saturating_add(bytes);
        let current = told.0;
        if current != self.total && told.1.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        told.1 = Some(Instant::now());
        drop(told);
        let line = Line {
            status: Some(self.status.to_owned()),
            detail: Some(ProgressDetail {
                current: Some(current),
                total: (self.total > 0).then_some(self.total),
            }),
            progress: Some(bar(current, self.total)),
            id: Some(self.id.clone()),
            ..Line::default()
        };
        let _ = self.progress.0.try_send(encode(&line));
    }

    /// Whether the client is gone.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.progress.is_closed()
    }
}

/// A reader that tells how far it is, and ends when the client is gone.
#[derive(Debug)]
pub(crate) struct Told<R> {
    pub(crate) source: R,
    pub(crate) transfer: Transfer,
}

impl<R: std::io::Read> std::io::Read for Told<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.transfer.is_cancelled() {
            return Err(std::io::Error::other(Cancelled));
        }
        let count = self.source.read(buffer)?;
        self.transfer.advance(count as u64);
        Ok(count)
    }
}

/// The client went away.
#[derive(Debug, thiserror::Error)]
#[error("context canceled")]
pub(crate) struct Cancelled;

impl From<Cancelled> for Error {
    fn from(cancelled: Cancelled) -> Self {
        Self::new(Kind::System, cancelled.to_string())
    }
}

/// The last line of a stream that failed.
pub(crate) fn error_line(error: &Error) -> Bytes {
    let message = error.to_string();
    encode(&Line {
        error_detail: Some(ProgressError { message: message.clone() }),
        error: Some(message),
        ..Line::default()
    })
}

fn layer_line(id: &str, status: &str) -> Line {
    Line {
        status: Some(status.to_owned()),
        detail: Some(ProgressDetail::default()),
        id: Some(id.to_owned()),
        ..Line::default()
    }
}

fn encode(line: &Line) -> Bytes {
    let mut bytes = serde_json::to_vec(line).unwrap_or_default();
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

/// `[=====>      ]  36.45kB/1.08MB`, for clients that draw nothing themselves.
fn bar(current: u64, total: u64) -> String {
    if total == 0 {
        return format!("{:>8}", human_size(current));
    }
    let half_percent = u128::from(current) * 50 / u128::from(total);
    let done = usize::try_from(half_percent).unwrap_or(50).min(50);
    format!(
        "[{}>{}] {:>8}/{}",
        "=".repeat(done),
        " ".repeat(50 - done),
        human_size(current),
        human_size(total)
    )
}

/// Four significant digits and a decimal unit, as Docker shows sizes.
fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= 1000.0 && unit < UNITS.len() - 1 {
        size /= 1000.0;
        unit += 1;
    }
    let decimals = match size {
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        _ => 3,
    };
    let digits = format!("{size:.decimals$}");
    format!("{}{}", digits.trim_end_matches('0').trim_end_matches('.'), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(updates: &mut Updates) -> String {
        String::from_utf8(updates.try_recv().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn lines_are_dockers() {
        let (progress, mut updates) = Progress::new();
        assert_eq!(
            encode(&layer_line("510af3654b88", "Pulling fs layer")),
            "{\"status\":\"Pulling fs layer\",\"progressDetail\":{},\"id\":\"510af3654b88\"}\r\n"
        );
        progress.stream_blocking("Loaded image: a:1\n");
        assert_eq!(text(&mut updates), "{\"stream\":\"Loaded image: a:1\\n\"}\r\n");
        let error = Error::not_found("gone");
        assert_eq!(error_line(&error), "{\"errorDetail\":{\"message\":\"gone\"},\"error\":\"gone\"}\r\n");
    }

    #[test]
    fn the_bar_and_the_sizes_are_dockers() {
        assert_eq!(
            bar(36_445, 1_080_190),
            "[=>                                                 ]  36.45kB/1.08MB"
        );
        assert_eq!(bar(96, 96), "[==================================================>]      96B/96B");
        assert_eq!(bar(32_768, 0), " 32.77kB");
        assert_eq!(human_size(0), "0B");
        assert_eq!(human_size(1000), "1kB");
        assert_eq!(human_size(123_456_789), "123.5MB");
    }

    #[test]
    fn a_transfer_is_told_at_its_begin_and_end_not_at_every_byte() {
        let (progress, mut updates) = Progress::new();
        let transfer = progress.transfer("a", "Downloading", 1000);
        for _ in 0..1000 {
            transfer.advance(1);
        }
        let mut lines = Vec::new();
        while let Ok(line) = updates.try_recv() {
            lines.push(String::from_utf8(line.to_vec()).unwrap());
        }
        assert!(lines.len() < 100, "{}", lines.len());
        assert!(lines[0].contains("\"current\":1,"), "{}", lines[0]);
        assert!(lines.last().unwrap().contains("\"current\":1000,\"total\":1000"));
    }

    #[test]
    fn a_slow_client_loses_updates_and_holds_up_nobody() {
        let (progress, updates) = Progress::new();
        let transfer = progress.transfer("a", "Downloading", 1);
        for _ in 0..BACKLOG * 2 {
            transfer.advance(0);
            transfer.advance(1);
        }
        assert!(!transfer.is_cancelled());
        drop(updates);
        assert!(transfer.is_cancelled());
    }
}
