//! Paths that an image decides on, resolved as if its root were `/`: no link leads out of it.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2},
    io::Errno,
};

/// The largest file read from an image.
const MAX_FILE: u64 = 1 << 20;
/// A lookup may be disturbed by renames; the kernel wants it repeated then.
const ATTEMPTS: usize = 128;

/// A container's root directory.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    fn open_at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..ATTEMPTS {
            result = openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break;
            }
        }
        result
    }

    /// What `path` is, links followed; `None` when there is nothing.
    pub(crate) fn file_type(&self, path: &Path) -> io::Result<Option<FileType>> {
        match self.open_at(path, OFlags::PATH) {
            Ok(file) => Ok(Some(FileType::from_raw_mode(fstat(file)?.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The text of a regular file; empty when there is none.
    pub(crate) fn read(&self, path: &Path) -> io::Result<String> {
        // Whatever an image has there must not make us wait: a FIFO would.
        let file = match self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Err(Errno::NOENT) => return Ok(String::new()),
            file => File::from(file?),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes the directory `path` and those above it, as far as they are missing.
    pub(crate) fn create_directories(&self, path: &Path) -> io::Result<()> {
        let mut below = std::path::PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::Normal(name) => {
                    let parent = self.open_at(&below, OFlags::PATH | OFlags::DIRECTORY)?;
                    below.push(name);
                    match self.file_type(&below)? {
                        Some(_) => {}
                        None => match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                            Ok(()) | Err(Errno::EXIST) => {}
                            Err(error) => return Err(error.into()),
                        },
                    }
                }
                Component::ParentDir => {
                    below.pop();
                }
                _ => {}
            }
        }
        // A link at the end that leads nowhere, or a file.
        self.open_at(&below, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(())
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("passwd"), "outside").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir(path.join("etc")).unwrap();
        symlink(outside.path().join("passwd"), path.join("etc/passwd")).unwrap();
        symlink("../../../../etc/group", path.join("etc/link")).unwrap();
        std::fs::write(path.join("etc/group"), "inside").unwrap();
        let root = Root::open(path).unwrap();
        assert_eq!(root.read(Path::new("/etc/passwd")).unwrap(), "");
        assert_eq!(root.read(Path::new("/etc/link")).unwrap(), "inside");
        assert_eq!(root.read(Path::new("/nosuch")).unwrap(), "");
        assert!(root.read(Path::new("/etc")).is_err());

        symlink(outside.path(), path.join("out")).unwrap();
        assert!(root.create_directories(Path::new("/out/new")).is_err());
        assert!(!outside.path().join("new").exists());
        root.create_directories(Path::new("/srv/a/../b")).unwrap();
        assert!(path.join("srv/b").is_dir());
        assert_eq!(root.file_type(Path::new("/etc/group")).unwrap(), Some(FileType::RegularFile));
        assert!(root.create_directories(Path::new("/etc/group")).is_err());
    }

    #[test]
    fn a_fifo_does_not_make_us_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwd");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert!(root.read(Path::new("passwd")).is_err());
    }
}
