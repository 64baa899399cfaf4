//! What a request mounts: volumes are made, so that a start finds them, and inspect is told.

use std::path::Path;

use wire::docker::{
    container::MountPoint,
    host_config::{HostConfig, VolumeOptions},
};

use super::validate::clean_path;
use crate::{
    container::record::{Mount, MountedImage},
    error::{Error, Result},
    runtime::spec::{
        self, MountSource, RequestedMount,
        mounts::{DEFAULT_PROPAGATION, requested},
    },
    snapshot::LayerId,
    volume::{self, New},
};

/// Mounts spread to the container, and not from it.
const SLAVE: &str = "rslave";

/// A mount that a request or an image asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// One that is complete as it is asked for.
    Ready(Mount),
    /// A volume, to be made unless it is there. The mount lacks its name and place.
    Volume {
        mount: Mount,
        volume: New,
        /// Filled with what the image has in its place.
        fill: bool,
        /// Declared, by the image or the request, rather than mounted.
        declared: bool,
    },
}

impl Wanted {
    /// The layers of the image that is mounted, if it is one.
    pub(super) fn image_layers(&self) -> &[LayerId] {
        match self {
            Self::Ready(Mount { image: Some(image), .. }) => &image.layers,
            _ => &[],
        }
    }
}

/// The mounts of `host_config` that inspect shows, with those of other containers that nothing else is
/// mounted at; then a volume for each of `volumes` (the image's and the request's) that is left. `image`
/// finds those that are mounted; the engine's own files are in `data_root`.
///
/// # Errors
/// Those of `image`; mounts that make no sense, in Docker's words.
pub(super) fn wanted<'a>(
    host_config: &HostConfig,
    of_others: Vec<Mount>,
    volumes: impl Iterator<Item = &'a String>,
    data_root: &Path,
    image: impl Fn(&str) -> Result<MountedImage>,
) -> Result<Vec<Wanted>> {
    let requested = requested(host_config)?;
    let is_taken =
        |destination: &str| requested.iter().any(|mount| mount.destination == Path::new(destination));
    let mut wanted: Vec<Wanted> = of_others
        .into_iter()
        .filter(|mount| !is_taken(&mount.point.destination))
        .map(Wanted::Ready)
        .collect();
    let of_others: Vec<String> = wanted
        .iter()
        .filter_map(|wanted| match wanted {
            Wanted::Ready(mount) => Some(mount.point.destination.clone()),
            Wanted::Volume { .. } => None,
        })
        .collect();
    for mount in &requested {
        let destination = mount.destination.to_string_lossy().into_owned();
        let point = MountPoint {
            destination: destination.clone(),
            mode: mount.mode.clone(),
            rw: !mount.read_only,
            ..MountPoint::default()
        };
        match &mount.source {
            MountSource::Bind { path, .. } => wanted.push(Wanted::Ready(Mount {
                point: MountPoint {
                    kind: "bind".to_owned(),
                    source: path.to_string_lossy().into_owned(),
                    propagation: bind_propagation(mount, path, data_root)?.to_owned(),
                    ..point
                },
                non_recursive: mount.non_recursive,
                read_only_non_recursive: mount.read_only_non_recursive,
                ..Mount::default()
            })),
            MountSource::Volume { name, no_copy, subpath } => {
                let options = volume_options(host_config, &destination);
                let driver = match &options {
                    Some(options) => options.driver_config.clone().unwrap_or_default(),
                    None => wire::docker::host_config::DriverConfig {
                        name: host_config.volume_driver.clone(),
                        options: None,
                    },
                };
                // What Docker shows when nothing was said: its label for a shared volume.
                let mode = if point.mode.is_empty() { "z".to_owned() } else { point.mode.clone() };
                wanted.push(Wanted::Volume {
                    mount: Mount {
                        point: volume_point(MountPoint { mode, ..point }),
                        anonymous: name.is_none(),
                        subpath: subpath.clone(),
                        ..Mount::default()
                    },
                    volume: New {
                        name: name.clone().unwrap_or_default(),
                        driver: driver.name,
                        labels: options.and_then(|options| options.labels),
                        options: driver.options,
                    },
                    fill: !no_copy,
                    declared: false,
                });
            }
            MountSource::Image { name, subpath } => wanted.push(Wanted::Ready(Mount {
                point: MountPoint {
                    kind: "image".to_owned(),
                    name: name.clone(),
                    propagation: DEFAULT_PROPAGATION.to_owned(),
                    ..point
                },
                subpath: subpath.clone(),
                image: Some(image(name)?),
                ..Mount::default()
            })),
            // As in Docker, those of `--tmpfs` are not shown.
            MountSource::Tmpfs { .. } => {
                let is_mount = |mount: &wire::docker::host_config::Mount| {
                    mount.kind == "tmpfs" && clean_path(&mount.target) == destination
                };
                if host_config.mounts.iter().flatten().any(is_mount) {
                    let point = MountPoint { kind: "tmpfs".to_owned(), ..point };
                    wanted.push(Wanted::Ready(Mount { point, ..Mount::default() }));
                }
            }
        }
    }
    for volume in volumes {
        let destination = clean_path(volume);
        if destination == "/" {
            return Err(Error::invalid("invalid specification: destination can't be '/'"));
        }
        if !is_taken(&destination) && !of_others.contains(&destination) {
            let point = volume_point(MountPoint { destination, rw: true, ..MountPoint::default() });
            wanted.push(Wanted::Volume {
                mount: Mount { point, anonymous: true, ..Mount::default() },
                volume: New { driver: host_config.volume_driver.clone(), ..New::default() },
                fill: true,
                declared: true,
            });
        }
    }
    Ok(wanted)
}

