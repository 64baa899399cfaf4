//! What a user asks to be mounted (`-v`, `--mount`, `--tmpfs`), and the mounts every container has.

use std::{
    fs,
    io::ErrorKind,
    path::{Component, Path, PathBuf},
};

use rustix::{fs::Mode, io::Errno};
use wire::docker::host_config::{HostConfig, Mount, TmpfsOptions};

use crate::{
    error::{Error, Result, errno_of, errno_text},
    volume,
};

/// How mounts spread to and from a container unless something else is asked for.
pub(crate) const DEFAULT_PROPAGATION: &str = "rprivate";
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

/// One mount that a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedMount {
    pub source: MountSource,
    /// Absolute and clean, not `/`.
    pub destination: PathBuf,
    pub read_only: bool,
    /// The third part of `-v`, as inspect shows it.
    pub mode: String,
    /// One of `mount(8)`'s, with or without `r`; `None` for the usual one.
    pub propagation: Option<String>,
    /// Without what is mounted below the source.
    pub non_recursive: bool,
    /// `read_only` does not hold for what is mounted below the source.
    pub read_only_non_recursive: bool,
    /// `read_only` has to hold for what is mounted below the source.
    pub read_only_force_recursive: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A path on this machine.
    Bind {
        path: PathBuf,
        /// Made if it is missing, as a directory.
        create: bool,
    },
    /// A volume; one without a name is the container's own. Whoever knows volumes makes it a
    /// [`MountSource::Bind`] before the container starts.
    Volume {
        name: Option<String>,
        /// Not filled with what the image has in its place.
        no_copy: bool,
        /// What in the volume is mounted, relative to it; empty for all of it.
        subpath: String,
    },
    /// An image's files. Whoever knows images makes it a [`MountSource::Bind`] before the container starts.
    Image {
        name: String,
        /// What in the image is mounted, relative to its root; empty for all of it.
        subpath: String,
    },
    Tmpfs {
        /// Comma-separated, as `mount(8)` takes them.
        options: String,
    },
}

/// All mounts that `host` asks for, in Docker's order.
///
/// # Errors
/// What Docker refuses, in its words; kinds of mounts that are not implemented.
pub fn requested(host: &HostConfig) -> Result<Vec<RequestedMount>> {
    let mut all: Vec<RequestedMount> = Vec::new();
    let mut add = |mount: RequestedMount| {
        if all.iter().any(|other| other.destination == mount.destination) {
            let path = mount.destination.display();
            return Err(Error::invalid(format!("Duplicate mount point: {path}")));
        }
        all.push(mount);
        Ok(())
    };
    for text in host.binds.iter().flatten() {
        add(parse_bind(text)?)?;
    }
    for mount in host.mounts.iter().flatten() {
        add(parse_mount(mount)?)?;
    }
    for (destination, options) in host.tmpfs.iter().flatten() {
        let destination = check_destination(destination)?;
        tmpfs_options(options)?;
        add(RequestedMount {
            source: MountSource::Tmpfs { options: options.clone() },
            ..RequestedMount::at(destination)
        })?;
    }
    Ok(all)
}

impl RequestedMount {
    fn at(destination: PathBuf) -> Self {
        Self {
            source: MountSource::Tmpfs { options: String::new() },
            destination,
            read_only: false,
            mode: String::new(),
            propagation: None,
            non_recursive: false,
            read_only_non_recursive: false,
            read_only_force_recursive: false,
        }
    }

    /// Makes the source if it is missing and is to be made. To be called when the container starts.
    ///
    /// # Errors
    /// It cannot be made; in Docker's words.
    pub fn prepare(&self) -> Result<()> {
        let MountSource::Bind { path, create: true } = &self.source else { return Ok(()) };
        make_directories(path).map_err(|(place, errno)| {
            Error::system(format!(
                "error while creating mount source path '{}': mkdir {}: {}",
                path.display(),
                place.display(),
                errno_text(errno)
            ))
        })
    }

