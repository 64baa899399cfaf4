//! Reading a log back: from where, until when, which streams, and in what form.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    sync::Arc,
};

use super::{
    entry::{self, Entry},
    file::{LogFile, Part, Position},
    moment::{self, Nanos},
};
use crate::container::{multiplex, streams::Source};

/// What a client wants of a log.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogQuery {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    /// Shows the attributes that log options asked to keep.
    pub(crate) details: bool,
    /// How many of the latest lines; `None` for all.
    pub(crate) tail: Option<u64>,
    pub(crate) since: Option<Nanos>,
    pub(crate) until: Option<Nanos>,
    /// Each entry gets the header that tells standard output and error apart.
    pub(crate) multiplexed: bool,
}

/// Reads one log for one client. It blocks on the disk, and holds one block and one entry in memory.
#[derive(Debug)]
pub(super) struct LogReader {
    log: Arc<LogFile>,
    query: LogQuery,
    parts: VecDeque<Opened>,
    /// Which rotation the last of `parts` was begun by.
    rotation: u64,
    /// The rotation after which nothing is read; `None` to go on for ever.
    newest: Option<u64>,
    /// What was read of an entry whose end was not.
    partial: Vec<u8>,
    /// For each stream, whether the entry before was the start of the same line.
    continued: [bool; 2],
    /// Entries later than `until` were seen.
    over: bool,
    scratch: Vec<u8>,
}

/// Whether there is more to read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    /// Everything that is written was read.
    CaughtUp,
    /// Nothing that is written later can be wanted.
    Over,
}

#[derive(Debug)]
enum Opened {
    Plain { file: File, offset: u64, end: Option<u64> },
    Compressed { decoder: Box<flate2::read::MultiGzDecoder<File>>, skip: u64 },
}

/// How much is read at once, in bytes.
const BLOCK: usize = 128 * 1024;
/// The longest line of a file that can be an entry: every byte escaped, and room for attributes.
const LONGEST_ENTRY: usize = 1024 * 1024;

impl LogReader {
    /// Opens the log for `query`. With `end`, stops there even when more is written.
    pub(super) fn open(log: Arc<LogFile>, query: LogQuery, end: Option<Position>) -> io::Result<Self> {
        let (parts, position) = log.open_all()?;
        let mut parts = place(parts, query.tail)?;
        // Whoever does not follow gets what is there now, however much is written meanwhile.
        let end = end.or((!query.follow).then_some(position));
        if let Some(end) = end
            && end.rotation == position.rotation
            && let Some(Opened::Plain { end: part_end, .. }) = parts.back_mut()
        {
            *part_end = Some(end.size);
        }
        Ok(Self {
            log,
            query,
            parts,
            rotation: position.rotation,
            newest: end.map(|end| end.rotation),
            partial: Vec::new(),
            continued: [false; 2],
            over: false,
            scratch: Vec::new(),
        })
    }

    /// Appends wanted entries to `out` until it holds about `BLOCK` bytes.
    pub(super) fn read(&mut self, out: &mut Vec<u8>, position: Position) -> io::Result<Progress> {
        let newest = self.newest.unwrap_or(u64::MAX).max(self.rotation);
        let position = Position { rotation: position.rotation.min(newest), ..position };
        let mut block = vec![0; BLOCK];
        while out.len() < BLOCK {
            let Some(part) = self.parts.front_mut() else {
                if self.rotation >= position.rotation && !self.reopen()? {
                    return Ok(Progress::CaughtUp);
                }
                if self.parts.is_empty() && !self.next_rotation(position)? {
                    return Ok(Progress::CaughtUp);
                }
                continue;
            };
            let read = part.read(&mut block)?;
            if read > 0 {
                self.take(&block[..read], out);
                if self.over {
                    return Ok(Progress::Over);
                }
                continue;
            }
            // The current file may grow; one that was rotated away does not.
            if self.parts.len() == 1 && self.rotation >= position.rotation {
                return Ok(Progress::CaughtUp);
            }
            self.parts.pop_front();
            self.partial.clear();
        }
        Ok(Progress::More)
    }

    /// Opens the current file, which did not exist before.
    fn reopen(&mut self) -> io::Result<bool> {
        let part = self.log.open_rotation(self.rotation)?;
        let found = part.is_some();
        self.parts.extend(part.map(Opened::from_start));
        Ok(found)
    }

