/// Numbers that look random and are the same in every run (SplitMix64).
pub struct Random(u64);

impl Random {
    /// The numbers that follow from this one.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next one.
    #[expect(clippy::should_implement_trait, reason = "it never ends, and is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        // It is less than what was a usize.
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A message with some bytes changed, and now and then cut short or made longer.
    pub fn damaged(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..self.below(6) {
            if !bytes.is_empty() {
                let at = self.below(bytes.len());
                bytes[at] = if self.below(2) == 0 { self.byte() } else { bytes[at] ^ 1 << self.below(8) };
            }
        }
        match self.below(4) {
            0 => bytes.truncate(self.below(bytes.len() + 1)),
            1 => bytes.extend((0..self.below(80)).map(|_| self.byte()).collect::<Vec<_>>()),
            _ => {}
        }
        bytes
    }
}