    /// The options of the mount in an OCI specification.
    ///
    /// # Errors
    /// Those that contradict each other, in Docker's words.
    pub(super) fn options(&self) -> Result<Vec<String>> {
        let conflict = |what: &str| Err(Error::system(format!("mount options conflict: {what}")));
        match (self.read_only, self.read_only_non_recursive, self.read_only_force_recursive) {
            (false, true, _) => return conflict("!ReadOnly && BindOptions.ReadOnlyNonRecursive"),
            (false, _, true) => return conflict("!ReadOnly && BindOptions.ReadOnlyForceRecursive"),
            (true, true, true) => {
                return conflict("ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive");
            }
            _ => {}
        }
        let mut options = match &self.source {
            MountSource::Tmpfs { options } => return tmpfs_options(options),
            _ if self.non_recursive => vec!["bind".to_owned()],
            _ => vec!["rbind".to_owned()],
        };
        if self.read_only {
            options.push("ro".to_owned());
            if !self.read_only_non_recursive && !self.non_recursive {
                options.push("rro".to_owned());
            }
        }
        options.push(self.propagation.as_deref().unwrap_or(DEFAULT_PROPAGATION).to_owned());
        Ok(options)
    }
}

/// Makes a directory and those above it, unless something is there already. Fails with the path that cannot
/// be made. A file above it is no error here: the mount tells.
fn make_directories(path: &Path) -> Result<(), (PathBuf, Errno)> {
    let is_missing = |place: &&Path| match fs::metadata(place) {
        Ok(_) => false,
        Err(error) => error.kind() != ErrorKind::NotADirectory,
    };
    let mut missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    while let Some(place) = missing.pop() {
        match rustix::fs::mkdir(place, Mode::from_raw_mode(0o755)) {
            Ok(()) => {}
            // Made by somebody else meanwhile.
            Err(Errno::EXIST) if place.is_dir() => {}
            Err(Errno::NOTDIR) => return Ok(()),
            Err(errno) => return Err((place.to_owned(), errno)),
        }
    }
    Ok(())
}

