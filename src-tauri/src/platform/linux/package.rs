//! Installing a newer package of the app's.

use std::{io::Write, path::Path, process::Stdio};

use tokio::process::Command;

use crate::error::{Error, Result};

/// `dpkg-deb`'s files begin so: see deb(5).
const DEB: &[u8] = b"!<arch>\ndebian-binary";

/// Installs a package whose signature MUST have been verified. dpkg leaves the old version in place when it fails.
pub(crate) async fn install(package: &[u8]) -> Result<()> {
    if !package.starts_with(DEB) {
        return Err(Error::host("the update is no Debian package"));
    }
    let failed = |error: std::io::Error| Error::host(format!("cannot keep the update: {error}"));
    // A folder of its own, which nobody else can write to.
    let folder = tempfile::Builder::new().prefix("coracle-update").tempdir().map_err(failed)?;
    let path = folder.path().join("coracle.deb");
    std::fs::File::create(&path)
        .and_then(|mut file| {
            file.write_all(package)?;
            file.sync_all()
        })
        .map_err(failed)?;
    let output =
        command(&path).stdin(Stdio::null()).output().await.map_err(|error| {
            Error::host(format!("cannot ask for an administrator's rights: pkexec: {error}"))
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("without a word");
    Err(Error::host(format!("the update was not installed ({}): {last}", output.status)))
}

fn command(path: &Path) -> Command {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new("dpkg")
    } else {
        let mut pkexec = Command::new("pkexec");
        pkexec.arg("dpkg");
        pkexec
    };
    command.arg("--install").arg(path);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_package_is_not_installed() {
        let error = install(b"#!/bin/sh\nrm -rf /\n").await.unwrap_err();
        assert!(error.message.contains("no Debian package"), "{error}");
    }
}
