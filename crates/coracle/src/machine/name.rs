//! The name of a machine, which is also the name of its directory and part of its docker context.

use std::{fmt, str::FromStr};

/// Longest name. It is part of socket paths, which are short on every system.
const MAX_LENGTH: usize = 32;

/// A valid machine name: `[a-z0-9][a-z0-9-]*`, at most 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MachineName(String);

impl MachineName {
    /// The machine that commands mean when they name none.
    pub(crate) const DEFAULT: &str = "default";

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_default(&self) -> bool {
        self.0 == Self::DEFAULT
    }
}

/// Why a text is no machine name.
#[derive(Debug, thiserror::Error)]
#[error(
    "a machine name has 1 to {MAX_LENGTH} of the characters a-z, 0-9 and '-', and does not start with '-'"
)]
pub(crate) struct BadName;

impl FromStr for MachineName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<MachineName, BadName> {
        let fits = (1..=MAX_LENGTH).contains(&text.len()) && !text.starts_with('-');
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if fits && text.bytes().all(known) { Ok(MachineName(text.to_owned())) } else { Err(BadName) }
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_safe_as_a_directory_pass_and_others_do_not() {
        for good in ["default", "a", "0", "web-2", &"x".repeat(32)] {
            assert_eq!(good.parse::<MachineName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a_b", "a/b", "..", ".", "a b", "ä", &"x".repeat(33)] {
            assert!(bad.parse::<MachineName>().is_err(), "{bad:?} passed");
        }
    }
}
