//! A container's root: what is mounted and made in it before it becomes `/`, and after.
//!
//! Each place is looked up once, below the root and through no link that leads out of it, and what is mounted
//! there is mounted on what was found (`open_tree(2)`, `fsopen(2)`, `move_mount(2)`): whoever changes the
//! image or a volume meanwhile can only change it for himself.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Mount, Spec};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, major, minor, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, unmount,
    },
    process::{fchdir, pivot_root},
};

use super::{
    devices,
    options::Options,
    outside::{Bind, Outside, error_mounting, is_bind},
};
use crate::{
    error::errno_text,
    lookup,
    mounts::{self, Changes},
    runtime::in_root::Root,
};

/// Why a container's root could not be made.
pub(super) type Reason = String;
type Result<T> = std::result::Result<T, Reason>;

/// What may be mounted below `/proc`: single files that tell of the machine.
const ALLOWED_IN_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

pub(super) fn because(what: impl std::fmt::Display) -> impl FnOnce(Errno) -> Reason {
    move |errno| format!("{what}: {}", errno_text(errno))
}

fn io_because(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Reason {
    move |error| match Errno::from_io_error(&error) {
        Some(errno) => format!("{what}: {}", errno_text(errno)),
        None => format!("{what}: {error}"),
    }
}

/// Mounts and makes everything below the root of `outside`, and makes it this process's root. This process is
/// alone in its mount namespace.
///
/// # Errors
/// In runc's words where there are any.
pub(super) fn enter(spec: &Spec, outside: &Outside) -> Result<()> {
    let linux = spec.linux().as_ref().ok_or("the specification is not one of Linux")?;
    let path = spec.root().as_ref().ok_or("the specification has no root")?.path();
    // Neither what comes nor what goes here concerns the machine.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(because("error preparing the mounts"))?;
    // On the machine's own root, which needs no path to be gone along.
    mounts::attach(&outside.root, machine_root().map_err(because("error opening the machine's root"))?)
        .map_err(because(format!("error preparing rootfs {}", path.display())))?;
    let root = outside.root.try_clone().map_err(io_because("error opening the root"))?;
    let root = Root::from(root);
    let mut own_devices = true;
    let mut sealed = Vec::new();
    let points: Vec<&PathBuf> = spec.mounts().iter().flatten().map(Mount::destination).collect();
    for (mount, bind) in spec.mounts().iter().flatten().zip(&outside.binds) {
        if mount.destination() == Path::new("/dev") && is_bind(mount) {
            own_devices = false;
        }
        let to_seal = match bind {
            Some(bind) => mount_bind(&root, path, mount, bind).map(|()| None),
            None => mount_fresh(&root, path, mount, &points),
        };
        sealed.extend(to_seal?.map(|tree| (tree, mount)));
    }
    if own_devices {
        devices::make(&root, spec, outside)?;
    }
    for (tree, mount) in sealed {
        Changes::read_only().apply(&tree).map_err(because(error_mounting(mount)))?;
    }
    pivot(&outside.root).map_err(because("error entering the root (pivot_root)"))?;
    match linux.rootfs_propagation().as_deref() {
        Some("shared") => mount_change("/", MountPropagationFlags::SHARED),
        _ => Ok(()),
    }
    .map_err(because("error setting the propagation of the root"))
}

fn machine_root() -> std::result::Result<OwnedFd, Errno> {
    openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The last of it, when everything that is written to is written: the settings of the kernel that are the
/// container's, and what it may not write or see.
pub(super) fn seal(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref().ok_or("the specification is not one of Linux")?;
    let root = Root::open(Path::new("/")).map_err(io_because("error opening the root"))?;
    for (name, value) in linux.sysctl().iter().flatten() {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        let what = |doing| because(format!("write sysctl key {name}: {doing} {}", path.display()));
        let file = root.open_at(&path, OFlags::WRONLY | OFlags::NOFOLLOW).map_err(what("open"))?;
        rustix::io::write(&file, value.as_bytes()).map_err(what("write"))?;
    }
    if spec.root().as_ref().and_then(|root| root.readonly()) == Some(true) {
        Changes::read_only().apply(&root).map_err(because("error making the root read-only"))?;
    }
    for path in linux.readonly_paths().iter().flatten() {
        protect(&root, Path::new(path)).map_err(because(format!("error making {path} read-only")))?;
    }
    for path in linux.masked_paths().iter().flatten() {
        mask(&root, Path::new(path)).map_err(because(format!("error masking {path}")))?;
    }
    Ok(())
}

fn mount_bind(root: &Root, path: &Path, mount: &Mount, bind: &Bind) -> Result<()> {
    let destination = mount.destination();
    let what = || error_mounting(mount);
    let existed = root.file_type(destination).map_err(io_because(what()))?;
    if existed.is_some_and(|kind| (kind == FileType::Directory) != bind.is_directory) {
        return Err(because(what())(Errno::NOTDIR));
    }
    let target = place(root, path, "bind", destination, bind.is_directory)
        .map_err(|reason| format!("{}: {reason}", what()))?;
    mounts::attach(&bind.tree, &target).map_err(because(what()))
}

/// Mounts a file system of the container's own, among the mount points `points`. Returns it if it is to become
/// read-only once the others are mounted on it.
fn mount_fresh(root: &Root, path: &Path, mount: &Mount, points: &[&PathBuf]) -> Result<Option<OwnedFd>> {
    let destination = mount.destination();
    let kind = mount.typ().as_deref().unwrap_or_default();
    let what = || error_mounting(mount);
    let mut options = Options::of(mount);
    let holds_others =
        kind == "tmpfs" && points.iter().any(|point| *point != destination && point.starts_with(destination));
    let seal = holds_others && options.attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY);
    if seal {
        options.attributes -= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let existed = root.file_type(destination).map_err(io_because(what()))?;
    let target =
        place(root, path, kind, destination, true).map_err(|reason| format!("{}: {reason}", what()))?;
    let mode;
    // A tmpfs looks like what it is mounted on, unless it is told otherwise.
    if kind == "tmpfs" && existed.is_some() && !options.data.iter().any(|(name, _)| *name == "mode") {
        let stat = fstat(&target).map_err(because(what()))?;
        mode = format!("{:o}", stat.st_mode & 0o7777);
        options.data.push(("mode", Some(&mode)));
    }
    let source = mount.source().clone().unwrap_or_default();
    let tree = fresh(kind, &source, &options.data, options.attributes).map_err(because(what()))?;
    mounts::attach(&tree, &target).map_err(because(what()))?;
    Ok(seal.then_some(tree))
}

/// The place to mount on, which is made if it is missing.
fn place(root: &Root, path: &Path, kind: &str, destination: &Path, is_directory: bool) -> Result<OwnedFd> {
    let told = |error: io::Error| io_because("mkdir")(error);
    if root.file_type(destination).map_err(told)?.is_none() {
        match is_directory {
            true => root.create_directories(destination),
            false => root.create_file(destination),
        }
        .map_err(told)?;
    }
    let flags = OFlags::PATH;
    if matches!(kind, "proc" | "sysfs") {
        // What the kernel tells must not be put where an image's link leads.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let relative = destination.strip_prefix("/").unwrap_or(destination);
        return lookup::open(root.as_fd(), relative, flags | OFlags::DIRECTORY, resolve)
            .map_err(|_| format!("filesystem {kind:?} must be mounted on ordinary directory"));
    }
    let followed = root.follow(destination).map_err(told)?;
    let in_proc = followed.starts_with("/proc");
    if in_proc && !ALLOWED_IN_PROC.iter().any(|allowed| followed == Path::new(allowed)) {
        let shown = path.join(followed.strip_prefix("/").unwrap_or(&followed));
        return Err(format!(
            "{:?} cannot be mounted because it is inside /proc",
            shown.display().to_string()
        ));
    }
    root.open_at(destination, flags).map_err(because("open"))
}

/// A new file system, attached nowhere yet.
fn fresh(
    kind: &str,
    source: &Path,
    data: &[(&str, Option<&str>)],
    attributes: MountAttrFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let kind = if kind == "cgroup" { "cgroup2" } else { kind };
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (name, value) in data {
        match value {
            Some(value) => fsconfig_set_string(&context, *name, *value)?,
            None => fsconfig_set_flag(&context, *name)?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes the mount at `top` this process's root, and lets go of the old one (pivot_root(2), "pivot_root(".",
/// ".")").
fn pivot(top: &OwnedFd) -> std::result::Result<(), Errno> {
    let old = openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    fchdir(top)?;
    pivot_root(".", ".")?;
    fchdir(&old)?;
    // Taking it away here must not take it away elsewhere.
    mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// Makes what is at `path` read-only. Nothing there is fine.
fn protect(root: &Root, path: &Path) -> std::result::Result<(), Errno> {
    let target = match root.open_at(path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        target => target?,
    };
    let tree = mounts::copy(&target, c"", true)?;
    Changes::read_only().apply(&tree)?;
    mounts::attach(&tree, &target)
}

/// Hides what is at `path`. Nothing there is fine.
fn mask(root: &Root, path: &Path) -> std::result::Result<(), Errno> {
    let target = match root.open_at(path, OFlags::PATH) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        target => target?,
    };
    if FileType::from_raw_mode(fstat(&target)?.st_mode) == FileType::Directory {
        let nothing = fresh("tmpfs", Path::new("tmpfs"), &[], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
        return mounts::attach(&nothing, &target);
    }
    let null = root.open_at(Path::new("/dev/null"), OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = fstat(&null)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice
        || (major(stat.st_rdev), minor(stat.st_rdev)) != (1, 3)
    {
        return Err(Errno::NODEV);
    }
    mounts::attach(mounts::copy(&null, c"", false)?, &target)
}
