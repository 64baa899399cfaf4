//! What the options of a mount mean.

use std::os::fd::AsFd;

use oci_spec::runtime::Mount;
use rustix::{
    io::Errno,
    mount::{MountAttrFlags, MountPropagationFlags},
};

use crate::mounts::Changes;

/// Those of one mount.
#[derive(Debug)]
pub(super) struct Options<'a> {
    pub(super) attributes: MountAttrFlags,
    pub(super) recursive: bool,
    /// Read-only with all that is mounted below.
    all_read_only: bool,
    /// How mounts and unmounts below it spread, and whether that is so below its own mounts, too; in order.
    propagation: Vec<(MountPropagationFlags, bool)>,
    /// For the file system itself: `name=value`, or a name alone.
    pub(super) data: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Options<'a> {
    pub(super) fn of(mount: &'a Mount) -> Self {
        let mut all = Self {
            attributes: MountAttrFlags::empty(),
            recursive: false,
            all_read_only: false,
            propagation: Vec::new(),
            data: Vec::new(),
        };
        for option in mount.options().iter().flatten() {
            if let Some(propagation) = propagation(option) {
                all.propagation.push(propagation);
                continue;
            }
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

    /// Makes it so for a mount that is attached nowhere yet.
    pub(super) fn apply(&self, mount: impl AsFd) -> Result<(), Errno> {
        let shares = self.propagation.iter().any(|(kind, _)| kind.contains(MountPropagationFlags::SHARED));
        if !shares {
            // What is mounted on it in the container must not appear in the machine.
            Changes { propagation: MountPropagationFlags::DOWNSTREAM, recursive: true, ..Changes::default() }
                .apply(&mount)?;
        }
        for (propagation, recursive) in &self.propagation {
            Changes { propagation: *propagation, recursive: *recursive, ..Changes::default() }
                .apply(&mount)?;
        }
        if !self.attributes.is_empty() {
            Changes { set: self.attributes, ..Changes::default() }.apply(&mount)?;
        }
        if self.all_read_only {
            Changes { recursive: true, ..Changes::read_only() }.apply(&mount)?;
        }
        Ok(())
    }
}

fn propagation(option: &str) -> Option<(MountPropagationFlags, bool)> {
    let kind = match option.strip_prefix('r').unwrap_or(option) {
        "private" => MountPropagationFlags::PRIVATE,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "shared" => MountPropagationFlags::SHARED,
        _ => return None,
    };
    Some((kind, option.starts_with('r')))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_are_told_apart() {
        let mount: Mount = serde_json::from_value(json!({
            "destination": "/x", "type": "tmpfs", "source": "tmpfs",
            "options": ["rbind", "ro", "nosuid", "suid", "rslave", "private", "mode=755", "huge"]
        }))
        .unwrap();
        let options = Options::of(&mount);
        assert_eq!(options.attributes, MountAttrFlags::MOUNT_ATTR_RDONLY);
        assert!(options.recursive && !options.all_read_only);
        let propagation =
            [(MountPropagationFlags::DOWNSTREAM, true), (MountPropagationFlags::PRIVATE, false)];
        assert_eq!(options.propagation, propagation);
        assert_eq!(options.data, [("mode", Some("755")), ("huge", None)]);
    }
}
