//! Mounts by descriptor (`open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`): what was looked at is what is
//! mounted, whatever becomes of its path meanwhile.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx},
    io::Errno,
    mount::{
        MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount,
        open_tree, unmount,
    },
    path::Arg,
};

use crate::error::errno_of;

/// A copy of the mount that `path` is in, beginning there and attached nowhere yet; if `recursive` with the
/// mounts below it. An empty `path` is what is open as `from`.
pub(crate) fn copy(from: impl AsFd, path: impl Arg, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(from, path, flags)
}

/// Mounts `tree` on what is open as `target`.
pub(crate) fn attach(tree: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", both)
}

/// Mounts `tree` at a path that is the engine's own.
pub(crate) fn attach_at(tree: impl AsFd, target: impl Arg) -> Result<(), Errno> {
    move_mount(tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Whether something is mounted on `path`. A bind mount of the same file system has the same device number, so that
/// only the kernel can tell.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away whatever is mounted on `path`. Nothing there is no error. When this returns without one, what is at
/// `path` is its file system's own; processes that use a mount keep it.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    loop {
        match is_mount_point(path) {
            Ok(true) => unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?,
            Ok(false) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// What can be changed about a mount.
pub(crate) struct Changes<'a> {
    pub set: MountAttrFlags,
    /// Empty: as it is.
    pub propagation: MountPropagationFlags,
    /// A user namespace whose numbers of users and groups are stored as those outside of it (idmapped
    /// mounts). Only for a mount that is attached nowhere yet.
    pub ids: Option<BorrowedFd<'a>>,
    /// Whether the mounts below change, too.
    pub recursive: bool,
}

impl Default for Changes<'_> {
    fn default() -> Self {
        Self {
            set: MountAttrFlags::empty(),
            propagation: MountPropagationFlags::empty(),
            ids: None,
            recursive: false,
        }
    }
}

impl Changes<'_> {
    /// Read-only, whoever looks at it through this mount.
    pub(crate) fn read_only() -> Self {
        Self { set: MountAttrFlags::MOUNT_ATTR_RDONLY, ..Self::default() }
    }

    /// Changes the mount that is open as `mount`.
    pub(crate) fn apply(&self, mount: impl AsFd) -> Result<(), Errno> {
        let mut set = u64::from(self.set.bits());
        // How access times are kept is one field of several bits, which has to be cleared to be set.
        let clear = if set & libc::MOUNT_ATTR__ATIME == 0 { 0 } else { libc::MOUNT_ATTR__ATIME };
        if self.ids.is_some() {
            set |= libc::MOUNT_ATTR_IDMAP;
        }
        let attributes = libc::mount_attr {
            attr_set: set,
            attr_clr: clear,
            propagation: self.propagation.bits().into(),
            userns_fd: self.ids.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs())),
        };
        // SAFETY: an open descriptor, an empty path, and a structure with its own size; all live longer than
        // the call, which keeps none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_fd().as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | if self.recursive { libc::AT_RECURSIVE } else { 0 },
                &raw const attributes,
                size_of::<libc::mount_attr>(),
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(errno_of(&io::Error::last_os_error())),
        }
    }
}
