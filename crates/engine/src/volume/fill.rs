//! What a new volume begins with: what the image has in its place.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, chownat, fchmod,
        fchown, fstat, futimens, mkdirat, mknodat, openat, readlinkat, statat, symlinkat, syncfs, utimensat,
    },
    io::Errno,
};

use crate::{lookup, snapshot::Room};

/// How much is copied between two looks at the free space, in bytes.
const BLOCK: u64 = 1 << 20;
/// How deep a tree may be that is copied into a volume.
const MAX_DEPTH: usize = 128;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The directory that `destination` is in `root`: a path in a container, whose links are resolved in
/// `root`. `None` when nothing is there.
///
/// # Errors
/// [`io::ErrorKind::NotADirectory`] when there is something else.
pub(super) fn source(root: &Path, destination: &str) -> io::Result<Option<OwnedFd>> {
    let root = openat(CWD, root, DIRECTORY, Mode::empty())?;
    let relative = destination.trim_start_matches('/');
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match lookup::open(&root, relative, DIRECTORY, resolve) {
        Err(Errno::NOENT) => Ok(None),
        from => Ok(Some(from?)),
    }
}

/// Copies a directory over the empty one at `to`. All of it is on the disk when this returns.
pub(super) fn fill(from: &OwnedFd, to: &Path) -> io::Result<()> {
    let to = openat(CWD, to, DIRECTORY, Mode::empty())?;
    copy(from, &to, 0, &mut Room::default())?;
    attributes(from, &to, &fstat(from)?)?;
    Ok(syncfs(&to)?)
}

/// Copies what is in `from`. A file with several names becomes several files.
fn copy(from: &OwnedFd, to: &OwnedFd, depth: usize, room: &mut Room) -> io::Result<()> {
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
                copy(&inner_from, &inner_to, depth + 1, room)?;
                attributes(&inner_from, &inner_to, &stat)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = File::from(openat(from, name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                let mut target = File::from(target);
                while io::copy(&mut Read::by_ref(&mut source).take(BLOCK), &mut target)? > 0 {
                    room.take(&target, BLOCK as usize)?;
                }
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
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    #[test]
    fn a_volume_begins_with_what_the_image_has() {
        let directory = tempfile::tempdir().unwrap();
        let (root, to) = (directory.path().join("root"), directory.path().join("to"));
        fs::create_dir_all(root.join("srv/data/inner")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(root.join("srv/data/inner/file"), "content").unwrap();
        fs::set_permissions(root.join("srv/data/inner/file"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("/etc/passwd", root.join("srv/data/link")).unwrap();
        fs::set_permissions(root.join("srv/data"), fs::Permissions::from_mode(0o1777)).unwrap();
        // The image's own link to the place is resolved inside the image.
        symlink("/srv/data", root.join("data")).unwrap();
        fill(&source(&root, "/data").unwrap().unwrap(), &to).unwrap();
        assert_eq!(fs::read(to.join("inner/file")).unwrap(), b"content");
        assert_eq!(fs::metadata(to.join("inner/file")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn nothing_there_is_no_source_and_a_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("file"), "").unwrap();
        assert!(source(root, "/new/place").unwrap().is_none());
        assert_eq!(source(root, "/file").unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}