    /// Goes on to the oldest file that was begun after the one read last.
    fn next_rotation(&mut self, position: Position) -> io::Result<bool> {
        while self.rotation < position.rotation {
            self.rotation += 1;
            if let Some(part) = self.log.open_rotation(self.rotation)? {
                self.parts.push_back(Opened::from_start(part));
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes the entries out of `block`, which goes on where the last one ended.
    fn take(&mut self, block: &[u8], out: &mut Vec<u8>) {
        let mut rest = block;
        if !self.partial.is_empty() {
            let Some(at) = memchr::memchr(b'\n', rest) else { return self.keep(rest) };
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&rest[..at]);
            self.line(&line, out);
            line.clear();
            self.partial = line;
            rest = &rest[at + 1..];
        }
        while !self.over
            && let Some(at) = memchr::memchr(b'\n', rest)
        {
            self.line(&rest[..at], out);
            rest = &rest[at + 1..];
        }
        self.keep(rest);
    }

    fn keep(&mut self, rest: &[u8]) {
        if self.partial.len() + rest.len() <= LONGEST_ENTRY {
            self.partial.extend_from_slice(rest);
        }
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = entry::parse(line) else { return };
        let stream = match entry.source {
            Source::Stdout => 0,
            Source::Stderr => 1,
        };
        let continues = std::mem::replace(&mut self.continued[stream], !entry.ends_line());
        if self.query.since.is_some() || self.query.until.is_some() {
            let Some(time) = moment::parse(entry.time) else { return };
            if self.query.until.is_some_and(|until| time > until) {
                self.over = true;
                return;
            }
            if self.query.since.is_some_and(|since| time < since) {
                return;
            }
        }
        let wanted = match entry.source {
            Source::Stdout => self.query.stdout,
            Source::Stderr => self.query.stderr,
        };
        if wanted {
            self.format(&entry, continues, out);
        }
    }

    fn format(&mut self, entry: &Entry<'_>, continues: bool, out: &mut Vec<u8>) {
        let header = out.len();
        if self.query.multiplexed {
            out.extend_from_slice(&[0; multiplex::HEADER]);
        }
        let start = out.len();
        // The rest of a long line follows its start without a break.
        if !continues {
            if self.query.timestamps {
                moment::write_fixed(out, entry.time);
                out.push(b' ');
            }
            if self.query.details {
                if let Some(attributes) = entry.attributes {
                    write_details(out, attributes);
                }
                out.push(b' ');
            }
        }
        if memchr::memchr(b'\\', entry.text).is_none() {
            out.extend_from_slice(entry.text);
        } else {
            self.scratch.clear();
            entry::unescape(&mut self.scratch, entry.text);
            out.extend_from_slice(&self.scratch);
        }
        if self.query.multiplexed {
            let length = out.len() - start;
            out[header..start].copy_from_slice(&multiplex::header(entry.source, length));
        }
    }
}

/// `a=b,c=d`, sorted and URL-encoded, from a JSON object.
fn write_details(out: &mut Vec<u8>, attributes: &[u8]) {
    let Ok(attributes) = serde_json::from_slice::<std::collections::BTreeMap<String, String>>(attributes)
    else {
        return;
    };
    // `a=b&c=d` without the `&`: those inside keys and values are encoded.
    if let Ok(text) = serde_urlencoded::to_string(attributes) {
        out.extend(text.bytes().map(|byte| if byte == b'&' { b',' } else { byte }));
    }
}

impl Opened {
    fn from_start(part: Part) -> Self {
        match part {
            Part::Plain(file) => Self::Plain { file, offset: 0, end: None },
            Part::Compressed(file) => {
                let decoder = Box::new(flate2::read::MultiGzDecoder::new(file));
                Self::Compressed { decoder, skip: 0 }
            }
        }
    }

    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain { file, offset, end } => {
                let left = end.map_or(u64::MAX, |end| end.saturating_sub(*offset));
                let room = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
                let read = file.read_at(&mut block[..room], *offset)?;
                *offset += read as u64;
                Ok(read)
            }
            Self::Compressed { decoder, skip } => {
                while *skip > 0 {
                    let room = usize::try_from(*skip).unwrap_or(usize::MAX).min(block.len());
                    let read = decoder.read(&mut block[..room])?;
                    if read == 0 {
                        return Ok(0);
                    }
                    *skip -= read as u64;
                }
                decoder.read(block)
            }
        }
    }
}

