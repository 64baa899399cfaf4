//! Other user-mode networks to measure ours beside, unpacked from the packages of Debian sid and never installed.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::peer;

/// The programs, and the libraries that are newer than this machine's.
const PACKAGES: &[(&str, &str)] = &[
    ("passt", "0.*"),
    ("slirp4netns", "1.*"),
    ("libslirp0", "4.*"),
    ("libc6", "2.*"),
    ("libglib2.0-0t64", "2.*"),
    ("libpcre2-8-0", "10.*"),
    ("libseccomp2", "2.*"),
];

/// Downloads and prepares them unless they are there already; the folder that holds `pasta` and `slirp4netns`.
pub(crate) fn ensure() -> Result<PathBuf> {
    // pasta looks for this one beside itself, by a name that it no longer has as a copy.
    let pasta = if has_avx2() { "usr/bin/pasta.avx2" } else { "usr/bin/pasta" };
    peer::tools("networks", PACKAGES, &[(pasta, "pasta"), ("usr/bin/slirp4netns", "slirp4netns")])
}

fn has_avx2() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    flags.lines().any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "avx2"))
}
