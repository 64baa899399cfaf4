//! Volumes without a name, as far as images need them: a directory each, with what the image has there.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, chownat, fchmod,
        fchown, fstat, futimens, mkdirat, mknodat, openat, openat2, readlinkat, statat, symlinkat, utimensat,
    },
    io::Errno,
};

use super::names;
use crate::error::{Context, Error, Result};

/// How deep a tree may be that is copied into a volume.
const MAX_DEPTH: usize = 128;

/// The volumes below one directory, each in `NAME/_data`.
#[derive(Debug, Clone)]
pub(super) struct Volumes {
    root: PathBuf,
}

impl Volumes {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where a volume's files are.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name).join("_data")
    }

    /// Makes an empty volume with a random name, which it returns.
    pub(super) fn create(&self) -> Result<String> {
        let name = names::random_id();
        let path = self.path(&name);
        fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        Ok(name)
    }

    /// Makes a volume with a random name, and fills it with what `root` has at `destination`: a path in
    /// a container, whose links are resolved in `root`. Returns the name.
    ///
    /// # Errors
    /// There is something else than a directory.
    pub(super) fn create_from(&self, root: &Path, destination: &str) -> Result<String> {
        let name = self.create()?;
        let filled = fill(&self.path(&name), root, destination);
        match filled {
            Ok(()) => Ok(name),
            Err(error) => {
                self.remove(&name);
                if error.kind() == io::ErrorKind::NotADirectory {
                    return Err(Error::system(format!(
                        "cannot mount volume over existing file, file exists {destination}"
                    )));
                }
                Err(error).context(|| format!("fill the volume for {destination}"))
            }
        }
    }

    /// Removes a volume. What cannot be removed is logged, and harms nobody.
    pub(super) fn remove(&self, name: &str) {
        let path = self.root.join(name);
        if let Err(error) = crate::snapshot::remove_tree(&path) {
            tracing::warn!("remove {}: {error}", path.display());
        }
    }
}

/// Copies the directory that `destination` is in `root` over the empty one at `to`.
fn fill(to: &Path, root: &Path, destination: &str) -> io::Result<()> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, directory, Mode::empty())?;
    let relative = destination.trim_start_matches('/');
    let from = match openat2(&root, relative, directory, Mode::empty(), ResolveFlags::IN_ROOT) {
        Err(Errno::NOENT) => return Ok(()),
        from => from?,
    };
    let to = openat(CWD, to, directory, Mode::empty())?;
    copy(&from, &to, 0)?;
    attributes(&from, &to, &fstat(&from)?)?;
    File::from(to).sync_all()
}

/// Copies what is in `from`. A file with several names becomes several files.
fn copy(from: &OwnedFd, to: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("directories are nested too deeply"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                mkdirat(to, name, Mode::RWXU)?;
                let inner_from = openat(from, name, flags, Mode::empty())?;
                let inner_to = openat(to, name, flags, Mode::empty())?;
                copy(&inner_from, &inner_to, depth + 1)?;
                attributes(&inner_from, &inner_to, &stat)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = File::from(openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                let mut target = File::from(target);
                io::copy(&mut source, &mut target)?;
                attributes(&source.into(), &target.into(), &stat)?;
            }
            FileType::Symlink => {
                let link = readlinkat(from, name, Vec::new())?;
                symlinkat(&link, to, name)?;
                own(to, name, &stat)?;
            }
            kind => {
                mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?;
                own(to, name, &stat)?;
            }
        }
    }
    Ok(())
}

fn own(directory: &OwnedFd, name: &std::ffi::CStr, stat: &Stat) -> io::Result<()> {
    let (user, group) = owner(stat);
    chownat(directory, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
    utimensat(directory, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// Gives a copy its original's owner, mode, extended attributes and times.
fn attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> io::Result<()> {
    let (user, group) = owner(stat);
    // The owner first: it clears set-user-id bits and capabilities.
    fchown(to, user, group)?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    copy_extended(from, to)?;
    Ok(futimens(to, &times(stat))?)
}

fn copy_extended(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::flistxattr(from.as_fd(), &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // overlayfs' own are of no use outside of it.
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        rustix::fs::fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
    (Some(rustix::fs::Uid::from_raw(stat.st_uid)), Some(rustix::fs::Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_volume_begins_with_what_the_image_has() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("srv/data/inner")).unwrap();
        fs::write(root.join("srv/data/inner/file"), "content").unwrap();
        fs::set_permissions(root.join("srv/data/inner/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("/etc/passwd", root.join("srv/data/link")).unwrap();
        fs::set_permissions(root.join("srv/data"), fs::Permissions::from_mode(0o1777)).unwrap();
        // The image's own link to the place is resolved inside the image.
        symlink("/srv/data", root.join("data")).unwrap();
        let volumes = Volumes::new(directory.path().join("volumes"));
        let name = volumes.create_from(&root, "/data").unwrap();
        let path = volumes.path(&name);
        assert_eq!(fs::read(path.join("inner/file")).unwrap(), b"content");
        assert_eq!(fs::metadata(path.join("inner/file")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(path.join("link")).unwrap(), Path::new("/etc/passwd"));
        volumes.remove(&name);
        assert!(!path.exists());
    }

    #[test]
    fn nothing_there_is_an_empty_volume_and_a_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "").unwrap();
        let volumes = Volumes::new(directory.path().join("volumes"));
        let name = volumes.create_from(&root, "/new/place").unwrap();
        assert_eq!(fs::read_dir(volumes.path(&name)).unwrap().count(), 0);
        let error = volumes.create_from(&root, "/file").unwrap_err().to_string();
        assert!(error.contains("cannot mount volume over existing file"), "{error}");
        assert_eq!(fs::read_dir(directory.path().join("volumes")).unwrap().count(), 1);
    }
}
