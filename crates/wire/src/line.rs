//! One JSON value a line. Every control protocol of ours starts this way.

use std::io::{self, BufRead, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// The longest line either side accepts, in bytes. Requests and answers are small; a longer line is
/// a peer gone wrong, and reading it whole would let it choose our memory use.
pub const MAX_LINE: u64 = 1 << 20;

/// Writes `value` as one line and flushes.
pub fn write<T: Serialize>(mut to: impl Write, value: &T) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(value)?;
    bytes.push(b'\n');
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads one line. `None` when the peer closed the stream between lines.
///
/// # Errors
/// `InvalidData` for a line over [`MAX_LINE`], a line cut short by the end of the stream, and JSON of
/// another shape than `T`.
pub fn read<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(serde_json::from_slice(&line)?)),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a control line of {} bytes has no end", line.len()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_in_order_and_then_the_end() {
        let mut bytes = Vec::new();
        write(&mut bytes, &1).unwrap();
        write(&mut bytes, &2).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read::<i32>(&mut from).unwrap(), Some(1));
        assert_eq!(read::<i32>(&mut from).unwrap(), Some(2));
        assert_eq!(read::<i32>(&mut from).unwrap(), None);
    }

    #[test]
    fn a_line_cut_short_is_an_error() {
        let mut from = &b"12"[..];
        assert_eq!(read::<i32>(&mut from).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_endless_line_is_refused_at_the_limit() {
        let mut from = io::BufReader::new(io::repeat(b' '));
        assert_eq!(read::<i32>(&mut from).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
