//! Sizes as people write them: `512M`, `4G`, `1T`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Units of 1024, longest first so that the display picks the largest that divides evenly.
const UNITS: [(char, u64); 3] = [('T', GIB << 10), ('G', GIB), ('M', MIB)];

/// A number of bytes that is a whole number of MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(u64);

impl Size {
    /// Rounds down to a whole MiB.
    pub(crate) fn from_bytes(bytes: u64) -> Size {
        Size(bytes - bytes % MIB)
    }

    /// A size known while compiling; `bytes` MUST be a whole number of MiB.
    pub(crate) const fn whole(bytes: u64) -> Size {
        assert!(bytes.is_multiple_of(MIB));
        Size(bytes)
    }

    pub(crate) fn bytes(self) -> u64 {
        self.0
    }

    pub(crate) fn mib(self) -> u64 {
        self.0 / MIB
    }
}

/// Why a text is no size.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number and a unit, as in 512M, 4G or 1T")]
pub(crate) struct BadSize(Box<str>);

impl FromStr for Size {
    type Err = BadSize;

    /// Accepts `4G`, `4g`, `4GB` and `4GiB`, all of which mean 4 × 2³⁰ bytes, as docker does.
    fn from_str(text: &str) -> Result<Size, BadSize> {
        let bad = || BadSize(text.into());
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text[digits.len()..].trim().to_ascii_uppercase();
        let letter = unit.chars().next().ok_or_else(bad)?;
        if !["", "B", "IB"].contains(&&unit[letter.len_utf8()..]) {
            return Err(bad());
        }
        let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == letter).ok_or_else(bad)?;
        let number: u64 = digits.parse().map_err(|_| bad())?;
        number.checked_mul(factor).map(Size).ok_or_else(bad)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS.into_iter().find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(('M', MIB));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Bytes for people, with one decimal: `1.4 GiB`.
pub(crate) fn human(bytes: u64) -> String {
    // A display of two or three digits: what f64 loses of a u64 does not show.
    let (unit, name) = match bytes {
        GIB.. => (GIB, "GiB"),
        MIB.. => (MIB, "MiB"),
        _ => (1 << 10, "KiB"),
    };
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    if tenths.is_multiple_of(10) {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_units_of_1024() {
        for (text, bytes) in [
            ("512M", 512 * MIB),
            ("4G", 4 * GIB),
            ("4g", 4 * GIB),
            ("4GiB", 4 * GIB),
            ("4GB", 4 * GIB),
            ("4 G", 4 * GIB),
            ("2T", 2048 * GIB),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().bytes(), bytes, "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "G",
            "4",
            "4K",
            "-4G",
            "4.5G",
            "4GX",
            "4Gé",
            "é",
            "99999999999999999999G",
            "18446744073709551615T",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?} passed");
        }
    }

    #[test]
    fn a_size_is_shown_as_it_would_be_written() {
        for text in ["512M", "4G", "1536M", "1T", "0M"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bytes_are_shown_with_one_decimal() {
        assert_eq!(human(0), "0 KiB");
        assert_eq!(human(1536 * MIB), "1.5 GiB");
        assert_eq!(human(60 * GIB), "60 GiB");
        assert_eq!(human(u64::MAX), "17179869184 GiB");
    }
}
