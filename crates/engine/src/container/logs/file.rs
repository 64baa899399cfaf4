//! A container's log on disk: one file that is written, and older ones it was rotated to.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use tokio::sync::watch;

use super::{entry, moment};
use crate::container::streams::Source;

/// When the file is rotated and what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes after which the file is rotated; `None` for never.
    pub(super) size: Option<u64>,
    /// How many files there may be, at least 1.
    pub(super) files: u32,
    /// Rotated files are compressed by gzip.
    pub(super) compress: bool,
}

/// A container's log. Many threads may write and read it.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    limits: Limits,
    /// The JSON object kept with each entry, or nothing.
    attributes: String,
    writing: Mutex<Writing>,
    position: watch::Sender<Position>,
    /// The latest write failed: it was told, and is not told again until one succeeds.
    failing: AtomicBool,
}

/// How far a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// How often the file was rotated since the engine started.
    pub(super) rotation: u64,
    /// Bytes in the current file.
    pub(super) size: u64,
    /// A container runs that may write more.
    pub(super) live: bool,
}

/// What the writer needs; reading files by name needs the lock as well, as rotation renames them.
#[derive(Debug, Default)]
struct Writing {
    file: Option<File>,
    /// Compresses the file rotated last.
    compressing: Option<JoinHandle<()>>,
    /// Kept between chunks, so that a busy log allocates once.
    buffer: Vec<u8>,
}

/// The entries of one stream, cut at newlines and at [`entry::LONGEST`] bytes.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The start of a line whose end has not come yet.
    pending: Vec<u8>,
}

/// A buffer larger than this is not kept while a log is quiet.
const KEPT_BUFFER: usize = 512 * 1024;

impl LogFile {
    pub(super) fn new(path: PathBuf, limits: Limits, attributes: String) -> Self {
        let position = watch::Sender::new(Position { rotation: 0, size: 0, live: false });
        let failing = AtomicBool::new(false);
        Self { path, limits, attributes, writing: Mutex::default(), position, failing }
    }

