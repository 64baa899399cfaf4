//! Folders of the host, at the same paths.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{self, MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use wire::settings::{SHARES_TAG, Share};

use super::mounts;

/// Where the file system is mounted that holds them all, until each has its place.
const ALL: &str = "/run/shares";

/// The host's device nodes name other devices here.
const FLAGS: MountFlags = MountFlags::NODEV;

/// Mounts the shares and gives those that are there. One that is not costs the containers that need it, not the others.
pub(super) fn mount(shares: Vec<Share>) -> Vec<Share> {
    let mounted = if shares.is_empty() { Vec::new() } else { mount_all(shares) };
    mounts::seal_root();
    mounted
}

fn mount_all(shares: Vec<Share>) -> Vec<Share> {
    if let Err(error) = mount_file_system() {
        tracing::error!("there are no folders of the host: {error:#}");
        return Vec::new();
    }
    let mounted = (0..).zip(shares).filter_map(|(number, share): (usize, Share)| {
        let result = place(&Path::new(ALL).join(number.to_string()), &share);
        result.inspect_err(|error| tracing::error!("{error:#}")).ok().map(|()| share)
    });
    let mounted = mounted.collect();
    if let Err(error) = unmount(ALL, UnmountFlags::DETACH) {
        tracing::warn!("cannot unmount {ALL}: {error}");
    }
    mounted
}

fn mount_file_system() -> Result<()> {
    fs::create_dir_all(ALL).with_context(|| format!("cannot make {ALL}"))?;
    mount::mount(SHARES_TAG, ALL, "virtiofs", FLAGS, None).with_context(|| format!("cannot mount {ALL}"))
}

fn place(from: &Path, share: &Share) -> Result<()> {
    let at = Path::new(&share.path);
    let failed = || format!("cannot mount {share}, a folder of the host");
    fs::create_dir_all(at).with_context(failed)?;
    mount_bind(from, at).with_context(failed)?;
    if share.read_only {
        mount_remount(at, MountFlags::BIND | MountFlags::RDONLY | FLAGS, c"").with_context(failed)?;
    }
    Ok(())
}
