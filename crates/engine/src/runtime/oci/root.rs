//! A container's root: what is mounted and made in it before it becomes `/`, and after.
//!
//! Each place is looked up once, below the root and through no link that leads out of it, and what is mounted
//! there is mounted on what was found (`open_tree(2)`, `fsopen(2)`, `move_mount(2)`): whoever changes the
//! image or a volume meanwhile can only change it for himself.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Mount, Spec};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, Uid, chmodat,
        chownat, fstat, major, makedev, minor, mknodat, openat, statx, symlinkat, unlinkat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_bind_recursive, mount_change, unmount,
    },
    process::{fchdir, pivot_root},
};

use crate::{
    error::errno_text,
    lookup,
    mounts::{self, Changes},
    runtime::in_root::Root,
};

/// Why a container's root could not be made.
type Reason = String;
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

/// The devices that every container has: their names, and the numbers of the character devices.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links of every container.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

fn because(what: impl std::fmt::Display) -> impl FnOnce(Errno) -> Reason {
    move |errno| format!("{what}: {}", errno_text(errno))
}

fn io_because(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Reason {
    move |error| match Errno::from_io_error(&error) {
        Some(errno) => format!("{what}: {}", errno_text(errno)),
        None => format!("{what}: {error}"),
    }
}

/// Mounts and makes everything below the root directory of `spec`, and makes it this process's root. This
/// process is alone in its mount namespace.
///
/// # Errors
/// In runc's words where there are any.
pub(super) fn enter(spec: &Spec) -> Result<()> {
    let linux = spec.linux().as_ref().ok_or("the specification is not one of Linux")?;
    let path = spec.root().as_ref().ok_or("the specification has no root")?.path();
    let top = top(linux, path)?;
    let root = Root::from(top.try_clone().map_err(io_because("error opening the root"))?);
    let mut own_devices = true;
    for mount in spec.mounts().iter().flatten() {
        if mount.destination() == Path::new("/dev") && is_bind(mount) {
            own_devices = false;
        }
        mount_one(&root, path, mount)?;
    }
    if own_devices {
        make_devices(&root, linux.devices().as_deref().unwrap_or_default())?;
    }
    pivot(&top).map_err(because("error entering the root (pivot_root)"))?;
    match linux.rootfs_propagation().as_deref() {
        Some("shared") => mount_change("/", MountPropagationFlags::SHARED),
        _ => Ok(()),
    }
    .map_err(because("error setting the propagation of the root"))
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

/// Mounts the root directory on itself, in a tree of mounts of which nothing gets out.
fn top(linux: &Linux, path: &Path) -> Result<OwnedFd> {
    let what = || format!("error preparing rootfs {}", path.display());
    let propagation = match linux.rootfs_propagation().as_deref() {
        Some("shared") => MountPropagationFlags::SHARED,
        Some("private") => MountPropagationFlags::PRIVATE,
        _ => MountPropagationFlags::DOWNSTREAM,
    };
    mount_change("/", propagation | MountPropagationFlags::REC).map_err(because(what()))?;
    // What is on a shared mount cannot become a root.
    let below = mount_point_of(path).map_err(io_because(what()))?;
    mount_change(&below, MountPropagationFlags::PRIVATE).map_err(because(what()))?;
    mount_bind_recursive(path, path).map_err(because(what()))?;
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(because(what()))
}

/// Where the mount is mounted that `path`, which has no links, is in.
fn mount_point_of(path: &Path) -> io::Result<PathBuf> {
    let mut point = path.to_owned();
    loop {
        let found = statx(CWD, &point, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
        if found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) || !point.pop() {
            return Ok(point);
        }
    }
}

fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
}

/// What the options of a mount mean.
#[derive(Debug)]
struct Options<'a> {
    attributes: MountAttrFlags,
    recursive: bool,
    /// Read-only with all that is mounted below.
    all_read_only: bool,
    /// For the file system itself: `name=value`, or a name alone.
    data: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Options<'a> {
    fn of(mount: &'a Mount) -> Self {
        let mut all = Self {
            attributes: MountAttrFlags::empty(),
            recursive: false,
            all_read_only: false,
            data: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            match option.as_str() {
                "rbind" => all.recursive = true,
                "ro" => all.attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
                "rro" => all.all_read_only = true,
                "nosuid" => all.attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
                "nodev" => all.attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
                "noexec" => all.attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "noatime" => all.attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
                "strictatime" => all.attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
                "nodiratime" => all.attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
                "rw" => all.attributes -= MountAttrFlags::MOUNT_ATTR_RDONLY,
                "suid" => all.attributes -= MountAttrFlags::MOUNT_ATTR_NOSUID,
                "dev" => all.attributes -= MountAttrFlags::MOUNT_ATTR_NODEV,
                "exec" => all.attributes -= MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "bind" | "relatime" | "async" | "defaults" | "sync" | "diratime" | "atime" | "" => {}
                other => all.data.push(match other.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (other, None),
                }),
            }
        }
        all
    }
}

