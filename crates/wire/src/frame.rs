//! Frames of an interactive session, after its request line was accepted.
//!
//! A frame is one byte of kind, four bytes of payload length (big endian) and the payload. The client
//! sends `Stdin`, `StdinEnd` and `Resize`; the server sends `Stdout`, `Stderr` and, last, `Exit`.
//!
//! The client keeps its sending direction open until it has read `Exit`: its end is how the server learns
//! that the client is gone, and it then hangs up the program, whatever was sent before.

use std::io::{self, Read, Write};

/// The longest payload either side sends or accepts, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes for the program's standard input.
    Stdin(Vec<u8>),
    /// The program's standard input ends.
    StdinEnd,
    /// Bytes of the program's standard output (of its terminal, if it has one).
    Stdout(Vec<u8>),
    /// Bytes of the program's standard error.
    Stderr(Vec<u8>),
    /// The client's window has this size now.
    Resize { rows: u16, columns: u16 },
    /// The program ended: its exit code, or 128 + signal number.
    Exit(i32),
}

impl Frame {
    /// Writes the frame. The caller flushes.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        match self {
            Frame::Stdin(bytes) => write(to, 0, bytes),
            Frame::StdinEnd => write(to, 1, &[]),
            Frame::Stdout(bytes) => write(to, 2, bytes),
            Frame::Stderr(bytes) => write(to, 3, bytes),
            Frame::Resize { rows, columns } => {
                let [r0, r1] = rows.to_be_bytes();
                let [c0, c1] = columns.to_be_bytes();
                write(to, 4, &[r0, r1, c0, c1])
            }
            Frame::Exit(code) => write(to, 5, &code.to_be_bytes()),
        }
    }

    /// Reads the next frame. `None` when the peer closed the stream between frames.
    ///
    /// # Errors
    /// `InvalidData` for a frame of an unknown kind or a wrong length, `UnexpectedEof` for one cut short.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut head = [0; 5];
        if from.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut head[1..])?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        let invalid = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a session frame of kind {kind} and {length} bytes"),
            )
        };
        if length > MAX_PAYLOAD {
            return Err(invalid());
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Some(match (kind, payload.as_slice()) {
            (0, _) => Frame::Stdin(payload),
            (1, []) => Frame::StdinEnd,
            (2, _) => Frame::Stdout(payload),
            (3, _) => Frame::Stderr(payload),
            (4, &[r0, r1, c0, c1]) => {
                Frame::Resize { rows: u16::from_be_bytes([r0, r1]), columns: u16::from_be_bytes([c0, c1]) }
            }
            (5, &[a, b, c, d]) => Frame::Exit(i32::from_be_bytes([a, b, c, d])),
            _ => return Err(invalid()),
        }))
    }
}

fn write(to: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let [a, b, c, d] = length.to_be_bytes();
    to.write_all(&[kind, a, b, c, d])?;
    to.write_all(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_comes_back() {
        let frames = [
            Frame::Stdin(b"ls\n".to_vec()),
            Frame::StdinEnd,
            Frame::Stdout(vec![0; MAX_PAYLOAD]),
            Frame::Stderr(Vec::new()),
            Frame::Resize { rows: 24, columns: 80 },
            Frame::Exit(-1),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn a_hostile_length_is_refused_before_it_is_allocated() {
        let mut from = &[0, 0xff, 0xff, 0xff, 0xff][..];
        assert_eq!(Frame::read(&mut from).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
