//! Keys for what is built: the same inputs have the same key, and no two lists of inputs run into each other.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Collects inputs, each with its length in front, and turns them into a key.
pub(crate) struct Key(Sha256);

impl Key {
    pub(crate) fn new() -> Self {
        Self(Sha256::new())
    }

    pub(crate) fn add(&mut self, input: impl AsRef<[u8]>) -> &mut Self {
        let input = input.as_ref();
        self.0.update(u64::try_from(input.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(input);
        self
    }

    /// The first 16 hexadecimal digits: short enough for a folder name.
    pub(crate) fn short(self) -> String {
        let mut text = hex(&self.0.finalize());
        text.truncate(16);
        text
    }
}

/// The SHA-256 of a file in hexadecimal digits.
pub(crate) fn of_file(file: &Path) -> Result<String> {
    let read = || -> std::io::Result<String> {
        let mut reader = File::open(file)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(hex(&hash.finalize())),
                n => hash.update(&buffer[..n]),
            }
        }
    };
    read().with_context(|| format!("reading {}", file.display()))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(inputs: &[&str]) -> String {
        let mut key = Key::new();
        for input in inputs {
            key.add(input);
        }
        key.short()
    }

    #[test]
    fn inputs_do_not_run_into_each_other() {
        assert_eq!(key(&["ab", "c"]), key(&["ab", "c"]));
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["ab"]), key(&["ab", ""]));
    }

    #[test]
    fn a_file_has_the_digest_that_sha256sum_prints() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "abc").unwrap();
        assert_eq!(
            of_file(&file).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