/// `[SOURCE:]DESTINATION[:MODE]`. Docker takes what is wrong with it for a fault of its own, not of the
/// request.
fn parse_bind(text: &str) -> Result<RequestedMount> {
    let unusable = || Error::system(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    let (source, destination, mode) = match parts.as_slice() {
        [""] | ["", ..] => return Err(unusable()),
        [destination] => ("", *destination, ""),
        [_, destination] if is_mode(destination) => return Err(unusable()),
        [source, destination] => (*source, *destination, ""),
        [source, destination, mode] => (*source, *destination, *mode),
        _ => return Err(unusable()),
    };
    if !is_mode(mode) {
        return Err(Error::system(format!("invalid mode: {mode}")));
    }
    let wrapped = |error: Error| unusable().because(error);
    let kind = if source.starts_with('/') { "bind" } else { "volume" };
    let destination = check_destination(destination)
        .map_err(|error| mount_config(kind, &error.to_string()))
        .map_err(wrapped)?;
    let words = || mode.split(',');
    let chosen = words().find(|word| PROPAGATIONS.contains(word));
    let source = if kind == "bind" {
        MountSource::Bind { path: clean(Path::new(source)), create: true }
    } else if chosen.is_some() {
        return Err(wrapped(mount_config(kind, "field BindOptions must not be specified")));
    } else {
        let name = Some(source.to_owned()).filter(|name| !name.is_empty());
        let no_copy = words().any(|word| word == "nocopy");
        MountSource::Volume { name, no_copy, subpath: String::new() }
    };
    Ok(RequestedMount {
        source,
        read_only: words().any(|word| word == "ro"),
        mode: mode.to_owned(),
        propagation: chosen.map(str::to_owned),
        ..RequestedMount::at(destination)
    })
}

/// What the bind mounts of a request are of, as far as they are well-formed: what is not is refused elsewhere.
pub(crate) fn bind_sources(host: &HostConfig) -> impl Iterator<Item = PathBuf> {
    let binds = host.binds.iter().flatten().filter_map(|bind| match parse_bind(bind).ok()?.source {
        MountSource::Bind { path, .. } => Some(path),
        _ => None,
    });
    let mounts = host.mounts.iter().flatten().filter(|mount| mount.kind == "bind");
    let mounts = mounts.map(|mount| clean(Path::new(&mount.source))).filter(|path| path.is_absolute());
    binds.chain(mounts)
}

/// `CONTAINER[:MODE]` of `--volumes-from`: the container, and whether its mounts may be written.
pub(crate) fn parse_volumes_from(text: &str) -> Result<(&str, bool)> {
    if text.is_empty() {
        return Err(Error::invalid("volumes-from specification cannot be an empty string"));
    }
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    // How each is mounted is the other container's.
    let other = |word: &str| word == "nocopy" || PROPAGATIONS.contains(&word);
    if !is_mode(mode) || mode.split(',').any(other) {
        return Err(Error::invalid(format!("invalid mode: {mode}")));
    }
    Ok((container, !mode.split(',').any(|word| word == "ro")))
}

/// At most one word of each kind. SELinux labels (`z`) and consistency mean nothing here, as in Docker
/// without SELinux and on Linux.
fn is_mode(mode: &str) -> bool {
    const KINDS: [&[&str]; 5] =
        [&["rw", "ro"], &["z", "Z"], &PROPAGATIONS, &["nocopy"], &["consistent", "cached", "delegated"]];
    if mode.is_empty() {
        return true;
    }
    let mut seen = [false; KINDS.len()];
    mode.split(',').all(|word| {
        KINDS
            .iter()
            .zip(&mut seen)
            .find(|(words, _)| words.contains(&word))
            .is_some_and(|(_, seen)| !std::mem::replace(seen, true))
    })
}

fn mount_config(kind: &str, reason: &str) -> Error {
    Error::invalid(format!("invalid mount config for type {kind:?}: {reason}"))
}

fn parse_mount(mount: &Mount) -> Result<RequestedMount> {
    let kind = mount.kind.as_str();
    let refuse = |reason: &str| mount_config(kind, reason);
    let extra = |present: bool, field: &str| {
        if present { Err(refuse(&format!("field {field} must not be specified"))) } else { Ok(()) }
    };
    if mount.target.is_empty() {
        return Err(refuse("field Target must not be empty"));
    }
    let destination = check_destination(&mount.target).map_err(|error| refuse(&error.to_string()))?;
    let requested = RequestedMount { read_only: mount.read_only, ..RequestedMount::at(destination) };
    match kind {
        "bind" => {
            extra(mount.volume_options.is_some(), "VolumeOptions")?;
            extra(mount.image_options.is_some(), "ImageOptions")?;
            let options = mount.bind_options.clone().unwrap_or_default();
            if mount.source.is_empty() {
                return Err(refuse("field Source must not be empty"));
            }
            if !mount.source.starts_with('/') {
                let source = &mount.source;
                return Err(refuse(&format!("invalid mount path: '{source}' mount path must be absolute")));
            }
            let propagation = match options.propagation.as_str() {
                "" => None,
                known if PROPAGATIONS.contains(&known) => Some(known.to_owned()),
                other => return Err(refuse(&format!("invalid propagation mode: {other}"))),
            };
            let path = clean(Path::new(&mount.source));
            match fs::metadata(&path) {
                Ok(_) => {}
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(refuse(&format!("stat {}: {}", mount.source, errno_text(errno_of(&error)))));
                }
                Err(_) if options.create_mountpoint => {}
                Err(_) => return Err(refuse(&format!("bind source path does not exist: {}", mount.source))),
            }
            Ok(RequestedMount {
                source: MountSource::Bind { path, create: options.create_mountpoint },
                propagation,
                non_recursive: options.non_recursive,
                read_only_non_recursive: options.read_only_non_recursive,
                read_only_force_recursive: options.read_only_force_recursive,
                ..requested
            })
        }
        "volume" => {
            extra(mount.bind_options.is_some(), "BindOptions")?;
            extra(mount.image_options.is_some(), "ImageOptions")?;
            if mount.read_only && mount.source.is_empty() {
                return Err(refuse("must not set ReadOnly mode when using anonymous volumes"));
            }
            let name = Some(mount.source.clone()).filter(|name| !name.is_empty());
            let options = mount.volume_options.clone().unwrap_or_default();
            let (no_copy, subpath) = (options.no_copy, options.subpath);
            if !subpath.is_empty() && name.is_none() {
                return Err(refuse("must not set Subpath when using anonymous volumes"));
            }
            volume::check_subpath(&subpath).map_err(refuse)?;
            Ok(RequestedMount { source: MountSource::Volume { name, no_copy, subpath }, ..requested })
        }
        "tmpfs" => {
            extra(mount.bind_options.is_some(), "BindOptions")?;
            extra(mount.image_options.is_some(), "ImageOptions")?;
            extra(!mount.source.is_empty(), "Source")?;
            let options = convert_tmpfs(mount.tmpfs_options.as_ref(), mount.read_only)
                .map_err(|reason| refuse(&reason))?;
            Ok(RequestedMount { source: MountSource::Tmpfs { options }, read_only: false, ..requested })
        }
        "image" => {
            extra(mount.bind_options.is_some(), "BindOptions")?;
            extra(mount.volume_options.is_some(), "VolumeOptions")?;
            if mount.source.is_empty() {
                return Err(refuse("field Source must not be empty"));
            }
            let subpath = mount.image_options.clone().unwrap_or_default().subpath;
            volume::check_subpath(&subpath).map_err(refuse)?;
            let source = MountSource::Image { name: mount.source.clone(), subpath };
            // As in Docker, whatever was asked for: an image does not change.
            Ok(RequestedMount { source, read_only: true, ..requested })
        }
        _ => Err(refuse("mount type unknown")),
    }
}