/// How mounts spread to and from a bind mount of `path`. Those of other containers come and go in the
/// engine's own folder: a container that kept what it found there would keep them from being taken away.
///
/// # Errors
/// One is asked for that would do so, in Docker's words.
fn bind_propagation<'a>(mount: &'a RequestedMount, path: &Path, data_root: &Path) -> Result<&'a str> {
    let holds_others = path.starts_with(data_root) || data_root.starts_with(path);
    match mount.propagation.as_deref() {
        None if holds_others => Ok(SLAVE),
        None => Ok(DEFAULT_PROPAGATION),
        Some(propagation) if holds_others && !matches!(propagation, SLAVE | "rshared") => {
            let [root, path] = [data_root, path].map(|path| path.display().to_string());
            Err(Error::invalid(format!(
                "invalid mount config: must use either propagation mode \"rslave\" or \"rshared\" when mount \
                 source is within the daemon root, daemon root: {root:?}, bind mount source: {path:?}, \
                 propagation: {propagation:?}"
            )))
        }
        Some(propagation) => Ok(propagation),
    }
}

fn volume_point(point: MountPoint) -> MountPoint {
    MountPoint { kind: "volume".to_owned(), driver: volume::DRIVER.to_owned(), ..point }
}

/// What `--mount` says of the volume at `destination`; `None` for `-v`.
fn volume_options(host_config: &HostConfig, destination: &str) -> Option<VolumeOptions> {
    let mut mounts = host_config.mounts.iter().flatten();
    let mount = mounts.find(|mount| mount.kind == "volume" && clean_path(&mount.target) == destination)?;
    Some(mount.volume_options.clone().unwrap_or_default())
}

