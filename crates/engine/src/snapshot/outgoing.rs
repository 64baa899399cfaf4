use std::io::{self, Write};

use bytes::Bytes;
use tokio::sync::mpsc;

/// Bytes handed at once to the connection, and how many of these may wait.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;

/// An archive on its way to a client.
pub(crate) type ArchiveStream = mpsc::Receiver<io::Result<Bytes>>;

/// Collects bytes into chunks for the connection. Writing blocks while the client is slow, and fails when
/// it has left.
pub(crate) struct Outgoing {
    sender: mpsc::Sender<io::Result<Bytes>>,
    chunk: Vec<u8>,
}

impl Outgoing {
    pub(crate) fn new() -> (Self, ArchiveStream) {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        (Self { sender, chunk: Vec::new() }, receiver)
    }

    /// Breaks the answer off, so that the client sees that something is missing.
    pub(crate) fn fail(self, error: io::Error) {
        // A client that has left needs no telling.
        let _ = self.sender.blocking_send(Err(error));
    }
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK * 2));
        if chunk.is_empty() {
            return Ok(());
        }
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(Ok(chunk.into())).map_err(gone)
    }
}
