use std::{fmt, path::PathBuf, str::FromStr};

use crate::error::Error;

/// An address the API is served on, as in `--host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// `unix:///run/docker.sock`.
    Unix(PathBuf),
    /// `vsock://2375`: a port of this machine's own vsock address.
    Vsock(u32),
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unusable =
            || Error::invalid(format!("cannot serve on {text:?}: use unix:///absolute/path or vsock://PORT"));
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("vsock", port)) => port.parse().map(Self::Vsock).map_err(|error| unusable().because(error)),
            _ => Err(unusable()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Vsock(port) => write!(f, "vsock://{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_and_others_are_refused() {
        for text in ["unix:///run/docker.sock", "vsock://2375"] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), text);
        }
        for text in ["unix://relative", "tcp://0.0.0.0:2375", "vsock://", "docker.sock"] {
            assert!(text.parse::<Host>().unwrap_err().to_string().contains(text), "{text}");
        }
    }
}
