//! How failures get from the new process to the helper: through a pipe that closes when the process
//! becomes its program.
//!
//! libcontainer tells its caller only the outermost of its errors, and logs the innermost. So the pipe
//! takes both: what it logs, and what the last steps say, which counts more.

use std::{
    fmt::Write as _,
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
};

use rustix::pipe::PipeFlags;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::error::{Context, Result};

/// The longest single message, bytes; below `PIPE_BUF`, so that messages do not mix.
const MAX_TEXT: usize = 2000;
/// The most that is logged in all, so that nobody ever waits for the pipe to be read.
const MAX_LOG: usize = 16 * 1024;
const FAILURE: u8 = b'F';
const LOGGED: u8 = b'L';

/// Where libcontainer's messages go; -1 for nowhere.
static LOG: AtomicI32 = AtomicI32::new(-1);
static LOG_ROOM: AtomicUsize = AtomicUsize::new(MAX_LOG);

/// The helper's side.
#[derive(Debug)]
pub(super) struct Messages {
    reader: File,
    /// The new process inherits it; open here until [`Messages::wait`].
    writer: Option<OwnedFd>,
    prefix: &'static str,
}

impl Messages {
    /// `prefix` goes before every failure.
    pub(super) fn open(prefix: &'static str) -> Result<Self> {
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe for messages".to_owned())?;
        LOG.store(writer.as_raw_fd(), Ordering::Relaxed);
        // It can only be set already, by ourselves.
        let _ = tracing::subscriber::set_global_default(Log);
        Ok(Self { reader: reader.into(), writer: Some(writer), prefix })
    }

    /// The number of the pipe's writing end in every process forked from here.
    pub(super) fn writer(&self) -> RawFd {
        self.writer.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Waits until nobody can say anything more: `None` if nothing failed.
    pub(super) fn wait(&mut self) -> Option<String> {
        LOG.store(-1, Ordering::Relaxed);
        self.writer = None;
        let mut bytes = Vec::new();
        // What cannot be read is not known: then libcontainer's own error has to do.
        let _ = self.reader.read_to_end(&mut bytes);
        let (mut failure, mut logged) = (None, None);
        let mut rest = bytes.as_slice();
        while let Some((kind, text, after)) = split_message(rest) {
            let found = if kind == FAILURE { &mut failure } else { &mut logged };
            // The first is the innermost.
            found.get_or_insert_with(|| String::from_utf8_lossy(text).into_owned());
            rest = after;
        }
        failure.or(logged.map(|text| readable(&text))).map(|text| format!("{}{text}", self.prefix))
    }
}

/// Says why the new process does not become its program.
pub(super) fn fail(writer: impl AsFd, text: &str) {
    write_message(writer, FAILURE, text);
}

fn write_message(writer: impl AsFd, kind: u8, text: &str) {
    let text = text.as_bytes();
    let text = text.get(..MAX_TEXT).unwrap_or(text);
    let mut message = vec![kind];
    message.extend(u16::try_from(text.len()).unwrap_or(0).to_ne_bytes());
    message.extend(text);
    // Nobody listens any more: nothing to be done.
    let _ = rustix::io::write(writer, &message);
}

fn split_message(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_ne_bytes(*length)))?;
    Some((*kind, text, rest))
}

/// A log line with the words for the error numbers it contains.
fn readable(text: &str) -> String {
    const WORDS: &[(&str, &str)] = &[
        ("ENOENT", "no such file or directory"),
        ("ENOTDIR", "not a directory"),
        ("EISDIR", "is a directory"),
        ("EACCES", "permission denied"),
        ("EPERM", "operation not permitted"),
        ("EINVAL", "invalid argument"),
        ("EBUSY", "device or resource busy"),
        ("EROFS", "read-only file system"),
        ("ENOSPC", "no space left on device"),
        ("ENODEV", "no such device"),
        ("ENOMEM", "cannot allocate memory"),
    ];
    let mut text = text.to_owned();
    for (name, words) in WORDS {
        if text.contains(name) && !text.to_lowercase().contains(words) {
            let _ = write!(text, ": {words}");
        }
    }
    text
}

/// Takes libcontainer's errors, and nothing else.
struct Log;

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let writer = LOG.load(Ordering::Relaxed);
        if writer < 0 {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}", line.message, line.fields);
        let room = LOG_ROOM.load(Ordering::Relaxed);
        if text.len() > room {
            return;
        }
        LOG_ROOM.store(room - text.len(), Ordering::Relaxed);
        // SAFETY: the pipe is open as long as its number is here, and in forked processes until they
        // become another program or end.
        let writer = unsafe { std::os::fd::BorrowedFd::borrow_raw(writer) };
        write_message(writer, LOGGED, &text);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, ": {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_last_steps_say_counts_more_than_what_is_logged() {
        let mut messages = Messages::open("prefix: ").unwrap();
        let writer = messages.writer.as_ref().unwrap();
        write_message(writer, LOGGED, "inner: Nix(ENOTDIR)");
        write_message(writer, LOGGED, "outer");
        fail(writer, &"x".repeat(MAX_TEXT + 1));
        let text = messages.wait().unwrap();
        assert_eq!(text, format!("prefix: {}", "x".repeat(MAX_TEXT)));

        let mut messages = Messages::open("").unwrap();
        write_message(messages.writer.as_ref().unwrap(), LOGGED, "inner: Nix(ENOTDIR)");
        assert_eq!(messages.wait().unwrap(), "inner: Nix(ENOTDIR): not a directory");
        assert_eq!(Messages::open("").unwrap().wait(), None);
    }

    #[test]
    fn a_torn_message_ends_the_rest() {
        assert_eq!(split_message(b"F\x05\x00ab"), None);
        assert_eq!(split_message(b""), None);
        assert_eq!(split_message(b"F\x02\x00abc"), Some((b'F', &b"ab"[..], &b"c"[..])));
    }
}