fn mount_one(root: &Root, path: &Path, mount: &Mount) -> Result<()> {
    let source = mount.source().clone().unwrap_or_default();
    let destination = mount.destination();
    let kind = mount.typ().as_deref().unwrap_or_default();
    let what = || {
        format!(
            "error mounting {:?} to rootfs at {:?}",
            source.display().to_string(),
            destination.display().to_string()
        )
    };
    let options = Options::of(mount);
    let is_directory = !is_bind(mount) || fs::metadata(&source).map_err(io_because(what()))?.is_dir();
    let existed = root.file_type(destination).map_err(io_because(what()))?;
    let target = place(root, path, kind, destination, is_directory)
        .map_err(|reason| format!("{}: {reason}", what()))?;
    let tree = match is_bind(mount) {
        true => clone_of(&source, &options).map_err(because(what()))?,
        false => {
            let mut data = options.data.clone();
            let mode;
            // A tmpfs looks like what it is mounted on, unless it is told otherwise.
            if kind == "tmpfs" && existed.is_some() && !data.iter().any(|(name, _)| *name == "mode") {
                let stat = fstat(&target).map_err(because(what()))?;
                mode = format!("{:o}", stat.st_mode & 0o7777);
                data.push(("mode", Some(&mode)));
            }
            fresh(kind, &source, &data, options.attributes).map_err(because(what()))?
        }
    };
    mounts::attach(&tree, &target).map_err(because(what()))
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

/// A copy of the mounts at `source`, attached nowhere yet.
fn clone_of(source: &Path, options: &Options<'_>) -> std::result::Result<OwnedFd, Errno> {
    let tree = mounts::copy(CWD, source, options.recursive)?;
    if !options.attributes.is_empty() {
        Changes { set: options.attributes, ..Changes::default() }.apply(&tree)?;
    }
    if options.all_read_only {
        Changes { recursive: true, ..Changes::read_only() }.apply(&tree)?;
    }
    Ok(tree)
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

/// Makes what a container has in `/dev`.
fn make_devices(root: &Root, devices: &[LinuxDevice]) -> Result<()> {
    let dev =
        root.open_at(Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY).map_err(because("open /dev"))?;
    for (name, target) in
        LINKS.into_iter().chain(Path::new("/proc/kcore").exists().then_some(("core", "/proc/kcore")))
    {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(because(format!("error making /dev/{name}"))(errno)),
        }
    }
    for (name, major, minor) in DEVICES {
        let path = Path::new("/dev").join(name);
        if !devices.iter().any(|device| *device.path() == path) {
            let what = because(format!("error creating device node {}", path.display()));
            let numbers = (FileType::CharacterDevice, makedev(major, minor));
            make_device(root, &path, numbers, 0o666, (0, 0)).map_err(what)?;
        }
    }
    for device in devices {
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        let number = |number: i64| u32::try_from(number).unwrap_or(0);
        let numbers = (kind, makedev(number(device.major()), number(device.minor())));
        let mode = device.file_mode().unwrap_or(0o666);
        let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
        make_device(root, device.path(), numbers, mode, owner)
            .map_err(because(format!("error creating device node {}", device.path().display())))?;
    }
    let _ = unlinkat(&dev, "ptmx", AtFlags::empty());
    symlinkat("pts/ptmx", &dev, "ptmx").map_err(because("error making /dev/ptmx"))
}

fn make_device(
    root: &Root,
    path: &Path,
    (kind, number): (FileType, u64),
    mode: u32,
    (uid, gid): (u32, u32),
) -> std::result::Result<(), Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::INVAL) };
    let code = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    root.create_directories(parent).map_err(code)?;
    let parent = root.open_at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
    match mknodat(&parent, name, kind, Mode::from_raw_mode(mode & 0o7777), number) {
        // A volume on /dev may have it.
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    // Whatever the creation mask takes away.
    chmodat(&parent, name, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    chownat(&parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
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
