//! How a failure gets from the new process to the helper: through a pipe that closes when the process
//! becomes its program.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
};

use rustix::pipe::PipeFlags;

use crate::error::{Context, Result};

/// The longest text, bytes; below `PIPE_BUF`, so that nobody ever waits for the pipe to be read.
const MAX_TEXT: usize = 4000;

/// The helper's side.
#[derive(Debug)]
pub(super) struct Messages {
    reader: File,
    /// The new process inherits it; open here until [`Messages::wait`].
    writer: Option<OwnedFd>,
    prefix: &'static str,
}

impl Messages {
    /// `prefix` goes before the failure.
    pub(super) fn open(prefix: &'static str) -> Result<Self> {
        let (reader, writer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(|| "make a pipe for messages".to_owned())?;
        Ok(Self { reader: reader.into(), writer: Some(writer), prefix })
    }

    /// The number of the pipe's writing end in every process forked from here.
    pub(super) fn writer(&self) -> RawFd {
        self.writer.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Waits until nobody can say anything more: `None` if nothing failed.
    pub(super) fn wait(mut self) -> Option<String> {
        self.writer = None;
        let mut text = Vec::new();
        // What cannot be read is not known.
        let _ = self.reader.read_to_end(&mut text);
        (!text.is_empty()).then(|| format!("{}{}", self.prefix, String::from_utf8_lossy(&text)))
    }
}

/// Says why the new process does not become its program.
pub(super) fn fail(writer: impl AsFd, text: &str) {
    let text = text.as_bytes();
    // Nobody listens any more: nothing to be done.
    let _ = rustix::io::write(writer, text.get(..MAX_TEXT).unwrap_or(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_and_cut() {
        let messages = Messages::open("prefix: ").unwrap();
        fail(messages.writer.as_ref().unwrap(), &"x".repeat(MAX_TEXT + 1));
        assert_eq!(messages.wait().unwrap(), format!("prefix: {}", "x".repeat(MAX_TEXT)));
        assert_eq!(Messages::open("prefix: ").unwrap().wait(), None);
    }
}
