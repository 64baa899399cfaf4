//! Volumes, and images that are mounted, as containers have and use them.

use std::path::{Path, PathBuf};

use super::{
    Container, Containers,
    record::{Mount, Record},
};
use crate::{
    error::{Error, Result},
    runtime::spec::{MountSource, RequestedMount, mounts},
    userns::Userns,
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
            let other = self.get(name).map_err(|error| Error::invalid(error.to_string()))?;
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

    /// Makes the volumes and mounted images of a container ready for `user`, and puts where their files are
    /// in their place among `mounts`, with the owners that they have in `userns`. The user is the container's
    /// ID when it is about to start, another word for whoever else needs its files;
    /// [`Containers::unmount_volumes`] gives them back.
    ///
    /// # Errors
    /// A volume that cannot be mounted, a part that it does not have; in Docker's words.
    pub(super) fn mount_volumes(
        &self,
        record: &Record,
        user: &str,
        mut mounts: Vec<RequestedMount>,
        userns: Option<&Userns>,
    ) -> Result<Vec<RequestedMount>> {
        for mount in &mut mounts {
            if let MountSource::Image { subpath, .. } = &mount.source {
                let path = self.mount_image(record, user, &mount.destination, subpath, userns)?;
                mount.source = MountSource::Bind { path, create: false };
                continue;
            }
            let MountSource::Volume { name: Some(name), subpath, .. } = &mount.source else { continue };
            let mut path = self.0.volumes.mount(name, user)?;
            if let Some(userns) = userns {
                path = userns.path(&path);
            }
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

    /// Mounts what a container shows of an image at `destination`, and says where.
    fn mount_image(
        &self,
        record: &Record,
        user: &str,
        destination: &Path,
        subpath: &str,
        userns: Option<&Userns>,
    ) -> Result<PathBuf> {
        let mut mounts = record.mounts.iter();
        let mount = mounts.find(|mount| Path::new(&mount.point.destination) == destination);
        let image = mount.and_then(|mount| mount.image.as_ref());
        let image = image.ok_or_else(|| {
            Error::system(format!("nobody knows the image mounted at {}", destination.display()))
        })?;
        let whole = self.0.parts.make_directory(user)?;
        self.0.snapshots.mount_image(&image.layers, userns, &whole)?;
        if subpath.is_empty() { Ok(whole) } else { self.0.parts.make(user, &whole, subpath) }
    }

    /// Gives the volumes and mounted images of a container back that `user` had.
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
