use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::OFlags;
use tokio::sync::OwnedRwLockReadGuard;

use super::{Container, Containers, create, etc_files::EtcFiles};
use crate::{
    error::{Context, Result},
    mounts,
    network::Mode,
    runtime::{in_root::Root, spec::MountSource},
    snapshot::{RootView, bind},
    userns::Owners,
};

/// A container's root, running or not, that can be read and written whatever becomes of the container. As
/// long as it is held, the container is not removed.
pub(super) struct Files {
    view: RootView,
    _volumes: Option<HeldVolumes>,
    _kept: OwnedRwLockReadGuard<()>,
}

/// The volumes of a container, for as long as its files are looked at.
struct HeldVolumes {
    containers: Containers,
    container: Arc<Container>,
    user: String,
}

impl HeldVolumes {
    fn new(containers: &Containers, container: &Arc<Container>) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let user = format!("{}-{}", container.id, COUNTER.fetch_add(1, Ordering::Relaxed));
        Self { containers: containers.clone(), container: container.clone(), user }
    }
}

impl Drop for HeldVolumes {
    fn drop(&mut self) {
        let (containers, container) = (self.containers.clone(), self.container.clone());
        let user = std::mem::take(&mut self.user);
        let give_back = move || containers.unmount_volumes(&container, &user);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(give_back)),
            Err(_) => give_back(),
        }
    }
}

impl Files {
    /// The root directory.
    pub(super) fn top(&self) -> &OwnedFd {
        self.view.root()
    }

    /// Whose files are whose.
    pub(super) fn owners(&self) -> Owners {
        self.view.owners()
    }

    /// The same, to look paths up in.
    pub(super) fn root(&self) -> Result<Root> {
        let root = self.view.root().try_clone().context(|| "open the root of a container".to_owned())?;
        Ok(Root::from(root))
    }
}

impl Containers {
    /// The container's own files, without what is mounted in it.
    pub(super) async fn bare_files(&self, container: &Arc<Container>) -> Result<Files> {
        let kept = container.files.clone().read_owned().await;
        let (snapshots, id) = (self.0.snapshots.clone(), container.id.clone());
        let userns = self.userns_of(&container.record()).cloned();
        // Whatever becomes of who asked, the lock is held as long as there is a view.
        crate::blocking(move || {
            let view = snapshots.view(&id, userns.as_ref(), |_, _| Ok(()))?;
            Ok(Files { view, _volumes: None, _kept: kept })
        })
        .await
    }

    /// What `docker cp` sees: the container's own files, its volumes and what else is bound into it. As in
    /// Docker, that is neither `/proc`, `/sys` and `/dev`, nor what is in memory only.
    pub(super) async fn files(&self, container: &Arc<Container>) -> Result<Files> {
        let kept = container.files.clone().read_owned().await;
        let (containers, container) = (self.clone(), container.clone());
        crate::blocking(move || {
            let volumes = HeldVolumes::new(&containers, &container);
            let mount = |root: BorrowedFd<'_>, owners: Owners| {
                let mount = || containers.mount_files(&container, &volumes.user, root, owners);
                owners.as_root(mount).context(|| "become the container's root".to_owned())?
            };
            let record = container.record();
            let view = containers.0.snapshots.view(&container.id, containers.userns_of(&record), mount)?;
            Ok(Files { view, _volumes: Some(volumes), _kept: kept })
        })
        .await
    }

    fn mount_files(
        &self,
        container: &Container,
        user: &str,
        root: BorrowedFd<'_>,
        owners: Owners,
    ) -> Result<()> {
        let record = container.record();
        let host = &record.host_config;
        let root = root.try_clone_to_owned().context(|| "open the root of a container".to_owned())?;
        let root = Root::from(root);
        let mounts = create::to_mount(host, &record.mounts)?;
        let userns = self.0.userns.as_ref().filter(|_| owners.are_remapped());
        let mut mounts = self.mount_volumes(&record, user, mounts, userns)?;
        // What is mounted in another mount comes after it.
        mounts.sort_by_key(|mount| mount.destination.components().count());
        for mount in &mounts {
            let MountSource::Bind { path, .. } = &mount.source else { continue };
            mount.prepare()?;
            mount_one(&root, path, &mount.destination, mount.read_only, !mount.non_recursive)?;
        }
        let files = match Mode::of(&host.network_mode) {
            Mode::Container(other) => self.get(&other).map(|other| EtcFiles::in_directory(&other.directory)),
            _ => Ok(EtcFiles::in_directory(&container.directory)),
        };
        let Ok(files) = files else { return Ok(()) };
        for (path, destination) in [
            (&files.hostname, "/etc/hostname"),
            (&files.hosts, "/etc/hosts"),
            (&files.resolv_conf, "/etc/resolv.conf"),
        ] {
            let destination = Path::new(destination);
            // They are made when the container first starts.
            if path.exists() && !mounts.iter().any(|mount| mount.destination == destination) {
                let path = userns.map_or_else(|| path.clone(), |userns| userns.path(path));
                mount_one(&root, &path, destination, host.readonly_rootfs, false)?;
            }
        }
        if host.readonly_rootfs {
            mounts::Changes::read_only().apply(&root).context(|| "make the root read-only".to_owned())?;
        }
        Ok(())
    }
}

/// Mounts `source` at `destination` in a container, which is made if it is missing.
fn mount_one(root: &Root, source: &Path, destination: &Path, read_only: bool, recursive: bool) -> Result<()> {
    let mount = || {
        if root.file_type(destination)?.is_none() {
            match std::fs::metadata(source)?.is_dir() {
                true => root.create_directories(destination)?,
                false => root.create_file(destination)?,
            }
        }
        let target = root.open_at(destination, OFlags::PATH)?;
        bind(source, target.as_fd(), read_only, recursive)
    };
    mount().context(|| format!("mount {} at {}", source.display(), destination.display()))
}