fn check_destination(path: &str) -> Result<PathBuf> {
    let cleaned = clean(Path::new(path));
    if cleaned == Path::new("/") {
        return Err(Error::invalid("invalid specification: destination can't be '/'"));
    }
    if !path.starts_with('/') {
        return Err(Error::invalid(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    Ok(cleaned)
}

/// The path without `.`, `..` and double slashes; `..` goes up by name, as in Go's `path.Clean`.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// `--mount type=tmpfs`'s fields as options.
fn convert_tmpfs(options: Option<&TmpfsOptions>, read_only: bool) -> Result<String, String> {
    let mut all = Vec::new();
    if read_only {
        all.push("ro".to_owned());
    }
    let Some(options) = options else { return Ok(all.join(",")) };
    if let Some(mode) = options.mode.filter(|mode| *mode != 0) {
        all.push(format!("mode={mode:o}"));
    }
    if let Some(size) = options.size_bytes.filter(|size| *size != 0) {
        all.push(format!("size={size}"));
    }
    for option in options.options.iter().flatten() {
        match option.as_slice() {
            [name] if matches!(name.as_str(), "exec" | "noexec") => all.push(name.clone()),
            [name] | [name, _] => return Err(format!("invalid option: {name}")),
            _ => return Err("invalid option array length".to_owned()),
        }
    }
    Ok(all.join(","))
}

/// A tmpfs's options, over Docker's defaults: of those that contradict each other the last counts.
fn tmpfs_options(text: &str) -> Result<Vec<String>> {
    const FLAGS: [&[&str]; 9] = [
        &["ro", "rw"],
        &["suid", "nosuid"],
        &["dev", "nodev"],
        &["exec", "noexec"],
        &["sync", "async"],
        &["dirsync"],
        &["atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime"],
        &["diratime", "nodiratime"],
        &PROPAGATIONS,
    ];
    const DATA: [&str; 8] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"];
    let defaults = ["noexec", "nosuid", "nodev"];
    let given = text.split(',').filter(|option| !option.is_empty() && *option != "defaults");
    let mut chosen: Vec<(&str, &str)> = Vec::new();
    for option in defaults.into_iter().chain(given) {
        let kind = match option.split_once('=') {
            Some((name, _)) => DATA.into_iter().find(|known| *known == name),
            None => FLAGS
                .into_iter()
                .find(|flags| flags.contains(&option))
                .and_then(|flags| flags.first().copied()),
        };
        let Some(kind) = kind else {
            let words: Vec<&str> = option.splitn(2, '=').collect();
            let words = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ");
            return Err(Error::invalid(format!("invalid tmpfs option [{words}]")));
        };
        chosen.retain(|(other, _)| *other != kind);
        chosen.push((kind, option));
    }
    Ok(chosen.into_iter().map(|(_, option)| option.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use wire::docker::host_config::BindOptions;

    use super::*;

    fn error(text: &str) -> String {
        parse_bind(text).unwrap_err().to_string()
    }

    #[test]
    fn binds_are_read_as_in_docker() {
        let mount = parse_bind("/a/../b:/c/:ro,rshared").unwrap();
        assert_eq!(mount.source, MountSource::Bind { path: "/b".into(), create: true });
        assert_eq!(mount.destination, Path::new("/c"));
        assert_eq!(mount.options().unwrap(), ["rbind", "ro", "rro", "rshared"]);
        let mount = parse_bind("data:/c:nocopy").unwrap();
        assert_eq!(
            mount.source,
            MountSource::Volume { name: Some("data".into()), no_copy: true, subpath: String::new() }
        );
        let own = MountSource::Volume { name: None, no_copy: false, subpath: String::new() };
        assert_eq!(parse_bind("/c").unwrap().source, own);
        assert_eq!(error("/a:/b:rw,ro"), "invalid mode: rw,ro");
        assert_eq!(error("/a:/b:nonsense"), "invalid mode: nonsense");
        assert_eq!(error("/a:ro"), "invalid volume specification: '/a:ro'");
        assert_eq!(error(":/b"), "invalid volume specification: ':/b'");
        assert_eq!(error("/a:/b:rw:x"), "invalid volume specification: '/a:/b:rw:x'");
        assert_eq!(
            error("/a:/"),
            "invalid volume specification: '/a:/': invalid mount config for type \"bind\": invalid specification: \
             destination can't be '/'"
        );
        assert!(error("/a:b").contains("invalid mount path: 'b' mount path must be absolute"));
    }

    #[test]
    fn mounts_are_checked_as_in_docker() {
        let bind =
            Mount { kind: "bind".into(), source: "/nosuch".into(), target: "/b".into(), ..Mount::default() };
        let error = |mount: &Mount| parse_mount(mount).unwrap_err().to_string();
        assert_eq!(
            error(&bind),
            "invalid mount config for type \"bind\": bind source path does not exist: /nosuch"
        );
        let options = Some(BindOptions { create_mountpoint: true, ..BindOptions::default() });
        assert!(parse_mount(&Mount { bind_options: options, ..bind.clone() }).is_ok());
        let options = Some(BindOptions { propagation: "odd".into(), ..BindOptions::default() });
        assert!(error(&Mount { bind_options: options, ..bind.clone() }).ends_with("propagation mode: odd"));
        assert!(
            error(&Mount { target: String::new(), ..bind.clone() }).ends_with("Target must not be empty")
        );
        assert!(error(&Mount { kind: "odd".into(), ..bind }).ends_with("mount type unknown"));
        let tmpfs = Mount {
            kind: "tmpfs".into(),
            target: "/t".into(),
            tmpfs_options: Some(TmpfsOptions {
                size_bytes: Some(1 << 20),
                mode: Some(0o1777),
                options: Some(vec![vec!["exec".into()]]),
            }),
            ..Mount::default()
        };
        let options = parse_mount(&tmpfs).unwrap().options().unwrap();
        assert_eq!(options, ["nosuid", "nodev", "mode=1777", "size=1048576", "exec"]);
    }

    #[test]
    fn tmpfs_options_override_the_defaults() {
        let options = |text| tmpfs_options(text).unwrap().join(",");
        assert_eq!(options(""), "noexec,nosuid,nodev");
        assert_eq!(options("exec,size=64m,ro,rw"), "nosuid,nodev,exec,size=64m,rw");
        let error = tmpfs_options("size").unwrap_err().to_string();
        assert_eq!(error, "invalid tmpfs option [\"size\"]");
        assert_eq!(tmpfs_options("a=b").unwrap_err().to_string(), "invalid tmpfs option [\"a\" \"b\"]");
    }

    #[test]
    fn volumes_from_takes_few_modes() {
        assert_eq!(parse_volumes_from("web").unwrap(), ("web", true));
        assert_eq!(parse_volumes_from("web:ro,z").unwrap(), ("web", false));
        for mode in ["nocopy", "rshared", "odd", "ro,rw"] {
            let error = parse_volumes_from(&format!("web:{mode}")).unwrap_err().to_string();
            assert_eq!(error, format!("invalid mode: {mode}"));
        }
    }

    #[test]
    fn one_place_takes_one_mount() {
        let host = HostConfig { binds: Some(vec!["/a:/c".into(), "/b:/c/".into()]), ..HostConfig::default() };
        assert_eq!(requested(&host).unwrap_err().to_string(), "Duplicate mount point: /c");
    }
}
