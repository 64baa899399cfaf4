//! A reader for tar archives: ustar, PAX (POSIX.1-2017 "pax"), GNU long names, and the four ways of
//! writing sparse files (GNU tar manual, appendix D).
//!
//! It reads what anyone may have written, so that everything an archive can make it keep in memory has a
//! limit, which general tar libraries do not set for names and PAX records.

use std::io::{self, Read};

/// Tar's unit.
const BLOCK: usize = 512;
/// Longest path or link target; Linux takes no longer one.
const MAX_PATH: u64 = 4096;
/// Most bytes of PAX records for one entry: extended attributes may have 64 KiB each.
const MAX_RECORDS: u64 = 1 << 20;
/// Most pieces of a sparse file.
const MAX_PIECES: u64 = 1 << 18;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("unexpected EOF")]
    Truncated,
    #[error("archive/tar: invalid tar header")]
    Header,
    #[error("archive/tar: {what} of {size} bytes is longer than {limit} bytes")]
    TooLong { what: &'static str, size: u64, limit: u64 },
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// To another path of the archive.
    HardLink,
    Symlink,
    CharDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
    Directory,
    Fifo,
    /// A type flag that this reader does not know.
    Other(u8),
}

/// Seconds and nanoseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// Bytes of a sparse file that are not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// One member of an archive. Its content, if any, is read from the [`Reader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As the archive has it.
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// The permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Bytes of the file once unpacked, holes included.
    pub(crate) size: u64,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content goes, when the file has holes.
    pub(crate) pieces: Option<Vec<Piece>>,
}

/// Reads an archive's entries one after another; [`Read`] gives the content of the latest.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    source: R,
    /// Bytes of the latest entry's content not yet read.
    remaining: u64,
    /// Bytes after it, up to the next block.
    padding: u64,
}

