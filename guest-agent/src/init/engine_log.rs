//! The engine's messages: passed on to the console, and the last of them kept for whoever asks why it
//! died.
//!
//! One pipe serves every engine that is ever started, because helpers of a dead one may still hold it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// What is kept: enough for a panic with its message and location.
const KEPT_LINES: usize = 12;
const MAX_LINE: usize = 400;

/// Starts a line that PID 1 writes into the pipe itself: all before it has been read.
const MARK: &[u8] = b"\0read up to here";

/// How long to wait for the mark: the reader may be held up by a slow console.
const MARK_PATIENCE: Duration = Duration::from_secs(2);

/// Where an engine writes its messages.
pub(crate) struct EngineLog {
    writer: PipeWriter,
    reached: Mutex<Receiver<Vec<String>>>,
}

impl EngineLog {
    /// Starts the thread that reads, and passes on to `console`.
    pub(crate) fn start(console: Option<File>) -> io::Result<EngineLog> {
        let (reader, writer) = io::pipe()?;
        let (sender, reached) = channel();
        thread::Builder::new().name("engine-log".to_owned()).spawn(move || read(reader, console, &sender))?;
        Ok(EngineLog { writer, reached: Mutex::new(reached) })
    }

    /// The pipe's writing end, for a new engine's standard error.
    pub(crate) fn writer(&self) -> io::Result<PipeWriter> {
        self.writer.try_clone()
    }

    /// The last lines written up to now.
    pub(crate) fn last_lines(&self) -> Vec<String> {
        let mark = [b"\n", MARK, b"\n"].concat();
        let written = (&self.writer).write_all(&mark);
        let reached = self.reached.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match written {
            Ok(()) => reached.recv_timeout(MARK_PATIENCE).unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }
}

fn read(reader: PipeReader, console: Option<File>, reached: &Sender<Vec<String>>) {
    let mut reader = BufReader::new(reader);
    let mut kept = VecDeque::with_capacity(KEPT_LINES);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Lines longer than a buffer are passed on in pieces.
        let longest = reader.capacity() as u64;
        match (&mut reader).take(longest).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => return tracing::error!("cannot read the engine's messages: {error}"),
        }
        if line.starts_with(MARK) {
            let _ = reached.send(kept.drain(..).collect());
            continue;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Some(mut console) = console.as_ref() {
            // A console that fails has nobody to tell.
            let _ = console.write_all(&line);
        }
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        kept.push_back(text.chars().take(MAX_LINE).collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_those_written_before_asking() {
        let log = EngineLog::start(None).unwrap();
        let mut engine = log.writer().unwrap();
        for number in 0..100 {
            engine.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        engine.write_all(b"cut").unwrap();
        let last = log.last_lines();
        assert_eq!(last.len(), KEPT_LINES);
        assert_eq!(last.last().map(String::as_str), Some("cut"));
        assert_eq!(last.first().map(String::as_str), Some("line 89"));
        assert_eq!(log.last_lines(), Vec::<String>::new(), "told once");
    }

    #[test]
    fn an_endless_line_does_not_grow() {
        let log = EngineLog::start(None).unwrap();
        let mut engine = log.writer().unwrap();
        engine.write_all(&vec![b'x'; 1 << 20]).unwrap();
        for line in log.last_lines() {
            assert!(line.len() <= MAX_LINE);
        }
    }
}
