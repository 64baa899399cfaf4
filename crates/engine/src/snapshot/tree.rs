//! Removing and measuring directory trees whose shape somebody else chose: a container or an archive can
//! nest directories deeper than a stack or a table of open files reaches.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, open, openat, renameat_with, statat, unlinkat},
    io::Errno,
};

const OPEN_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How deep [`disk_usage`] looks, and [`remove_tree`] goes where it cannot flatten.
const MAX_DEPTH: usize = 256;

/// Removes the directory `path` and everything below it, without leaving its file system or following a
/// symbolic link. Nothing there is no error. A removal that was interrupted can be done again.
///
/// Deep trees are flattened: a directory inside a directory is first moved up, so that two open
/// directories are enough for any depth. Where that cannot be, on an overlay, the depth has a bound.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match open(path, OPEN_DIRECTORY, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    let mut counter = 0_u64;
    // A pass removes what is one level deep and moves up what is two levels deep.
    loop {
        let mut found = false;
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            found = true;
            match unlinkat(&top, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // POSIX has EPERM for a directory, Linux EISDIR.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            match unlinkat(&top, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let below = openat(&top, name, OPEN_DIRECTORY, Mode::empty())?;
            empty(&below, &top, &mut counter, 0)?;
            unlinkat(&top, name, AtFlags::REMOVEDIR)?;
        }
        if !found {
            break;
        }
    }
    drop(top);
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Empties `making`, where an engine before this one left what it did not finish. That may be a lot, and
/// nobody waits for it: it is moved to `.trash` beside it and removed by a thread, or by the next engine.
pub(crate) fn sweep(making: &Path) -> io::Result<()> {
    let trash = making.with_file_name(".trash");
    std::fs::create_dir_all(&trash)?;
    let mut number = 0_u32;
    while trash.join(number.to_string()).exists() {
        number += 1;
    }
    match std::fs::rename(making, trash.join(number.to_string())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(making)?;
    let mut left = Vec::new();
    for entry in std::fs::read_dir(&trash)? {
        left.push(entry?.path());
    }
    remove_later(left)
}

/// Removes trees that nobody can see any more, on a thread of its own.
pub(crate) fn remove_later(paths: Vec<PathBuf>) -> io::Result<()> {
    let remove = move || {
        for path in paths {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!("remove {}: {error}", path.display());
            }
        }
    };
    std::thread::Builder::new().name("sweep".to_owned()).spawn(remove)?;
    Ok(())
}

/// Removes the files in `directory` and moves its directories to `top`.
fn empty(directory: &OwnedFd, top: &OwnedFd, counter: &mut u64, depth: usize) -> io::Result<()> {
    loop {
        let mut found = false;
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            found = true;
            match unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(error) => return Err(error.into()),
            }
            loop {
                let fresh = format!(".coracle-removed-{counter}");
                *counter += 1;
                match renameat_with(directory, name, top, &fresh, RenameFlags::NOREPLACE) {
                    Ok(()) => break,
                    Err(Errno::EXIST) => {}
                    // An overlay does not move a directory that a lower layer has.
                    Err(Errno::XDEV) if depth < MAX_DEPTH => {
                        let below = openat(directory, name, OPEN_DIRECTORY, Mode::empty())?;
                        empty(&below, top, counter, depth + 1)?;
                        unlinkat(directory, name, AtFlags::REMOVEDIR)?;
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if !found {
            return Ok(());
        }
    }
}

/// Bytes of the files and symbolic links in `path`, as their sizes say; a file with several names
/// counts once. What is nested deeper than [`MAX_DEPTH`] or vanishes meanwhile does not count.
pub(crate) fn disk_usage(path: &Path) -> io::Result<u64> {
    usage(open(path, OPEN_DIRECTORY, Mode::empty())?)
}

/// [`disk_usage`] of a directory that is open, if only as a place.
pub(crate) fn disk_usage_of(directory: &OwnedFd) -> io::Result<u64> {
    usage(openat(directory, c".", OPEN_DIRECTORY, Mode::empty())?)
}

fn usage(top: OwnedFd) -> io::Result<u64> {
    let mut total = 0_u64;
    let mut linked = HashSet::new();
    let mut open_directories = vec![Dir::new(top)?];
    while let Some(directory) = open_directories.last_mut() {
        let Some(entry) = directory.read() else {
            open_directories.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let fd = directory.fd()?;
        let stat = match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if open_directories.len() < MAX_DEPTH {
                let fd = open_directories.last().map(Dir::fd).transpose()?;
                if let Some(fd) = fd
                    && let Ok(below) = openat(fd, name, OPEN_DIRECTORY, Mode::empty())
                {
                    open_directories.push(Dir::new(below)?);
                }
            }
            continue;
        }
        if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        total = total.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
    }
    Ok(total)
}

/// Bytes left free on a disk, so that an archive or a download that never ends cannot stop everything
/// else.
const RESERVE: u64 = 64 << 20;
/// How many bytes are written between two looks at the free space.
const LOOK_EVERY: u64 = 16 << 20;

/// Looks at the free space now and then while something of unknown size is written.
#[derive(Debug)]
pub(crate) struct Room {
    /// Bytes written since the last look.
    written: u64,
}

impl Default for Room {
    fn default() -> Self {
        Self { written: LOOK_EVERY }
    }
}

impl Room {
    /// Before `bytes` are written to the file system of `file`.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], before the disk is really full.
    pub(crate) fn take(&mut self, file: impl AsFd, bytes: usize) -> io::Result<()> {
        self.written = self.written.saturating_add(bytes as u64);
        if self.written < LOOK_EVERY {
            return Ok(());
        }
        self.written = 0;
        let stat = rustix::fs::fstatvfs(file)?;
        // Not what is reserved for root: it is what lets others end well on a full disk.
        if stat.f_bavail.saturating_mul(stat.f_frsize) < RESERVE {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_goes() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut at = open(&top, OPEN_DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..5000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", OPEN_DIRECTORY, Mode::empty()).unwrap();
        }
        drop(at);
        assert_eq!(disk_usage(&top).unwrap(), 0);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let kept = directory.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("a/b/c")).unwrap();
        symlink(&kept, top.join("a/b/link")).unwrap();
        symlink(&kept, directory.path().join("toplink")).unwrap();
        remove_tree(&top).unwrap();
        remove_tree(&directory.path().join("toplink")).unwrap();
        assert!(kept.join("file").exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_left_is_out_of_the_way_at_once_and_gone_soon() {
        let directory = tempfile::tempdir().unwrap();
        let making = directory.path().join(".tmp");
        for _ in 0..2 {
            fs::create_dir_all(making.join("a/b/c")).unwrap();
            sweep(&making).unwrap();
            assert_eq!(fs::read_dir(&making).unwrap().count(), 0);
        }
        while fs::read_dir(directory.path().join(".trash")).unwrap().count() > 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn usage_counts_files_and_links_once() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("sub")).unwrap();
        fs::write(directory.path().join("sub/file"), "12345").unwrap();
        fs::hard_link(directory.path().join("sub/file"), directory.path().join("again")).unwrap();
        symlink("abc", directory.path().join("link")).unwrap();
        assert_eq!(disk_usage(directory.path()).unwrap(), 8);
    }
}
