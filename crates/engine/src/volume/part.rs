//! A part of a volume, as `volume-subpath` names it, at a path of its own. Whoever writes to the volume
//! meanwhile could put a link in the part's place: it is opened once, and what was opened is mounted.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat},
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use crate::{
    error::{Context, Error, Result, errno_text},
    lookup, mounts,
};

/// Refuses paths that are none below a volume, in Docker's words.
pub(crate) fn check(subpath: &str) -> Result<(), &'static str> {
    let mut depth = 0_usize;
    let stays = Path::new(subpath).components().all(|part| match part {
        Component::Normal(_) => {
            depth += 1;
            true
        }
        Component::CurDir => true,
        Component::ParentDir => {
            let above = depth > 0;
            depth = depth.saturating_sub(1);
            above
        }
        _ => false,
    });
    if stays { Ok(()) } else { Err("subpath must be a relative path within the volume") }
}

/// The parts that containers about to start are given, below the exec root.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    root: PathBuf,
}

impl Parts {
    /// Takes away what an engine before this one left.
    pub(crate) fn open(exec_root: &Path) -> Result<Self> {
        let parts = Self { root: exec_root.join("volume-parts") };
        let root = &parts.root;
        fs::create_dir_all(root).context(|| format!("create {}", root.display()))?;
        for entry in fs::read_dir(root).context(|| format!("read {}", root.display()))? {
            let entry = entry.context(|| format!("read {}", root.display()))?;
            if let Some(container) = entry.file_name().to_str() {
                parts.remove(container);
            }
        }
        Ok(parts)
    }

    /// Mounts `subpath` of the volume at `volume` for a container, and says where. It is to be removed
    /// when the container has its own mount of it.
    ///
    /// # Errors
    /// There is no such part, or it is not in the volume.
    pub(crate) fn make(&self, container: &str, volume: &Path, subpath: &str) -> Result<PathBuf> {
        let part = open(volume, subpath)?;
        let what = || format!("mount {}", volume.join(subpath).display());
        let place = self.fresh(container)?;
        let stat = fstat(&part).context(what)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            fs::create_dir(&place).context(what)?;
        } else {
            fs::File::create_new(&place).context(what)?;
        }
        let tree = mounts::copy(&part, c"", true).context(what)?;
        mounts::attach_at(&tree, &place).context(what)?;
        Ok(place)
    }

    /// Makes a directory for what else is to be mounted for a container; it goes as its parts do, with what
    /// is mounted on it.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn make_directory(&self, container: &str) -> Result<PathBuf> {
        let place = self.fresh(container)?;
        fs::create_dir(&place).context(|| format!("create {}", place.display()))?;
        Ok(place)
    }

    /// A path for a container's next part.
    fn fresh(&self, container: &str) -> Result<PathBuf> {
        let directory = self.root.join(container);
        let what = || format!("create {}", directory.display());
        fs::create_dir_all(&directory).context(what)?;
        let number = fs::read_dir(&directory).context(what)?.count();
        Ok(directory.join(number.to_string()))
    }

    /// Takes a container's parts away. What it has mounted is its own.
    pub(crate) fn remove(&self, container: &str) {
        let directory = self.root.join(container);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return tracing::warn!("read {}: {error}", directory.display()),
        };
        for entry in entries.flatten() {
            let place = entry.path();
            // A place that nothing was mounted on is only removed. Neither call goes into what may be
            // mounted there.
            let _ = unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            if fs::remove_dir(&place).or_else(|_| fs::remove_file(&place)).is_err() {
                tracing::warn!("cannot remove {}", place.display());
            }
        }
        if let Err(error) = fs::remove_dir(&directory) {
            tracing::warn!("remove {}: {error}", directory.display());
        }
    }
}

/// Opens what `subpath` is in the volume at `volume`, as a place.
///
/// # Errors
/// There is no such part, or it is not in the volume; in Docker's words.
pub(super) fn open(volume: &Path, subpath: &str) -> Result<OwnedFd> {
    open_beneath(volume, subpath).map_err(|error| {
        let (base, shown) = (volume.display(), volume.join(subpath));
        let shown = shown.display();
        let inaccessible = format!("cannot access path {shown}: lstat {shown}: {}", errno_text(error));
        match error {
            Errno::XDEV => Error::invalid(format!(
                "path concatenation escapes the base directory, base: {base}, subpath: {subpath}"
            )),
            Errno::NOENT => Error::not_found(inaccessible),
            _ => Error::system(inaccessible),
        }
    })
}

/// Opens what `subpath` is in `volume`, if no link on the way leads out of it.
fn open_beneath(volume: &Path, subpath: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let volume = openat(CWD, volume, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    lookup::open(&volume, subpath, flags, resolve)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_paths_within_are_taken() {
        for path in ["a", "a/b", "./a", "a/../b"] {
            check(path).unwrap();
        }
        for path in ["/a", "..", "../a", "a/../../b"] {
            assert!(check(path).is_err(), "{path}");
        }
    }

    #[test]
    fn links_do_not_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let volume = tempfile::tempdir().unwrap();
        fs::create_dir(volume.path().join("inner")).unwrap();
        symlink(outside.path(), volume.path().join("absolute")).unwrap();
        symlink("..", volume.path().join("up")).unwrap();
        symlink("inner", volume.path().join("near")).unwrap();
        open_beneath(volume.path(), "near").unwrap();
        for path in ["absolute", "up", "inner/../../x"] {
            assert_eq!(open_beneath(volume.path(), path).unwrap_err(), Errno::XDEV, "{path}");
        }
        assert_eq!(open_beneath(volume.path(), "missing").unwrap_err(), Errno::NOENT);
    }
}
