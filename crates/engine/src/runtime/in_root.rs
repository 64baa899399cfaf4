//! Paths that an image decides on, resolved as if its root were `/`: no link leads out of it.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, readlinkat},
    io::Errno,
};

use crate::lookup;

/// The largest file read from an image.
const MAX_FILE: u64 = 1 << 20;
/// How many links are followed in one path, as in Docker.
const MAX_LINKS: usize = 255;
/// Longest path that Linux takes, in bytes.
const MAX_PATH: usize = 4096;

/// A container's root directory.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens `path`; the last component is followed unless `flags` say otherwise.
    pub(crate) fn open_at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        lookup::open(&self.0, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Where `path` leads when all links are followed: absolute, clean, and without links as long as
    /// nobody changes them. What does not exist counts as a name.
    ///
    /// # Errors
    /// More links than the kernel follows.
    pub(crate) fn follow(&self, path: &Path) -> io::Result<PathBuf> {
        let mut reached = PathBuf::from("/");
        let mut left = path.to_owned();
        for _ in 0..=MAX_LINKS {
            let mut link = None;
            let mut components = left.components();
            while let Some(component) = components.next() {
                match component {
                    Component::Normal(name) => {
                        reached.push(name);
                        if let Some(target) = self.read_link(&reached)? {
                            reached.pop();
                            link = Some(target.join(components.as_path()));
                            break;
                        }
                    }
                    Component::ParentDir => {
                        reached.pop();
                    }
                    Component::RootDir => reached = PathBuf::from("/"),
                    Component::CurDir | Component::Prefix(_) => {}
                }
            }
            match link {
                None => return Ok(reached),
                Some(link) => left = link,
            }
            if left.as_os_str().len() > MAX_PATH {
                return Err(Errno::NAMETOOLONG.into());
            }
        }
        Err(Errno::LOOP.into())
    }

    /// What the link at `path` says; `None` when there is no link.
    fn read_link(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let item = match self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(item) => item,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(fstat(&item)?.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        let target = readlinkat(&item, c"", Vec::new())?;
        Ok(Some(OsString::from_vec(target.into_bytes()).into()))
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
        let place = match self.open_at(path, OFlags::PATH) {
            Err(Errno::NOENT) => return Ok(String::new()),
            place => place?,
        };
        let file = match lookup::open_regular(&place) {
            Err(Errno::INVAL) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
            }
            // In a container without /proc, where whose file it is no longer matters.
            Err(Errno::NOENT) => File::from(self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK)?),
            file => File::from(file?),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes the directory `path` and those above it, as far as they are missing.
    pub(crate) fn create_directories(&self, path: &Path) -> io::Result<()> {
        let mut below = PathBuf::from("/");
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

impl Root {
    /// Makes an empty file, and the directories above it as far as they are missing.
    pub(crate) fn create_file(&self, path: &Path) -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::ISDIR.into());
        };
        self.create_directories(parent)?;
        let parent = self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&parent, name, flags, Mode::from_raw_mode(0o755))?;
        Ok(())
    }
}

impl From<OwnedFd> for Root {
    /// The root that `directory` is open at.
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
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
    fn paths_are_followed_to_where_they_lead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::create_dir_all(path.join("run/lock")).unwrap();
        std::fs::create_dir(path.join("var")).unwrap();
        symlink("/run", path.join("var/run")).unwrap();
        symlink("../../../var/./run/none/../lock", path.join("lock")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        let root = Root::open(path).unwrap();
        let follow = |path: &str| root.follow(Path::new(path)).unwrap();
        assert_eq!(follow("/var/run/lock"), Path::new("/run/lock"));
        assert_eq!(follow("lock/x/y"), Path::new("/run/lock/x/y"));
        assert_eq!(follow("/../.."), Path::new("/"));
        assert_eq!(follow("/none/of/this"), Path::new("/none/of/this"));
        assert!(root.follow(Path::new("/loop/x")).is_err());
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
