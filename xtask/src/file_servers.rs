//! Another file server to measure ours beside, unpacked from the packages of Debian sid and never installed.

use std::path::PathBuf;

use anyhow::Result;

use crate::peer;

/// The program, and the libraries that are newer than this machine's.
const PACKAGES: &[(&str, &str)] = &[
    ("virtiofsd", "1.*"),
    ("libc6", "2.*"),
    ("libcap-ng0", "0.*"),
    ("libgcc-s1", "*"),
    ("libseccomp2", "2.*"),
];

/// Downloads and prepares it unless it is there already; the folder that holds `virtiofsd`.
pub(crate) fn ensure() -> Result<PathBuf> {
    peer::tools("file-servers", PACKAGES, &[("usr/libexec/virtiofsd", "virtiofsd")])
}
