//! What a container gets of the machine's files, opened while paths still mean the machine's, and while this
//! process may go along them: in a user namespace it may not.

use std::os::fd::OwnedFd;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::{
    fs::{CWD, FileType, fstat, stat},
    io::Errno,
    mount::MountPropagationFlags,
};

use super::{
    devices::{self, Node},
    options::Options,
    root::{Reason, because},
};
use crate::mounts::{self, Changes};

/// See the module.
pub(super) struct Outside {
    /// The root file system. Like the others it is mounted nowhere yet.
    pub(super) root: OwnedFd,
    /// In the order of the specification's mounts; `None` for what is no bind mount.
    pub(super) binds: Vec<Option<Bind>>,
    /// `None` where devices can be made.
    pub(super) devices: Option<Vec<(Node, OwnedFd)>>,
}

/// The source of a bind mount.
pub(super) struct Bind {
    pub(super) tree: OwnedFd,
    pub(super) is_directory: bool,
}

impl Outside {
    /// # Errors
    /// A source that is missing, in runc's words.
    pub(super) fn open(spec: &Spec) -> Result<Self, Reason> {
        let path = spec.root().as_ref().ok_or("the specification has no root")?.path();
        let what = || format!("error preparing rootfs {}", path.display());
        let root = mounts::copy(CWD, path, true).map_err(because(what()))?;
        let alone =
            Changes { propagation: MountPropagationFlags::PRIVATE, recursive: true, ..Changes::default() };
        alone.apply(&root).map_err(because(what()))?;
        let mounts = spec.mounts().iter().flatten();
        let binds = mounts.map(Bind::open).collect::<Result<_, _>>()?;
        let devices = in_user_namespace(spec).then(|| open_devices(spec)).transpose()?;
        Ok(Self { root, binds, devices })
    }
}

impl Bind {
    fn open(mount: &Mount) -> Result<Option<Self>, Reason> {
        if !is_bind(mount) {
            return Ok(None);
        }
        let what = || because(error_mounting(mount));
        let options = Options::of(mount);
        let source = mount.source().clone().unwrap_or_default();
        let tree = mounts::copy(CWD, &source, options.recursive).map_err(what())?;
        let is_directory =
            FileType::from_raw_mode(fstat(&tree).map_err(what())?.st_mode) == FileType::Directory;
        options.apply(&tree).map_err(what())?;
        Ok(Some(Self { tree, is_directory }))
    }
}

/// The machine's own devices with the numbers that are asked for, at the same paths.
fn open_devices(spec: &Spec) -> Result<Vec<(Node, OwnedFd)>, Reason> {
    let mut all = Vec::new();
    for node in devices::nodes(spec) {
        // A FIFO anybody may make.
        if node.kind == FileType::Fifo {
            continue;
        }
        let what = |errno| because(format!("error creating device node {}", node.path.display()))(errno);
        let found = stat(&node.path).map_err(what)?;
        if found.st_rdev != node.number || FileType::from_raw_mode(found.st_mode) != node.kind {
            return Err(what(Errno::NODEV));
        }
        let tree = mounts::copy(CWD, &node.path, false).map_err(what)?;
        all.push((node, tree));
    }
    Ok(all)
}

pub(super) fn in_user_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.typ().as_deref() == Some("bind")
}

/// runc's words.
pub(super) fn error_mounting(mount: &Mount) -> String {
    format!(
        "error mounting {:?} to rootfs at {:?}",
        mount.source().clone().unwrap_or_default().display().to_string(),
        mount.destination().display().to_string()
    )
}