/// What PAX records and GNU headers said of the entry that follows them.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default)]
struct PaxSparse {
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    /// Versions 0.0 and 0.1 have the map in records.
    pieces: Vec<Piece>,
    /// Version 1.0 has the map before the content.
    map_in_content: bool,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, remaining: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive. What was not read of the content of the one
    /// before is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut extended = Extended::default();
        loop {
            self.skip_content()?;
            let Some(block) = self.header()? else { return Ok(None) };
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => {
                    let records = self.small("PAX records", size, MAX_RECORDS)?;
                    extended.records(&records)?;
                }
                // Records for all entries to come: only comments are ever written like this.
                b'g' => {
                    self.small("PAX records", size, MAX_RECORDS)?;
                }
                b'L' => extended.path = Some(self.name(size)?),
                b'K' => extended.link = Some(self.name(size)?),
                _ => return self.entry(&block, size, extended).map(Some),
            }
        }
    }

    /// Reads on to the end of the source, so that whoever watches it has seen every byte.
    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        io::copy(&mut self.source, &mut io::sink())?;
        Ok(())
    }

    fn entry(&mut self, block: &[u8; BLOCK], size: u64, extended: Extended) -> Result<Entry, Error> {
        let gnu = &block[257..265] == b"ustar  \0";
        let flag = block[156];
        let mut path = match extended.path {
            Some(path) => path,
            None => header_path(block),
        };
        let mut kind = match flag {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => {
                let (major, minor) = (small_number(&block[329..337])?, small_number(&block[337..345])?);
                match flag {
                    b'3' => Kind::CharDevice { major, minor },
                    _ => Kind::BlockDevice { major, minor },
                }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        // Before ustar, a directory was a file whose name ends with a slash.
        if flag == 0 && path.ends_with(b"/") {
            kind = Kind::Directory;
        }
        let stored = match kind {
            Kind::File | Kind::Other(_) => extended.size.unwrap_or(size),
            _ => 0,
        };
        self.remaining = stored;
        self.padding = padding(stored);
        let mut entry = Entry {
            link: extended.link.unwrap_or_else(|| until_nul(&block[157..257]).to_vec()),
            mode: u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or(0),
            uid: extended.uid.map_or_else(|| small_number(&block[108..116]), Ok)?,
            gid: extended.gid.map_or_else(|| small_number(&block[116..124]), Ok)?,
            mtime: match extended.mtime {
                Some(time) => time,
                None => Time { seconds: signed_number(&block[136..148])?, nanos: 0 },
            },
            size: stored,
            xattrs: extended.xattrs,
            pieces: None,
            kind,
            path: Vec::new(),
        };
        if flag == b'S' && gnu {
            entry.pieces = Some(self.old_gnu_pieces(block)?);
            entry.size = number(&block[483..495])?;
        } else if extended.sparse.map_in_content {
            entry.pieces = Some(self.pieces_before_content()?);
        } else if !extended.sparse.pieces.is_empty() {
            entry.pieces = Some(extended.sparse.pieces);
        }
        if let Some(size) = extended.sparse.real_size
            && entry.pieces.is_some()
        {
            entry.size = size;
        }
        if let Some(name) = extended.sparse.name {
            path = name;
        }
        if let Some(pieces) = &entry.pieces {
            check_pieces(pieces, entry.size, self.remaining)?;
        }
        if path.contains(&0) || entry.link.contains(&0) {
            return Err(Error::Header);
        }
        entry.path = path;
        Ok(entry)
    }

    /// The next header block; `None` at the end, which is a block of zeros or the end of the source.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        if !self.fill(&mut block)? {
            return Ok(None);
        }
        if block == [0; BLOCK] {
            // A second one follows, unless someone cut it off.
            return match self.fill(&mut block)? && block != [0; BLOCK] {
                true => Err(Error::Header),
                false => Ok(None),
            };
        }
        let claimed = number(&block[148..156])?;
        let sum = |signed: bool| {
            block.iter().enumerate().fold(0_i64, |sum, (at, byte)| {
                let byte = if (148..156).contains(&at) { b' ' } else { *byte };
                sum + if signed { i64::from(byte.cast_signed()) } else { i64::from(byte) }
            })
        };
        // Some old programs summed up signed bytes.
        let claimed = i64::try_from(claimed).map_err(|_| Error::Header)?;
        if claimed != sum(false) && claimed != sum(true) {
            return Err(Error::Header);
        }
        Ok(Some(block))
    }

    /// Fills `block`; `false` if the source ended before its first byte.
    fn fill(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(Error::Truncated),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// The whole content of an extension header.
    fn small(&mut self, what: &'static str, size: u64, limit: u64) -> Result<Vec<u8>, Error> {
        if size > limit {
            return Err(Error::TooLong { what, size, limit });
        }
        self.remaining = size;
        self.padding = padding(size);
        let mut content = Vec::new();
        self.read_to_end(&mut content)?;
        if content.len() as u64 != size {
            return Err(Error::Truncated);
        }
        Ok(content)
    }

    fn name(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let content = self.small("a name", size, MAX_PATH + 1)?;
        Ok(until_nul(&content).to_vec())
    }

    fn skip_content(&mut self) -> Result<(), Error> {
        let skip = self.remaining.checked_add(self.padding).ok_or(Error::Header)?;
        (self.remaining, self.padding) = (0, 0);
        let skipped = io::copy(&mut self.source.by_ref().take(skip), &mut io::sink())?;
        if skipped == skip { Ok(()) } else { Err(Error::Truncated) }
    }

    /// The map of a sparse file in GNU tar's own format: four pieces in the header, then blocks of 21.
    fn old_gnu_pieces(&mut self, block: &[u8; BLOCK]) -> Result<Vec<Piece>, Error> {
        let mut pieces = Vec::new();
        push_pieces(&block[386..482], &mut pieces)?;
        let mut more = block[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            if !self.fill(&mut block)? {
                return Err(Error::Truncated);
            }
            push_pieces(&block[..504], &mut pieces)?;
            more = block[504] != 0;
        }
        Ok(pieces)
    }

    /// The map of a sparse file in PAX format 1.0: decimal numbers, one a line, padded to a block.
    fn pieces_before_content(&mut self) -> Result<Vec<Piece>, Error> {
        let mut block = [0; BLOCK];
        let mut at = BLOCK;
        let mut line = || -> Result<u64, Error> {
            let mut value: Option<u64> = None;
            loop {
                if at == BLOCK {
                    if self.remaining < BLOCK as u64 {
                        return Err(Error::Header);
                    }
                    if !self.fill(&mut block)? {
                        return Err(Error::Truncated);
                    }
                    self.remaining -= BLOCK as u64;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                match byte {
                    b'0'..=b'9' => {
                        let digit = u64::from(byte - b'0');
                        let grown = value.unwrap_or(0).checked_mul(10);
                        value = grown.and_then(|value| value.checked_add(digit));
                        if value.is_none() {
                            return Err(Error::Header);
                        }
                    }
                    b'\n' => return value.ok_or(Error::Header),
                    _ => return Err(Error::Header),
                }
            }
        };
        let count = line()?;
        if count > MAX_PIECES {
            return Err(Error::TooLong { what: "a sparse map", size: count, limit: MAX_PIECES });
        }
        (0..count).map(|_| Ok(Piece { offset: line()?, length: line()? })).collect()
    }
}

impl<R: Read> Read for Reader<R> {
    /// Content of the latest entry. A source that ends within it is an error.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

impl Extended {
    /// Reads `length key=value\n` records.
    fn records(&mut self, mut records: &[u8]) -> Result<(), Error> {
        // Version 0.0 of sparse files says offset and length in two records that repeat.
        let mut offset = None;
        while !records.is_empty() {
            let space = records.iter().position(|byte| *byte == b' ').ok_or(Error::Header)?;
            let length = decimal(&records[..space])?;
            let length = usize::try_from(length).map_err(|_| Error::Header)?;
            let record = records.get(space + 1..length).ok_or(Error::Header)?;
            records = &records[length..];
            let record = record.strip_suffix(b"\n").ok_or(Error::Header)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or(Error::Header)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            self.record(key, value, &mut offset)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8], offset: &mut Option<u64>) -> Result<(), Error> {
        let path = |value: &[u8]| match value.len() as u64 {
            size if size > MAX_PATH => Err(Error::TooLong { what: "a name", size, limit: MAX_PATH }),
            _ => Ok((!value.is_empty()).then(|| value.to_vec())),
        };
        match key {
            b"path" => self.path = path(value)?,
            b"linkpath" => self.link = path(value)?,
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(id(value)?),
            b"gid" => self.gid = Some(id(value)?),
            b"mtime" if !value.is_empty() => self.mtime = Some(pax_time(value)?),
            b"GNU.sparse.name" => self.sparse.name = path(value)?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                self.sparse.real_size = Some(decimal(value)?);
            }
            b"GNU.sparse.major" => self.sparse.map_in_content = value == b"1",
            b"GNU.sparse.offset" => *offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                let offset = offset.take().ok_or(Error::Header)?;
                self.sparse.pieces.push(Piece { offset, length: decimal(value)? });
            }
            b"GNU.sparse.map" => {
                let mut numbers = value.split(|byte| *byte == b',');
                while let (Some(offset), Some(length)) = (numbers.next(), numbers.next()) {
                    let piece = Piece { offset: decimal(offset)?, length: decimal(length)? };
                    self.sparse.pieces.push(piece);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The path in a header: in ustar, what is too long for the name has a prefix.
fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = match &block[257..263] {
        b"ustar\0" => until_nul(&block[345..500]),
        _ => &[],
    };
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

fn push_pieces(block: &[u8], pieces: &mut Vec<Piece>) -> Result<(), Error> {
    for piece in block.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        if pieces.len() as u64 >= MAX_PIECES {
            let size = pieces.len() as u64 + 1;
            return Err(Error::TooLong { what: "a sparse map", size, limit: MAX_PIECES });
        }
        pieces.push(Piece { offset: number(&piece[..12])?, length: number(&piece[12..])? });
    }
    Ok(())
}

/// Pieces MUST be in order, inside the file, and as long together as the content.
fn check_pieces(pieces: &[Piece], size: u64, stored: u64) -> Result<(), Error> {
    let (mut end, mut sum) = (0_u64, 0_u64);
    for piece in pieces {
        if piece.offset < end {
            return Err(Error::Header);
        }
        end = piece.offset.checked_add(piece.length).ok_or(Error::Header)?;
        sum = sum.checked_add(piece.length).ok_or(Error::Header)?;
    }
    if end > size || sum != stored { Err(Error::Header) } else { Ok(()) }
}

fn padding(size: u64) -> u64 {
    let over = size % BLOCK as u64;
    if over == 0 { 0 } else { BLOCK as u64 - over }
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A header's number: octal digits, or, for larger and negative ones, base 256.
fn signed_number(field: &[u8]) -> Result<i64, Error> {
    let Some((first, rest)) = field.split_first() else { return Err(Error::Header) };
    if first & 0x80 == 0 {
        let text = until_nul(field).trim_ascii();
        return text.iter().try_fold(0_i64, |value, digit| match digit {
            b'0'..=b'7' => value
                .checked_mul(8)
                .and_then(|value| value.checked_add(i64::from(digit - b'0')))
                .ok_or(Error::Header),
            _ => Err(Error::Header),
        });
    }
    // Two's complement, the first bit being the mark and the second one the sign.
    let start = if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(first | 0x80) - 256 };
    rest.iter().try_fold(start, |value, byte| {
        value.checked_mul(256).and_then(|value| value.checked_add(i64::from(*byte))).ok_or(Error::Header)
    })
}

fn number(field: &[u8]) -> Result<u64, Error> {
    u64::try_from(signed_number(field)?).map_err(|_| Error::Header)
}

fn small_number(field: &[u8]) -> Result<u32, Error> {
    u32::try_from(number(field)?).map_err(|_| Error::Header)
}

fn decimal(text: &[u8]) -> Result<u64, Error> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Error::Header)
}

fn id(text: &[u8]) -> Result<u32, Error> {
    u32::try_from(decimal(text)?).map_err(|_| Error::Header)
}

/// `[-]seconds[.fraction]`.
fn pax_time(text: &[u8]) -> Result<Time, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::Header)?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().map_err(|_| Error::Header)?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(Error::Header);
    }
    let digits = &fraction[..fraction.len().min(9)];
    let nanos: u32 = format!("{digits:0<9}").parse().map_err(|_| Error::Header)?;
    Ok(match nanos {
        0 => Time { seconds, nanos },
        nanos if negative => {
            let seconds = seconds.checked_sub(1).ok_or(Error::Header)?;
            Time { seconds, nanos: 1_000_000_000 - nanos }
        }
        nanos => Time { seconds, nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(path: &str, flag: u8, size: usize) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[156] = flag;
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_mtime(7);
        header.set_cksum();
        header
    }

    fn block(header: &tar::Header, content: &[u8]) -> Vec<u8> {
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut content = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length =
                (1..).map(|digits| body + digits).find(|length| length.to_string().len() + body == *length);
            content.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        block(&header("pax", b'x', content.len()), &content)
    }

    fn one(archive: &[u8]) -> Result<(Entry, Vec<u8>), Error> {
        let mut reader = Reader::new(archive);
        let entry = reader.next()?.expect("the archive has an entry");
        let mut content = Vec::new();
        reader.read_to_end(&mut content)?;
        assert_eq!(reader.next()?, None);
        Ok((entry, content))
    }

    #[test]
    fn a_plain_file_is_read() {
        let (entry, content) = one(&block(&header("a/b", b'0', 3), b"abc")).unwrap();
        assert_eq!((entry.path.as_slice(), entry.size, entry.mode), (&b"a/b"[..], 3, 0o644));
        assert_eq!(entry.mtime, Time { seconds: 7, nanos: 0 });
        assert_eq!(content, b"abc");
    }

    #[test]
    fn what_tar_libraries_write_for_long_names_is_read() {
        let path = format!("{}/file", "long".repeat(60));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, &path, &b"x"[..]).unwrap();
        let (entry, content) = one(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(entry.path, path.as_bytes());
        assert_eq!(content, b"x");
    }

    #[test]
    fn pax_records_override_the_header() {
        let mut archive = pax(&[
            ("path", b"pax/name"),
            ("mtime", b"-1.25"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.user.a", b"\0=\n"),
        ]);
        archive.extend(block(&header("short", b'0', 0), b""));
        let (entry, _) = one(&archive).unwrap();
        assert_eq!(entry.path, b"pax/name");
        assert_eq!(entry.uid, 3_000_000);
        assert_eq!(entry.mtime, Time { seconds: -2, nanos: 750_000_000 });
        assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"\0=\n".to_vec())]);
    }

    #[test]
    fn sparse_maps_are_read_in_every_form() {
        let pieces = [Piece { offset: 512, length: 3 }, Piece { offset: 2048, length: 2 }];
        let first: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", b"4096"),
            ("GNU.sparse.offset", b"512"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"2048"),
            ("GNU.sparse.numbytes", b"2"),
        ];
        let second: &[(&str, &[u8])] = &[
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.size", b"4096"),
            ("GNU.sparse.map", b"512,3,2048,2"),
        ];
        let third: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"real"),
            ("GNU.sparse.realsize", b"4096"),
        ];
        let mut map = b"2\n512\n3\n2048\n2\n".to_vec();
        map.resize(512, 0);
        map.extend_from_slice(b"abcde");
        for (records, content) in [(first, &b"abcde"[..]), (second, b"abcde"), (third, &map)] {
            let mut archive = pax(records);
            archive.extend(block(&header("real", b'0', content.len()), content));
            let (entry, content) = one(&archive).unwrap();
            assert_eq!(entry.path, b"real");
            assert_eq!(entry.size, 4096);
            assert_eq!(entry.pieces.as_deref(), Some(&pieces[..]));
            assert_eq!(content, b"abcde");
        }
    }

    #[test]
    fn sparse_maps_that_lie_are_refused() {
        for map in ["512,3,0,2", "512,30", "5000,5", "18446744073709551615,5"] {
            let mut archive = pax(&[("GNU.sparse.size", b"4096"), ("GNU.sparse.map", map.as_bytes())]);
            archive.extend(block(&header("f", b'0', 5), b"abcde"));
            assert!(matches!(one(&archive), Err(Error::Header)), "{map}");
        }
    }

    #[test]
    fn names_and_records_without_end_are_refused_before_they_are_read() {
        for (flag, size) in [(b'L', 1 << 30), (b'K', 1 << 30), (b'x', 1 << 30), (b'g', 1 << 30)] {
            let archive = block(&header("x", flag, size), b"");
            assert!(matches!(one(&archive), Err(Error::TooLong { .. })));
        }
    }

    #[test]
    fn damage_is_told_from_the_end() {
        let whole = block(&header("a", b'0', 600), &[1; 600]);
        for length in [100, 512, 700, 1112] {
            assert!(matches!(one(&whole[..length]), Err(Error::Truncated)), "{length}");
        }
        let mut damaged = whole.clone();
        damaged[3] = b'!';
        assert!(matches!(one(&damaged), Err(Error::Header)));
        // What a compressor may leave out: the two blocks of zeros.
        assert!(Reader::new(&b""[..]).next().unwrap().is_none());
        assert!(Reader::new(&[0; 1024][..]).next().unwrap().is_none());
    }

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap(), 256);
        assert_eq!(signed_number(&[0xff; 12]).unwrap(), -1);
        assert!(number(&[0xff; 12]).is_err());
        let mut huge = [0xff; 12];
        huge[0] = 0xbf;
        assert!(number(&huge).is_err());
        assert!(number(b"0000x44\0").is_err());
    }
}
