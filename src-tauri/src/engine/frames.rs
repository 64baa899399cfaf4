//! Docker's frames of output: `[stream, 0, 0, 0, length: u32 big-endian]` and that many bytes.

const HEAD: usize = 8;

/// Takes frames apart, in pieces of any length.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; HEAD],
    have: usize,
    /// Of the frame that has begun.
    left: usize,
}

impl Frames {
    /// What the next piece carries.
    pub(crate) fn carried(&mut self, mut piece: &[u8]) -> Vec<u8> {
        let mut carried = Vec::with_capacity(piece.len());
        while !piece.is_empty() {
            if self.left == 0 {
                let (head, rest) = piece.split_at(piece.len().min(HEAD - self.have));
                self.head[self.have..self.have + head.len()].copy_from_slice(head);
                self.have += head.len();
                piece = rest;
                if self.have == HEAD {
                    self.have = 0;
                    let [_, _, _, _, length @ ..] = self.head;
                    self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
                }
            }
            let (payload, rest) = piece.split_at(piece.len().min(self.left));
            carried.extend_from_slice(payload);
            self.left -= payload.len();
            piece = rest;
        }
        carried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_wherever_they_are_cut() {
        let frames = b"\x01\0\0\0\0\0\0\x03out\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x05error";
        for length in 1..=frames.len() {
            let mut taken = Frames::default();
            let carried: Vec<u8> = frames.chunks(length).flat_map(|piece| taken.carried(piece)).collect();
            assert_eq!(carried, b"outerror", "in pieces of {length}");
        }
    }
}
