//! What a container has in `/dev`.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, makedev, mknodat, symlinkat, unlinkat,
    },
    io::Errno,
};

use super::{
    outside::Outside,
    root::{Reason, because},
};
use crate::{error::errno_of, mounts, runtime::in_root::Root};

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

/// A device to be made.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: PathBuf,
    pub(super) kind: FileType,
    pub(super) number: u64,
    mode: u32,
    owner: (u32, u32),
}

impl Node {
    fn of(device: &LinuxDevice) -> Self {
        let number = |number: i64| u32::try_from(number).unwrap_or(0);
        Self {
            path: device.path().clone(),
            kind: match device.typ() {
                LinuxDeviceType::B => FileType::BlockDevice,
                LinuxDeviceType::P => FileType::Fifo,
                _ => FileType::CharacterDevice,
            },
            number: makedev(number(device.major()), number(device.minor())),
            mode: device.file_mode().unwrap_or(0o666),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        }
    }
}

/// All that a container has: those of every container, and its own.
pub(super) fn nodes(spec: &Spec) -> Vec<Node> {
    let own = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let of_all = DEVICES.iter().map(|(name, major, minor)| Node {
        path: Path::new("/dev").join(name),
        kind: FileType::CharacterDevice,
        number: makedev(*major, *minor),
        mode: 0o666,
        owner: (0, 0),
    });
    let replaced = |node: &Node| own.iter().any(|device| *device.path() == node.path);
    of_all.filter(|node| !replaced(node)).chain(own.iter().map(Node::of)).collect()
}

/// Makes them below `root`, or mounts those that can only be had from outside.
pub(super) fn make(root: &Root, spec: &Spec, outside: &Outside) -> Result<(), Reason> {
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
    let what = |path: &Path| because(format!("error creating device node {}", path.display()));
    for (node, tree) in outside.devices.iter().flatten() {
        attach(root, &node.path, tree).map_err(what(&node.path))?;
    }
    for node in nodes(spec) {
        if outside.devices.is_none() || node.kind == FileType::Fifo {
            make_node(root, &node).map_err(what(&node.path))?;
        }
    }
    let _ = unlinkat(&dev, "ptmx", AtFlags::empty());
    symlinkat("pts/ptmx", &dev, "ptmx").map_err(because("error making /dev/ptmx"))
}

fn code(error: io::Error) -> Errno {
    errno_of(&error)
}

fn attach(root: &Root, path: &Path, tree: &OwnedFd) -> Result<(), Errno> {
    if root.file_type(path).map_err(code)?.is_none() {
        if let Some(parent) = path.parent() {
            root.create_directories(parent).map_err(code)?;
        }
        root.create_file(path).map_err(code)?;
    }
    mounts::attach(tree, root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW)?)
}

fn make_node(root: &Root, node: &Node) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (node.path.parent(), node.path.file_name()) else {
        return Err(Errno::INVAL);
    };
    root.create_directories(parent).map_err(code)?;
    let parent = root.open_at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let mode = Mode::from_raw_mode(node.mode & 0o7777);
    match mknodat(&parent, name, node.kind, mode, node.number) {
        // A volume on /dev may have it.
        Err(Errno::EXIST) => return Ok(()),
        made => made?,
    }
    // Whatever the creation mask takes away.
    chmodat(&parent, name, mode, AtFlags::empty())?;
    let (uid, gid) = node.owner;
    chownat(&parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
}
