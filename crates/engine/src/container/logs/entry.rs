//! One line of a `json-file` log: `{"log":"text\n","stream":"stdout","attrs":{…},"time":"…Z"}`.
//!
//! The text ends with a newline where the container's line ended; a line longer than [`LONGEST`] is
//! kept as several entries of which only the last has one. JSON holds text only, so bytes that are not
//! UTF-8 become U+FFFD, as in Docker.

use crate::container::streams::Source;

/// The longest text of one entry, in bytes before escaping.
pub(super) const LONGEST: usize = 16 * 1024;

/// An entry taken apart; the slices are as in the file, still escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// The text, JSON-escaped.
    pub(super) text: &'a [u8],
    pub(super) source: Source,
    /// The `attrs` object, if there is one.
    pub(super) attributes: Option<&'a [u8]>,
    /// RFC 3339, in UTC.
    pub(super) time: &'a [u8],
}

impl Entry<'_> {
    /// Whether the container's line ends with this entry.
    pub(super) fn ends_line(&self) -> bool {
        // An odd number of backslashes before `n` makes it a newline.
        let Some(rest) = self.text.strip_suffix(b"n") else { return false };
        rest.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
    }
}

/// Appends the entry for `text` to `out`; `ended` says that a newline followed it.
pub(super) fn write(
    out: &mut Vec<u8>,
    text: &[u8],
    ended: bool,
    source: Source,
    attributes: &str,
    time: &str,
) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, text);
    if ended {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(match source {
        Source::Stdout => b"\",\"stream\":\"stdout\"",
        Source::Stderr => b"\",\"stream\":\"stderr\"",
    });
    if !attributes.is_empty() {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attributes.as_bytes());
    }
    out.extend_from_slice(b",\"time\":\"");
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// What a byte needs inside a JSON string: 0 nothing, `u` a `\u00XX`, else a backslash and this.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x7f] = b'u';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'\n' as usize] = b'n';
    table[b'\r' as usize] = b'r';
    table[b'\t' as usize] = b't';
    table
};

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    if std::str::from_utf8(text).is_ok() {
        return escape_valid(out, text);
    }
    for part in text.utf8_chunks() {
        escape_valid(out, part.valid().as_bytes());
        if !part.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn escape_valid(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| ESCAPES[usize::from(*byte)] != 0) {
        out.extend_from_slice(&rest[..at]);
        let byte = rest[at];
        match ESCAPES[usize::from(byte)] {
            b'u' => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Takes a line of the file (without its newline) apart. `None` for one that was cut short by a crash,
/// or that this engine did not write.
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let rest = line.strip_prefix(b"{\"log\":\"")?;
    let (text, rest) = string(rest)?;
    let rest = rest.strip_prefix(b",\"stream\":\"std")?;
    let (source, rest) = if let Some(rest) = rest.strip_prefix(b"out\"") {
        (Source::Stdout, rest)
    } else {
        (Source::Stderr, rest.strip_prefix(b"err\"")?)
    };
    let (attributes, rest) = match rest.strip_prefix(b",\"attrs\":") {
        Some(rest) => {
            // It is a flat object of strings, and nothing but the time follows it.
            let end = memchr::memmem::rfind(rest, b",\"time\":\"")?;
            (Some(&rest[..end]), &rest[end..])
        }
        None => (None, rest),
    };
    let time = rest.strip_prefix(b",\"time\":\"")?.strip_suffix(b"\"}")?;
    Some(Entry { text, source, attributes, time })
}

/// Splits at the quote that ends a JSON string.
fn string(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut from = 0;
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', &rest[from..])?;
        if rest[at] == b'"' {
            return Some((&rest[..at], &rest[at + 1..]));
        }
        from = at + 2;
        if from > rest.len() {
            return None;
        }
    }
}

/// Appends the bytes that `escaped` stands for.
pub(super) fn unescape(out: &mut Vec<u8>, escaped: &[u8]) {
    let mut rest = escaped;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let Some((&letter, after)) = rest.split_first() else { return };
        rest = after;
        match letter {
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'u' => {
                let (character, after) = unicode(rest);
                let mut bytes = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
                rest = after;
            }
            other => out.push(other),
        }
    }
    out.extend_from_slice(rest);
}

/// The character of `XXXX` or of a surrogate pair `XXXX\uXXXX`, and what follows it.
fn unicode(rest: &[u8]) -> (char, &[u8]) {
    fn unit(digits: &[u8]) -> Option<u32> {
        u32::from_str_radix(std::str::from_utf8(digits.get(..4)?).ok()?, 16).ok()
    }
    let Some(high) = unit(rest) else { return ('\u{fffd}', rest) };
    let after = &rest[4..];
    if (0xd800..0xdc00).contains(&high)
        && let Some(second) = after.strip_prefix(b"\\u")
        && let Some(low) = unit(second).filter(|low| (0xdc00..0xe000).contains(low))
    {
        let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        return (char::from_u32(code).unwrap_or('\u{fffd}'), &second[4..]);
    }
    (char::from_u32(high).unwrap_or('\u{fffd}'), after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8], ended: bool, attributes: &str) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, text, ended, Source::Stderr, attributes, "2026-01-02T03:04:05.6Z");
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    #[test]
    fn entries_are_json_and_come_back() {
        for text in [
            &b"plain"[..],
            b"",
            b"quote \" backslash \\ tab \t cr \r bell \x07 del \x7f",
            "snow ☃ and 🚣".as_bytes(),
            b"ends with a backslash \\",
            b"ends with backslash n \\n",
        ] {
            for ended in [true, false] {
                let line = written(text, ended, r#"{"a":"b,\"time\":\""}"#);
                let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
                let entry = parse(&line).unwrap();
                let mut back = Vec::new();
                unescape(&mut back, entry.text);
                assert_eq!(json["log"].as_str().unwrap().as_bytes(), back);
                assert_eq!(entry.ends_line(), ended, "{text:?}");
                if ended {
                    assert_eq!(back.pop(), Some(b'\n'));
                }
                assert_eq!(back, text);
                assert_eq!(entry.source, Source::Stderr);
                assert_eq!(entry.time, b"2026-01-02T03:04:05.6Z");
                assert_eq!(entry.attributes, Some(&br#"{"a":"b,\"time\":\""}"#[..]));
            }
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced() {
        let line = written(b"a\xff\xfeb\xe2\x98", true, "");
        let mut back = Vec::new();
        unescape(&mut back, parse(&line).unwrap().text);
        assert_eq!(back, "a\u{fffd}\u{fffd}b\u{fffd}\n".as_bytes());
    }

    #[test]
    fn other_writers_escapes_are_understood() {
        let mut out = Vec::new();
        unescape(&mut out, br"\u003c\ud83d\udea3\ud83d\/\u00e9\uzz");
        assert_eq!(out, "<🚣\u{fffd}/é\u{fffd}zz".as_bytes());
    }

    #[test]
    fn torn_lines_are_refused() {
        let line = written(b"hello", true, "");
        for length in 0..line.len() {
            assert_eq!(parse(&line[..length]), None);
        }
        assert_eq!(parse(&[0; 100]), None);
    }
}
