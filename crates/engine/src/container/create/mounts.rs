//! What a request mounts: volumes are made, so that a start finds them, and inspect is told.

use std::path::{Path, PathBuf};

use wire::docker::{container::MountPoint, host_config::HostConfig};

use super::validate::clean_path;
use crate::{
    container::record::Mount,
    error::{Error, Result},
    runtime::spec::{MountSource, RequestedMount, mounts::requested},
};

/// A mount that a request or an image asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One that is complete as it is asked for.
    Ready(Mount),
    /// A volume without a name that is to be made, at this place.
    Volume { point: MountPoint, fill: bool },
}

/// The mounts of `host_config` that inspect shows, then a volume for each of `volumes` (the image's
/// and the request's) that nothing else is mounted at.
///
/// # Errors
/// Mounts that make no sense, in Docker's words; volumes with names, which are to come.
pub(super) fn wanted<'a>(
    host_config: &HostConfig,
    volumes: impl Iterator<Item = &'a String>,
) -> Result<Vec<Wanted>> {
    if host_config.volumes_from.as_ref().is_some_and(|from| !from.is_empty()) {
        return Err(Error::not_implemented("--volumes-from is not implemented yet"));
    }
    let requested = requested(host_config)?;
    let mut wanted = Vec::new();
    for mount in &requested {
        let destination = mount.destination.to_string_lossy().into_owned();
        let point = MountPoint {
            destination: destination.clone(),
            mode: mount.mode.clone(),
            rw: !mount.read_only,
            ..MountPoint::default()
        };
        match &mount.source {
            MountSource::Bind { path, create } => {
                if *create && !path.exists() {
                    return Err(Error::not_implemented(format!(
                        "bind source path does not exist: {} (folders of another machine are not shared \
                         with the engine's yet, and it does not make them up)",
                        path.display()
                    )));
                }
                wanted.push(Wanted::Ready(Mount {
                    point: MountPoint {
                        kind: "bind".to_owned(),
                        source: path.to_string_lossy().into_owned(),
                        propagation: mount.propagation.clone(),
                        ..point
                    },
                    anonymous: false,
                }));
            }
            MountSource::Volume { name: None, no_copy } => {
                wanted.push(Wanted::Volume { point, fill: !no_copy });
            }
            MountSource::Volume { name: Some(name), .. } => {
                return Err(Error::not_implemented(format!(
                    "volumes with names are not implemented yet: {name}"
                )));
            }
            // As in Docker, those of `--tmpfs` are not shown.
            MountSource::Tmpfs { .. } => {
                let is_mount = |mount: &wire::docker::host_config::Mount| {
                    mount.kind == "tmpfs" && clean_path(&mount.target) == destination
                };
                if host_config.mounts.iter().flatten().any(is_mount) {
                    let point = MountPoint { kind: "tmpfs".to_owned(), ..point };
                    wanted.push(Wanted::Ready(Mount { point, anonymous: false }));
                }
            }
        }
    }
    for volume in volumes {
        let destination = clean_path(volume);
        if destination == "/" {
            return Err(Error::invalid("invalid specification: destination can't be '/'"));
        }
        if !requested.iter().any(|mount| mount.destination == Path::new(&destination)) {
            let point = MountPoint { destination, rw: true, ..MountPoint::default() };
            wanted.push(Wanted::Volume { point, fill: true });
        }
    }
    Ok(wanted)
}

/// The mount of the volume `name` at `path`.
pub(super) fn volume_mount(name: String, path: PathBuf, point: MountPoint) -> Mount {
    Mount {
        point: MountPoint {
            kind: "volume".to_owned(),
            name,
            source: path.to_string_lossy().into_owned(),
            driver: "local".to_owned(),
            ..point
        },
        anonymous: true,
    }
}

/// What the runtime mounts: what `host_config` asks for, with volumes where they are.
///
/// # Errors
/// As [`wanted`]; it was checked when the container was made.
pub(in crate::container) fn to_mount(
    host_config: &HostConfig,
    mounts: &[Mount],
) -> Result<Vec<RequestedMount>> {
    let mut all = requested(host_config)?;
    for mount in mounts.iter().filter(|mount| mount.point.kind == "volume") {
        let point = &mount.point;
        let source = MountSource::Bind { path: point.source.clone().into(), create: false };
        let destination = Path::new(&point.destination);
        match all.iter_mut().find(|requested| requested.destination == destination) {
            Some(requested) => requested.source = source,
            None => all.push(RequestedMount {
                source,
                destination: destination.to_owned(),
                read_only: !point.rw,
                mode: point.mode.clone(),
                propagation: "rprivate".to_owned(),
                non_recursive: false,
                read_only_non_recursive: false,
            }),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn host_config(binds: &[&str]) -> HostConfig {
        let binds = binds.iter().map(|bind| (*bind).to_owned()).collect();
        HostConfig { binds: Some(binds), ..HostConfig::default() }
    }

    fn destination(wanted: &Wanted) -> &str {
        match wanted {
            Wanted::Ready(mount) => &mount.point.destination,
            Wanted::Volume { point, .. } => &point.destination,
        }
    }

    #[test]
    fn each_place_is_mounted_once_and_an_images_volumes_give_way() {
        let host_config = host_config(&["/tmp:/a:ro", "/c"]);
        let volumes = ["/a", "/b/"].map(str::to_owned);
        let wanted = wanted(&host_config, volumes.iter()).unwrap();
        assert_eq!(wanted.iter().map(destination).collect::<Vec<_>>(), ["/a", "/c", "/b"]);
        let Wanted::Ready(bind) = &wanted[0] else { panic!() };
        assert_eq!((bind.point.kind.as_str(), bind.point.rw), ("bind", false));

        let mounts: Vec<Mount> = wanted
            .into_iter()
            .map(|wanted| match wanted {
                Wanted::Ready(mount) => mount,
                Wanted::Volume { point, .. } => volume_mount("v".to_owned(), "/volumes/v".into(), point),
            })
            .collect();
        let mounted = to_mount(&host_config, &mounts).unwrap();
        assert_eq!(mounted.len(), 3);
        assert!(mounted.iter().all(|mount| matches!(&mount.source, MountSource::Bind { .. })));
    }

    #[test]
    fn what_is_to_come_says_so() {
        for bind in ["name:/data", "/no/such/directory:/x"] {
            let error = wanted(&host_config(&[bind]), [].iter()).unwrap_err();
            assert_eq!(error.kind(), Kind::NotImplemented, "{bind}");
        }
    }
}
