//! The file systems every Linux program expects, on top of a read-only root.
//!
//! The root is the image's with a layer of memory above it, in which places for the host's folders are made: nobody knows
//! their names beforehand. When these are made it becomes read-only.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

struct Entry {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    options: &'static str,
    /// Without it nothing works: its absence is the guest's failure, and not only a line in the log.
    essential: bool,
}

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const FILES: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

/// Everything but what comes [`first`].
const TABLE: &[Entry] = &[
    Entry { kind: "sysfs", at: "/sys", flags: PLAIN, options: "", essential: true },
    Entry { kind: "tmpfs", at: "/run", flags: FILES, options: "mode=755", essential: true },
    Entry { kind: "tmpfs", at: "/tmp", flags: FILES, options: "mode=1777", essential: true },
    // Group 5 is `tty` in every distribution; its terminals are group-writable so that `write` works.
    Entry {
        kind: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "gid=5,mode=620,ptmxmode=666",
        essential: true,
    },
    Entry { kind: "tmpfs", at: "/dev/shm", flags: FILES, options: "mode=1777", essential: true },
    // Folders of a read-only root that shells and tools write in.
    Entry { kind: "tmpfs", at: "/root", flags: FILES, options: "mode=700", essential: false },
    Entry { kind: "tmpfs", at: "/var/log", flags: FILES, options: "mode=755", essential: false },
    Entry { kind: "tmpfs", at: "/var/tmp", flags: FILES, options: "mode=1777", essential: false },
    Entry { kind: "mqueue", at: "/dev/mqueue", flags: PLAIN, options: "", essential: false },
    Entry { kind: "bpf", at: "/sys/fs/bpf", flags: PLAIN, options: "mode=700", essential: false },
    Entry {
        kind: "binfmt_misc",
        at: "/proc/sys/fs/binfmt_misc",
        flags: PLAIN,
        options: "",
        essential: false,
    },
];

/// Device nodes' names that programs expect and devtmpfs does not make.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts what everything else needs: `/dev`, unless the kernel has done so, and `/proc`. MUST come before
/// anything that wants random numbers: without `/dev/urandom` a statically linked program may fail to
/// seed its generators.
pub(crate) fn first() -> Result<()> {
    let root = layer_root();
    let devices = mount_one("devtmpfs", Path::new("/dev"), MountFlags::NOSUID, "mode=755");
    let processes = mount_one("proc", Path::new("/proc"), PLAIN, "");
    // Without the layer there are no shares, and everything else.
    if let Err(error) = root {
        tracing::error!("{error:#}");
    }
    devices.and(processes)
}

/// A folder of the image in which the layer is put together.
const WORKSHOP: &str = "/mnt";

/// Puts a layer of memory above the root.
fn layer_root() -> Result<()> {
    let place = |name: &str| Path::new(WORKSHOP).join(name);
    mount_one("tmpfs", Path::new(WORKSHOP), FILES, "mode=755,size=16m")?;
    for name in ["upper", "work", "root"] {
        fs::create_dir(place(name)).with_context(|| format!("cannot make {}", place(name).display()))?;
    }
    let options = format!("lowerdir=/,upperdir={WORKSHOP}/upper,workdir={WORKSHOP}/work");
    let root = place("root");
    mount_one("overlay", &root, MountFlags::empty(), &options)?;
    std::env::set_current_dir(&root)?;
    // The old root is put over the new one, and taken away from there (pivot_root(2)).
    rustix::process::pivot_root(".", ".").context("cannot change the root")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH).context("cannot leave the old root")?;
    std::env::set_current_dir("/").context("cannot enter the new root")
}

/// Makes the root read-only, as the image is: what would be written there would be gone with the machine.
pub(crate) fn seal_root() {
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    if let Err(error) = rustix::mount::mount_remount("/", flags, c"") {
        tracing::warn!("the root stays writable: {error}");
    }
}

/// Mounts the rest. Returns what is missing and essential; the others are only logged.
pub(crate) fn all() -> Result<()> {
    let mut missing = Ok(());
    for entry in TABLE {
        if let Err(error) = mount_one(entry.kind, Path::new(entry.at), entry.flags, entry.options) {
            if entry.essential && missing.is_ok() {
                missing = Err(error);
            } else {
                tracing::warn!("{error:#}");
            }
        }
    }
    for (to, link) in LINKS {
        if let Err(error) = symlink(to, link)
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            tracing::warn!("cannot link {link} to {to}: {error}");
        }
    }
    // The root's /etc/resolv.conf points here; an empty file means "no name server yet".
    if let Err(error) = fs::OpenOptions::new().create(true).append(true).open("/run/resolv.conf") {
        tracing::warn!("cannot create /run/resolv.conf: {error}");
    }
    missing?;
    // A bind mount with `rshared` needs a source that is shared, as it is under systemd.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .context("cannot share the mounts below /")?;
    tracing::debug!("file systems are mounted");
    Ok(())
}

/// Mounts one pseudo file system. An existing mount of the same kind is good enough.
pub(super) fn mount_one(kind: &str, at: &Path, flags: MountFlags, options: &str) -> Result<()> {
    if !at.is_dir() {
        fs::create_dir_all(at)
            .with_context(|| format!("no directory {} to mount {kind} on", at.display()))?;
    }
    let data = CString::new(options)?;
    match mount(kind, at, kind, flags, data.as_c_str()) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot mount {kind} on {}", at.display())),
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) at: PathBuf,
    pub(crate) kind: String,
}

/// This process's mounts, in the order in which they were mounted.
pub(crate) fn current() -> Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(parse_mountinfo(&text))
}

/// proc(5): `id parent major:minor root mount-point options optional… - kind source super-options`.
fn parse_mountinfo(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let at = fields.nth(4)?;
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            Some(Mount { at: unescape(at), kind: String::from_utf8_lossy(kind).into_owned() })
        })
        .collect()
}

/// The kernel writes blanks, line ends and backslashes of a path as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        path.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_gives_paths_and_kinds() {
        let text = b"22 1 254:0 / / ro,relatime shared:1 - erofs /dev/root ro\n\
            40 22 254:16 / /var/lib/coracle rw,noatime shared:9 master:2 - ext4 /dev/vdb rw\n\
            51 40 0:41 / /var/lib/coracle/a\\040b\\134 rw - overlay overlay rw,lowerdir=/x\n\
            garbage\n";
        let mounts = parse_mountinfo(text);
        let seen: Vec<_> =
            mounts.iter().map(|mount| (mount.at.to_str().unwrap(), mount.kind.as_str())).collect();
        assert_eq!(
            seen,
            [("/", "erofs"), ("/var/lib/coracle", "ext4"), ("/var/lib/coracle/a b\\", "overlay")]
        );
    }

    #[test]
    fn a_cut_escape_stays_as_it_is() {
        assert_eq!(unescape(b"/a\\04"), PathBuf::from("/a\\04"));
        assert_eq!(unescape(b"/a\\777"), PathBuf::from("/a\\777"));
    }

    #[test]
    fn this_process_has_a_root_mount() {
        assert!(current().unwrap().iter().any(|mount| mount.at == Path::new("/")));
    }
}