/// Leaves out the files, and the start of the first one left, that the last `tail` lines are not in.
fn place(parts: Vec<Part>, tail: Option<u64>) -> io::Result<VecDeque<Opened>> {
    let Some(tail) = tail else { return Ok(parts.into_iter().map(Opened::from_start).collect()) };
    let mut counter = Counter { left: tail, latest: true };
    let mut placed = VecDeque::new();
    for part in parts.into_iter().rev() {
        let (opened, done) = match part {
            Part::Plain(file) => {
                let start = counter.start_in(&file)?;
                (Opened::Plain { file, offset: start.unwrap_or(0), end: None }, start.is_some())
            }
            Part::Compressed(file) => {
                let skip = counter.start_in_compressed(&file)?;
                let mut opened = Opened::from_start(Part::Compressed(file));
                if let (Opened::Compressed { skip: to_skip, .. }, Some(start)) = (&mut opened, skip) {
                    *to_skip = start;
                }
                (opened, skip.is_some())
            }
        };
        placed.push_front(opened);
        if done {
            break;
        }
    }
    Ok(placed)
}

/// Counts lines from the end of a log, in which one line may be several entries.
#[derive(Debug)]
struct Counter {
    /// How many lines are still wanted.
    left: u64,
    /// No entry was seen yet: the next one ends the latest line, even without a newline.
    latest: bool,
}

impl Counter {
    /// Whether the wanted lines begin after `line`.
    fn ends_before(&mut self, line: &[u8]) -> bool {
        let ended = entry::parse(line).is_some_and(|entry| entry.ends_line());
        if std::mem::replace(&mut self.latest, false) || ended {
            if self.left == 0 {
                return true;
            }
            self.left -= 1;
        }
        false
    }

    /// Where in `file` the wanted lines begin; `None` when they begin before it.
    fn start_in(&mut self, file: &File) -> io::Result<Option<u64>> {
        let mut end = file.metadata()?.len();
        if self.left == 0 && self.latest {
            return Ok(Some(end));
        }
        let mut block = vec![0; BLOCK];
        // What was read after `end` of an entry whose start was not.
        let mut tail = Vec::new();
        while end > 0 {
            let start = end.saturating_sub(BLOCK as u64);
            let length = usize::try_from(end - start).unwrap_or(BLOCK);
            file.read_exact_at(&mut block[..length], start)?;
            let mut data = block[..length].to_vec();
            data.append(&mut tail);
            // Each turn looks at the entry that the last newline before `until` ends.
            let mut until = data.len();
            let mut keep = data.len();
            while let Some(newline) = memchr::memrchr(b'\n', &data[..until]) {
                let line = match memchr::memrchr(b'\n', &data[..newline]) {
                    Some(before) => &data[before + 1..newline],
                    None if start == 0 => &data[..newline],
                    None => {
                        keep = newline + 1;
                        break;
                    }
                };
                if self.ends_before(line) {
                    return Ok(Some(start + newline as u64 + 1));
                }
                until = newline;
            }
            if keep <= LONGEST_ENTRY {
                data.truncate(keep);
                tail = data;
            }
            end = start;
        }
        Ok(None)
    }

    /// As [`Counter::start_in`], in bytes after decompression; reads the file twice.
    fn start_in_compressed(&mut self, file: &File) -> io::Result<Option<u64>> {
        let mut lines = 0;
        let mut latest_ended = true;
        each_line(file, |line, _| {
            latest_ended = entry::parse(line).is_some_and(|entry| entry.ends_line());
            lines += u64::from(latest_ended);
            true
        })?;
        if !latest_ended && self.latest {
            lines += 1;
        }
        if lines <= self.left {
            self.left -= lines;
            self.latest &= lines == 0;
            return Ok(None);
        }
        let mut skip = lines - self.left;
        let mut start = 0;
        each_line(file, |line, end| {
            skip -= u64::from(entry::parse(line).is_some_and(|entry| entry.ends_line()));
            start = end;
            skip > 0
        })?;
        Ok(Some(start))
    }
}

/// Calls `each` with every line of a compressed file and where it ends, while it says to go on.
fn each_line(file: &File, mut each: impl FnMut(&[u8], u64) -> bool) -> io::Result<()> {
    use std::io::{BufRead, BufReader, Seek};
    let mut file = file;
    file.rewind()?;
    let mut reader = BufReader::with_capacity(BLOCK, flate2::read::MultiGzDecoder::new(file));
    let mut line = Vec::new();
    let mut end = 0;
    loop {
        line.clear();
        let read = reader.by_ref().take(LONGEST_ENTRY as u64).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        end += read as u64;
        if !each(line.strip_suffix(b"\n").unwrap_or(&line), end) {
            break;
        }
    }
    file.rewind()
}
