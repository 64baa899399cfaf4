//! What of the host a container can mount when the engine is in a machine: the host's shares.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use wire::{docker::host_config::HostConfig, settings::SSH_AGENT_SOCKET};

use crate::{
    error::{Error, Result},
    runtime::spec::mounts::bind_sources,
};

/// Refuses bind mounts of what is neither in a share nor in the machine. A user means a folder of the host, and one made
/// up in the machine would be gone with it.
///
/// # Errors
/// In Docker Desktop's words, and what to change.
pub(super) fn check(shares: &[PathBuf], host_config: &HostConfig) -> Result<()> {
    for path in bind_sources(host_config) {
        let shared = shares.iter().any(|share| path.starts_with(share));
        let missing = || path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if !shared && missing() {
            if path == Path::new(SSH_AGENT_SOCKET) {
                return Err(Error::invalid(format!(
                    "Mounts denied: {SSH_AGENT_SOCKET} is the host's ssh-agent, and there was none when the machine was \
                     started. Set SSH_AUTH_SOCK and use `coracle restart`"
                )));
            }
            return Err(Error::invalid(format!(
                "Mounts denied: The path {} is not shared from the host and is not known to Docker. You can \
                 configure shared paths with `coracle config set shares` (see `coracle config`)",
                path.display()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::docker::host_config::Mount;

    #[test]
    fn what_is_in_a_share_or_in_the_machine_can_be_mounted() {
        let shares = [PathBuf::from("/no/such/home")];
        let bind = |bind: &str| HostConfig { binds: Some(vec![bind.to_owned()]), ..HostConfig::default() };
        let fine = [
            "/no/such/home:/x",
            "/no/such/home/./a/../new:/x:ro",
            "/proc:/x",
            "/dev/null/below:/x",
            "volume:/x",
            "/x",
            "/no/such:/x:odd",
        ];
        for fine in fine {
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
