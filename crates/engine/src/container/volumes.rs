//! Volumes as containers have and use them.

use super::{
    Container, Containers,
    record::{Mount, Record},
};
use crate::{
    error::Result,
    runtime::spec::{MountSource, RequestedMount, mounts},
};

impl Containers {
    /// What `--volumes-from` brings: the mounts of other containers, as they are for this one.
    ///
    /// # Errors
    /// No such container, and modes that there are not, in Docker's words.
    pub(super) fn mounts_of_others(&self, specifications: &[String]) -> Result<Vec<Mount>> {
        let mut all: Vec<Mount> = Vec::new();
        for text in specifications {
            let (name, writable) = mounts::parse_volumes_from(text)?;
            let other = self.get(name).map_err(|error| crate::error::Error::invalid(error.to_string()))?;
            let record = other.record();
            // A tmpfs is nothing that could be shared.
            for mount in record.mounts.iter().filter(|mount| mount.point.kind != "tmpfs") {
                let mut mount = mount.clone();
                mount.point.mode = String::new();
                mount.point.rw &= writable;
                all.retain(|other| other.point.destination != mount.point.destination);
                all.push(mount);
            }
        }
        Ok(all)
    }

    /// Makes the volumes of a container ready for `user`, and puts where their files are in their place
    /// among `mounts`. The user is the container's ID when it is about to start, another word for whoever
    /// else needs its files; [`Containers::unmount_volumes`] gives them back.
    ///
    /// # Errors
    /// A volume that cannot be mounted, a part that it does not have; in Docker's words.
    pub(super) fn mount_volumes(
        &self,
        record: &Record,
        user: &str,
        mut mounts: Vec<RequestedMount>,
    ) -> Result<Vec<RequestedMount>> {
        for mount in &mut mounts {
            let MountSource::Volume { name: Some(name), subpath, .. } = &mount.source else { continue };
            let mut path = self.0.volumes.mount(name, user)?;
            if !subpath.is_empty() {
                path = self.0.parts.make(user, &path, subpath)?;
            }
            let destination = mount.destination.to_string_lossy();
            let attributes = [
                ("container", record.id.as_str()),
                ("destination", &destination),
                ("propagation", ""),
                ("read/write", if mount.read_only { "false" } else { "true" }),
            ];
            self.0.volumes.emit(name, "mount", attributes);
            mount.source = MountSource::Bind { path, create: false };
        }
        Ok(mounts)
    }

    /// Gives the volumes of a container back that `user` had.
    pub(super) fn unmount_volumes(&self, container: &Container, user: &str) {
        self.0.parts.remove(user);
        let unmounted = self.0.volumes.unmount(user);
        for mount in container.record().mounts.iter().filter(|mount| mount.is_volume()) {
            if unmounted.contains(&mount.point.name) {
                self.0.volumes.emit(&mount.point.name, "unmount", [("container", container.id.as_str())]);
            }
        }
    }
}
