//! What of the host a container can mount when the engine is in a machine: the host's shares.

use std::path::{Path, PathBuf};

use wire::docker::host_config::HostConfig;

use crate::error::{Error, Result};

/// Refuses bind mounts of what is neither in a share nor in the machine. A user means a folder of the host, and one made
/// up in the machine would be gone with it.
///
/// # Errors
/// In Docker Desktop's words, and what to change.
pub(super) fn check(shares: &[PathBuf], host_config: &HostConfig) -> Result<()> {
    for source in sources(host_config) {
        let path = Path::new(source);
        let shared = shares.iter().any(|share| path.starts_with(share));
        if !shared && path.is_absolute() && path.symlink_metadata().is_err() {
            return Err(Error::invalid(format!(
                "Mounts denied: The path {source} is not shared from the host and is not known to Docker. You can \
                 configure shared paths with `coracle config set shares` (see `coracle config`)"
            )));
        }
    }
    Ok(())
}

/// What bind mounts are of: a volume's name is no absolute path.
fn sources(host_config: &HostConfig) -> impl Iterator<Item = &str> {
    let binds = host_config.binds.iter().flatten();
    let binds = binds.filter_map(|bind| bind.split_once(':')).map(|(source, _)| source);
    let mounts = host_config.mounts.iter().flatten().filter(|mount| mount.kind == "bind");
    binds.chain(mounts.map(|mount| mount.source.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::docker::host_config::Mount;

    #[test]
    fn what_is_in_a_share_or_in_the_machine_can_be_mounted() {
        let shares = [PathBuf::from("/no/such/home")];
        let bind = |bind: &str| HostConfig { binds: Some(vec![bind.to_owned()]), ..HostConfig::default() };
        for fine in ["/no/such/home:/x", "/no/such/home/new:/x:ro", "/proc:/x", "volume:/x", "/x"] {
            check(&shares, &bind(fine)).unwrap();
        }
        let mount =
            Mount { kind: "bind".to_owned(), source: "/no/such/homes".to_owned(), ..Mount::default() };
        let mounts = HostConfig { mounts: Some(vec![mount]), ..HostConfig::default() };
        for wrong in [bind("/no/such:/x"), mounts] {
            let error = check(&shares, &wrong).unwrap_err().to_string();
            assert!(error.starts_with("Mounts denied: The path /no/such"), "{error}");
        }
    }
}