/// What the runtime mounts: what `host_config` asks for, and what the container got otherwise. Volumes have
/// their names.
///
/// # Errors
/// As [`wanted`]; it was checked when the container was made.
pub(in crate::container) fn to_mount(
    host_config: &HostConfig,
    mounts: &[Mount],
) -> Result<Vec<RequestedMount>> {
    let mut all = requested(host_config)?;
    for mount in mounts.iter().filter(|mount| mount.point.kind != "tmpfs") {
        let point = &mount.point;
        let source = if mount.is_volume() {
            let (name, subpath) = (Some(point.name.clone()), mount.subpath.clone());
            MountSource::Volume { name, no_copy: true, subpath }
        } else if mount.image.is_some() {
            MountSource::Image { name: point.name.clone(), subpath: mount.subpath.clone() }
        } else {
            MountSource::Bind { path: point.source.clone().into(), create: false }
        };
        let destination = Path::new(&point.destination);
        // What nobody has asked for is done where it can be.
        let propagation = Some(point.propagation.clone()).filter(|propagation| {
            let can_be = || spec::mounted_as_shared_or_slave(Path::new(&point.source)).is_ok();
            !propagation.is_empty() && (propagation != SLAVE || can_be())
        });
        match all.iter_mut().find(|requested| requested.destination == destination) {
            Some(requested) if mount.is_volume() => requested.source = source,
            Some(requested) => requested.propagation = requested.propagation.take().or(propagation),
            None => all.push(RequestedMount {
                source,
                destination: destination.to_owned(),
                read_only: !point.rw,
                mode: point.mode.clone(),
                propagation,
                non_recursive: mount.non_recursive,
                read_only_non_recursive: mount.read_only_non_recursive && !point.rw,
                read_only_force_recursive: false,
            }),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const DATA: &str = "/var/lib/coracle";

    fn host_config(binds: &[&str]) -> HostConfig {
        let binds = binds.iter().map(|bind| (*bind).to_owned()).collect();
        HostConfig { binds: Some(binds), ..HostConfig::default() }
    }

    fn no_image(name: &str) -> Result<MountedImage> {
        Err(Error::not_found(name))
    }

    fn mount(wanted: &Wanted) -> &Mount {
        match wanted {
            Wanted::Ready(mount) | Wanted::Volume { mount, .. } => mount,
        }
    }

    #[test]
    fn each_place_is_mounted_once_and_others_give_way() {
        let host_config = host_config(&["/tmp:/a:ro", "data:/c"]);
        let volumes = ["/a", "/b/", "/d"].map(str::to_owned);
        let others = ["/c", "/d"].map(|destination| Mount {
            point: volume_point(MountPoint {
                destination: destination.to_owned(),
                name: "other".to_owned(),
                ..MountPoint::default()
            }),
            anonymous: true,
            subpath: "part".to_owned(),
            ..Mount::default()
        });
        let wanted =
            wanted(&host_config, others.to_vec(), volumes.iter(), Path::new(DATA), no_image).unwrap();
        let destinations: Vec<&str> =
            wanted.iter().map(|wanted| mount(wanted).point.destination.as_str()).collect();
        assert_eq!(destinations, ["/d", "/a", "/c", "/b"]);
        let Wanted::Ready(bind) = &wanted[1] else { panic!() };
        assert_eq!((bind.point.kind.as_str(), bind.point.rw), ("bind", false));
        let Wanted::Volume { mount: named, volume, fill: true, declared: false } = &wanted[2] else {
            panic!()
        };
        assert_eq!((volume.name.as_str(), named.point.mode.as_str(), named.anonymous), ("data", "z", false));

        let mounts: Vec<Mount> = wanted.iter().map(mount).cloned().collect();
        let mounted = to_mount(&host_config, &mounts).unwrap();
        assert_eq!(mounted.len(), 4);
        let part = mounted.iter().find(|mount| mount.destination == Path::new("/d")).unwrap();
        assert_eq!(
            part.source,
            MountSource::Volume { name: Some("other".to_owned()), no_copy: true, subpath: "part".to_owned() }
        );
    }

    #[test]
    fn the_engines_own_folder_is_not_held() {
        let propagation = |bind: &str| {
            let all = wanted(&host_config(&[bind]), Vec::new(), [].iter(), Path::new(DATA), no_image)?;
            Ok::<_, Error>(mount(&all[0]).point.propagation.clone())
        };
        assert_eq!(propagation("/srv:/x").unwrap(), "rprivate");
        assert_eq!(propagation("/var/lib/coracle-2:/x").unwrap(), "rprivate");
        for path in ["/", "/var", DATA, "/var/lib/coracle/volumes"] {
            assert_eq!(propagation(&format!("{path}:/x")).unwrap(), "rslave", "{path}");
            assert_eq!(propagation(&format!("{path}:/x:rshared")).unwrap(), "rshared", "{path}");
            let error = propagation(&format!("{path}:/x:rprivate")).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidParameter);
            assert!(error.to_string().contains(&format!("bind mount source: {path:?}, propagation: \"rpri")));
        }
    }
}
