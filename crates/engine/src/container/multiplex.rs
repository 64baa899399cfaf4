//! Standard output and error on one connection: each piece has a header of eight bytes, its stream (1
//! or 2), three zeros, and its length in big endian.

use crate::container::streams::Source;

/// Length of a header, in bytes.
pub(crate) const HEADER: usize = 8;

/// The header of a piece of `length` bytes.
pub(crate) fn header(source: Source, length: usize) -> [u8; HEADER] {
    let stream = match source {
        Source::Stdout => 1,
        Source::Stderr => 2,
    };
    // Pieces are chunks read from a pipe, or log entries: far below 4 GiB.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [stream, 0, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_dockers() {
        assert_eq!(header(Source::Stdout, 5), [1, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(header(Source::Stderr, 0x0102_0304), [2, 0, 0, 0, 1, 2, 3, 4]);
    }
}
