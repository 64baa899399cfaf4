use std::fmt;

use crate::error::{Error, Result};

/// An operating system and architecture, in Go's names and normalised as containerd's `platforms` package
/// does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    pub(super) fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = match os.to_ascii_lowercase().as_str() {
            "" => "linux".to_owned(),
            "macos" => "darwin".to_owned(),
            os => os.to_owned(),
        };
        let variant = variant.to_ascii_lowercase();
        let (architecture, variant) = match architecture.to_ascii_lowercase().as_str() {
            "i386" => ("386", String::new()),
            "x86_64" | "x86-64" | "amd64" if variant == "v1" => ("amd64", String::new()),
            "x86_64" | "x86-64" | "amd64" => ("amd64", variant),
            "aarch64" | "arm64" if matches!(variant.as_str(), "8" | "v8") => ("arm64", String::new()),
            "aarch64" | "arm64" => ("arm64", variant),
            "armhf" => ("arm", "v7".to_owned()),
            "armel" => ("arm", "v6".to_owned()),
            "arm" => (
                "arm",
                match variant.as_str() {
                    "" | "7" => "v7".to_owned(),
                    digit @ ("5" | "6" | "8") => format!("v{digit}"),
                    _ => variant,
                },
            ),
            other => return Self { os, architecture: other.to_owned(), variant },
        };
        Self { os, architecture: architecture.to_owned(), variant }
    }

    /// This machine's.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" => "ppc64le",
            architecture => architecture,
        };
        Self::new("linux", architecture, "")
    }

    /// Reads `os`, `architecture`, `os/architecture` or `os/architecture/variant`.
    ///
    /// # Errors
    /// Anything else, in Docker's words.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| Err(Error::invalid(format!("{text:?}: {why}: invalid argument")));
        let parts: Vec<&str> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        if parts.len() > 3 {
            return refuse("cannot parse platform specifier");
        }
        if !parts.iter().all(is_word) {
            return refuse("an invalid component was found in the platform specifier");
        }
        let host = Self::host();
        Ok(match parts[..] {
            [one] if KNOWN_OS.contains(&one) => Self::new(one, &host.architecture, &host.variant),
            [one] => {
                let platform = Self::new("linux", one, "");
                if !KNOWN_ARCHITECTURES.contains(&platform.architecture.as_str()) {
                    return refuse("unknown operating system or architecture");
                }
                platform
            }
            [os, architecture] => Self::new(os, architecture, ""),
            [os, architecture, variant] => Self::new(os, architecture, variant),
            _ => return refuse("cannot parse platform specifier"),
        })
    }

    pub(crate) fn os(&self) -> &str {
        &self.os
    }

    pub(crate) fn architecture(&self) -> &str {
        &self.architecture
    }

    pub(crate) fn variant(&self) -> &str {
        &self.variant
    }

    /// How well an image for `image` runs where this platform is wanted: 0 is exactly right, more is
    /// worse, `None` is not at all.
    pub(super) fn rank(&self, image: &Platform) -> Option<usize> {
        self.accepted().iter().position(|accepted| accepted == image)
    }

    /// Whether an image for `image` is what is wanted, as Docker compares them.
    pub(crate) fn accepts(&self, image: &Platform) -> bool {
        self.rank(image).is_some()
    }

    /// What runs on this platform, the best first.
    fn accepted(&self) -> Vec<Platform> {
        let with = |architecture: &str, variant: &str| Platform {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        };
        let arm = |from: u32| (5..=from).rev().map(move |version| with("arm", &format!("v{version}")));
        let mut accepted = vec![self.clone()];
        match self.architecture.as_str() {
            "amd64" => {
                if let Some(level) = level(&self.variant) {
                    accepted.extend((2..level).rev().map(|level| with("amd64", &format!("v{level}"))));
                    accepted.push(with("amd64", ""));
                }
                accepted.push(with("386", ""));
            }
            "arm" => {
                if let Some(level) = level(&self.variant) {
                    accepted.extend(arm(level.saturating_sub(1)));
                }
            }
            "arm64" => {
                if !self.variant.is_empty() {
                    accepted.push(with("arm64", ""));
                }
                accepted.extend(arm(8));
            }
            _ => {}
        }
        accepted
    }
}

const KNOWN_OS: [&str; 8] =
    ["linux", "darwin", "macos", "windows", "freebsd", "netbsd", "openbsd", "solaris"];
const KNOWN_ARCHITECTURES: [&str; 10] =
    ["386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm"];

/// The number in `v3`.
fn level(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.parse().ok().filter(|level| *level < 100)
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_normalised() {
        for (written, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("arm64", "linux/arm64"),
            ("Linux/AMD64", "linux/amd64"),
        ] {
            assert_eq!(Platform::parse(written).unwrap().to_string(), shown, "{written}");
        }
        let host = Platform::host();
        assert_eq!(Platform::parse("linux").unwrap(), host);
    }

    #[test]
    fn what_is_no_platform_is_refused_in_dockers_words() {
        let message = |text: &str| Platform::parse(text).unwrap_err().to_string();
        assert_eq!(
            message("bogus/bogus/x/y"),
            "\"bogus/bogus/x/y\": cannot parse platform specifier: invalid argument"
        );
        assert!(message("linux//v8").contains("invalid component"));
        assert!(message("nonsense").contains("unknown operating system or architecture"));
    }

    #[test]
    fn the_nearest_platform_is_taken() {
        let rank = |wanted: &str, image: &str| {
            Platform::parse(wanted).unwrap().rank(&Platform::parse(image).unwrap())
        };
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/386"), Some(1));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert_eq!(rank("linux/arm64", "linux/arm64/v8"), Some(0));
        assert!(rank("linux/arm64", "linux/arm/v7") < rank("linux/arm64", "linux/arm/v6"));
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert_eq!(rank("linux/arm/v7", "linux/arm/v5"), Some(2));
    }
}