    /// Where the current file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A container begins to write.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut writing = self.lock();
        if writing.file.is_none() {
            let (file, size) = self.open()?;
            writing.file = Some(file);
            self.position.send_modify(|position| position.size = size);
        }
        self.position.send_modify(|position| position.live = true);
        Ok(())
    }

    /// The container ended: who follows the log has seen all of it.
    pub(crate) fn end(&self) {
        let mut writing = self.lock();
        writing.file = None;
        writing.buffer = Vec::new();
        self.position.send_modify(|position| position.live = false);
    }

    /// Writes the lines that `chunk`, just read from `source`, completes. May block on the disk. A
    /// container goes on when its log cannot be written: that is only told.
    pub(crate) fn write(&self, source: Source, lines: &mut Lines, chunk: &[u8]) {
        let written = self.append(|out, attributes, time| lines.push(out, source, attributes, time, chunk));
        self.tell(written);
    }

    /// The stream ended: writes the line that has no newline.
    pub(crate) fn finish(&self, source: Source, lines: &mut Lines) {
        if lines.pending.is_empty() {
            return;
        }
        let written = self.append(|out, attributes, time| {
            entry::write(out, &lines.pending, false, source, attributes, time);
            lines.pending = Vec::new();
        });
        self.tell(written);
    }

    fn tell(&self, written: io::Result<()>) {
        let failed_before = self.failing.swap(written.is_err(), Ordering::Relaxed);
        if let Err(error) = written
            && !failed_before
        {
            tracing::error!("write {}: {error}; output is lost", self.path.display());
        }
    }

    fn append(&self, format: impl FnOnce(&mut Vec<u8>, &str, &str)) -> io::Result<()> {
        let time = moment::text(moment::now());
        let mut writing = self.lock();
        let mut buffer = std::mem::take(&mut writing.buffer);
        buffer.clear();
        format(&mut buffer, &self.attributes, &time);
        let result = self.write_entries(&mut writing, &buffer);
        if buffer.capacity() <= KEPT_BUFFER {
            writing.buffer = buffer;
        }
        result
    }

    fn write_entries(&self, writing: &mut Writing, entries: &[u8]) -> io::Result<()> {
        let mut rest = entries;
        while !rest.is_empty() {
            let size = self.position.borrow().size;
            let mut cut = rest.len();
            if let Some(limit) = self.limits.size {
                if size >= limit {
                    self.rotate(writing)?;
                    continue;
                }
                // Up to the end of the entry that reaches the limit.
                let room = usize::try_from(limit - size).unwrap_or(usize::MAX);
                if room < rest.len() {
                    let from = room.saturating_sub(1);
                    cut = memchr::memchr(b'\n', &rest[from..]).map_or(rest.len(), |at| from + at + 1);
                }
            }
            let file = match &mut writing.file {
                Some(file) => file,
                // A stream that outlived its container: slow clients held it up.
                None => {
                    let (file, size) = self.open()?;
                    self.position.send_modify(|position| position.size = size);
                    writing.file.insert(file)
                }
            };
            if let Err(error) = file.write_all(&rest[..cut]) {
                // A part may be written: opening the file again ends that entry.
                writing.file = None;
                return Err(error);
            }
            self.position.send_modify(|position| position.size += cut as u64);
            rest = &rest[cut..];
        }
        if !self.position.borrow().live {
            writing.file = None;
        }
        Ok(())
    }

    /// Opens the current file. An entry that a crash cut short is ended, so that the next one is whole.
    fn open(&self) -> io::Result<(File, u64)> {
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).mode(0o640).open(&self.path)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(size - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok((file, size))
    }

    /// Moves every file one place on and begins an empty one.
    fn rotate(&self, writing: &mut Writing) -> io::Result<()> {
        if let Some(thread) = writing.compressing.take() {
            // It is the file before this one; a panic there has left it uncompressed.
            let _ = thread.join();
        }
        if self.limits.files < 2 {
            remove(&self.path)?;
        } else {
            for compressed in [false, true] {
                remove(&self.rotated(self.limits.files - 1, compressed))?;
                for number in (1..self.limits.files - 1).rev() {
                    rename(&self.rotated(number, compressed), &self.rotated(number + 1, compressed))?;
                }
            }
            rename(&self.path, &self.rotated(1, false))?;
            if self.limits.compress {
                let (from, to) = (self.rotated(1, false), self.rotated(1, true));
                let thread = std::thread::Builder::new().name("log-gzip".to_owned());
                writing.compressing = thread
                    .spawn(move || {
                        if let Err(error) = compress(&from, &to) {
                            tracing::warn!("compress {}: {error}", from.display());
                        }
                    })
                    .ok();
            }
        }
        writing.file = Some(self.open()?.0);
        self.position.send_modify(|position| {
            position.rotation += 1;
            position.size = 0;
        });
        Ok(())
    }

    fn rotated(&self, number: u32, compressed: bool) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        if compressed {
            path.push(".gz");
        }
        path.into()
    }

    /// Opens every file, the oldest first, and says how far the last one is written.
    pub(super) fn open_all(&self) -> io::Result<(Vec<Part>, Position)> {
        let _writing = self.lock();
        let mut parts = Vec::new();
        for number in (0..self.limits.files).rev() {
            parts.extend(self.open_part(number)?);
        }
        let mut position = *self.position.borrow();
        if let Some(Part::Plain(file)) = parts.last() {
            // Nobody may have written since the engine started.
            position.size = file.metadata()?.len();
        }
        Ok((parts, position))
    }

    /// Opens the file that was begun by `rotation`; `None` when it is gone already.
    pub(super) fn open_rotation(&self, rotation: u64) -> io::Result<Option<Part>> {
        let _writing = self.lock();
        let age = self.position.borrow().rotation.saturating_sub(rotation);
        match u32::try_from(age) {
            Ok(number) if number < self.limits.files => self.open_part(number),
            _ => Ok(None),
        }
    }

    fn open_part(&self, number: u32) -> io::Result<Option<Part>> {
        if number == 0 {
            return Ok(open(&self.path)?.map(Part::Plain));
        }
        // While it is compressed the plain one is whole.
        if let Some(file) = open(&self.rotated(number, false))? {
            return Ok(Some(Part::Plain(file)));
        }
        Ok(open(&self.rotated(number, true))?.map(Part::Compressed))
    }

    pub(super) fn watch(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One file of a log.
#[derive(Debug)]
pub(super) enum Part {
    Plain(File),
    Compressed(File),
}

impl Lines {
    fn push(&mut self, out: &mut Vec<u8>, source: Source, attributes: &str, time: &str, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let room = entry::LONGEST - self.pending.len();
            // A line that fills an entry exactly ends with it, as in Docker: its newline may be the
            // byte after the room.
            let newline = memchr::memchr(b'\n', &rest[..rest.len().min(room + 1)]);
            let (text, ended, used) = match newline {
                Some(at) => (&rest[..at], true, at + 1),
                None if rest.len() > room => (&rest[..room], false, room),
                None => {
                    self.pending.extend_from_slice(rest);
                    return;
                }
            };
            if self.pending.is_empty() {
                entry::write(out, text, ended, source, attributes, time);
            } else {
                self.pending.extend_from_slice(text);
                entry::write(out, &self.pending, ended, source, attributes, time);
                self.pending.clear();
            }
            rest = &rest[used..];
        }
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces `from` by its compressed form; at any instant one of the two is whole.
fn compress(from: &Path, to: &Path) -> io::Result<()> {
    let beside = to.with_extension("gz.new");
    let mut output = flate2::write::GzEncoder::new(File::create(&beside)?, flate2::Compression::default());
    io::copy(&mut File::open(from)?, &mut output)?;
    output.finish()?;
    fs::rename(&beside, to)?;
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(path: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn log(directory: &Path, limits: Limits) -> LogFile {
        LogFile::new(directory.join("log"), limits, String::new())
    }

    const UNLIMITED: Limits = Limits { size: None, files: 1, compress: false };

    #[test]
    fn chunks_become_lines() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path(), UNLIMITED);
        log.begin().unwrap();
        let mut lines = Lines::default();
        for chunk in ["one\ntw", "o", "\n\nthr", "ee"] {
            log.write(Source::Stdout, &mut lines, chunk.as_bytes());
        }
        log.finish(Source::Stdout, &mut lines);
        let texts: Vec<_> =
            entries(log.path()).iter().map(|entry| entry["log"].as_str().unwrap().to_owned()).collect();
        assert_eq!(texts, ["one\n", "two\n", "\n", "three"]);
    }

    #[test]
    fn long_lines_are_cut_and_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for length in [entry::LONGEST - 1, entry::LONGEST, entry::LONGEST + 1, 3 * entry::LONGEST + 5] {
            let log = LogFile::new(directory.path().join(length.to_string()), UNLIMITED, String::new());
            log.begin().unwrap();
            let mut lines = Lines::default();
            let mut text = "x".repeat(length);
            text.push('\n');
            for chunk in text.as_bytes().chunks(5000) {
                log.write(Source::Stdout, &mut lines, chunk);
            }
            let entries = entries(log.path());
            assert_eq!(entries.len(), length.div_ceil(entry::LONGEST), "{length}");
            let joined: String = entries.iter().map(|entry| entry["log"].as_str().unwrap()).collect();
            assert_eq!(joined, text);
        }
    }

    #[test]
    fn rotation_keeps_as_many_files_as_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path(), Limits { size: Some(100), files: 3, compress: false });
        log.begin().unwrap();
        let mut lines = Lines::default();
        for number in 0..10 {
            let line = format!("line {number:050}\n");
            log.write(Source::Stdout, &mut lines, line.as_bytes());
        }
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        let last = entries(log.path());
        assert!(last.last().unwrap()["log"].as_str().unwrap().ends_with("9\n"));
    }

    #[test]
    fn rotated_files_are_compressed() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path(), Limits { size: Some(1), files: 2, compress: true });
        log.begin().unwrap();
        for text in ["one\n", "two\n", "three\n"] {
            log.write(Source::Stdout, &mut Lines::default(), text.as_bytes());
        }
        log.lock().compressing.take().unwrap().join().unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(File::open(log.rotated(1, true)).unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(text.contains("two"), "{text}");
        assert!(!log.rotated(1, false).exists());
    }

    #[test]
    fn an_entry_cut_short_by_a_crash_does_not_spoil_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let log = log(directory.path(), UNLIMITED);
        fs::write(log.path(), b"{\"log\":\"tor").unwrap();
        log.begin().unwrap();
        log.write(Source::Stdout, &mut Lines::default(), b"whole\n");
        let text = fs::read_to_string(log.path()).unwrap();
        let parsed: Vec<_> = text.lines().map(|line| entry::parse(line.as_bytes())).collect();
        assert_eq!(parsed.len(), 2);
        assert!(parsed[0].is_none() && parsed[1].is_some());
    }
}
