//! The keys that detach a client from a terminal without ending what runs there.

use crate::error::{Error, Result};

/// A sequence of bytes, by default Ctrl-P Ctrl-Q.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q,x`; the default for an empty text. `None` for keys that do not exist.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        text.split(',').map(key).collect::<Option<Vec<u8>>>().map(Self)
    }

    /// The keys of an attach request.
    ///
    /// # Errors
    /// Docker's words for keys that do not exist.
    pub(crate) fn for_attach(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| Error::invalid(format!("Invalid detach keys ({text}) provided")))
    }

    /// The keys of an exec request.
    ///
    /// # Errors
    /// Docker's words for keys that do not exist.
    pub(crate) fn for_exec(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| Error::invalid(format!("Invalid escape keys ({text}) provided")))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn key(text: &str) -> Option<u8> {
    if let [byte] = text.as_bytes() {
        return Some(*byte);
    }
    let control = text.strip_prefix("ctrl-")?;
    if control == "DEL" || control == "?" {
        return Some(127);
    }
    match control.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        [b'@'] => Some(0),
        [b'['] => Some(27),
        [b'\\'] => Some(28),
        [b']'] => Some(29),
        [b'^'] => Some(30),
        [b'_'] => Some(31),
        _ => None,
    }
}

/// Looks for the keys in what a client types.
#[derive(Debug)]
pub(super) struct Watcher {
    keys: DetachKeys,
    /// How many of the keys have come; they are held back until it is clear what they mean.
    matched: usize,
}

impl Watcher {
    pub(super) fn new(keys: DetachKeys) -> Self {
        Self { keys, matched: 0 }
    }

    /// Takes what was typed. Returns what to pass on, and whether the keys came.
    pub(super) fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if keys.get(self.matched) != Some(&byte) {
                passed.extend_from_slice(&keys[..self.matched]);
                self.matched = 0;
            }
            if keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == keys.len() {
                    return (passed, true);
                }
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_dockers() {
        assert_eq!(DetachKeys::for_attach("").unwrap().bytes(), [16, 17]);
        assert_eq!(DetachKeys::for_attach("a,ctrl-z,ctrl-@,ctrl-\\").unwrap().bytes(), [b'a', 26, 0, 28]);
        assert_eq!(
            DetachKeys::for_attach("ctrl-ä").unwrap_err().to_string(),
            "Invalid detach keys (ctrl-ä) provided"
        );
    }

    #[test]
    fn keys_are_found_across_reads_and_near_misses_pass() {
        let mut watcher = Watcher::new(DetachKeys::default());
        assert_eq!(watcher.take(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(watcher.take(b"c\x10\x10"), (b"\x10c\x10".to_vec(), false));
        assert_eq!(watcher.take(b"\x11rest"), (Vec::new(), true));
    }
}
