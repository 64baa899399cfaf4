use std::{
    ffi::CString,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FileType, OFlags, Stat, fstat},
    io::Errno,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use wire::docker::container::PathStat;

use super::{Container, Containers, files::Files};
use crate::{
    error::{Error, Kind, Result, errno_of, errno_text},
    runtime::{in_root::Root, spec::User},
    snapshot::{ArchiveStream, ArchiveWriter, CopyInto, Outgoing, UnpackError, copy_into, decompress},
};

/// Bytes of a refused archive that are still read, as many as Docker reads of any request that it has
/// answered.
pub(crate) const HEARD_OUT: u64 = 256 << 10;

/// How an archive is to be unpacked in a container.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extract {
    /// A directory is not replaced by something else, nor the other way round.
    pub(crate) keep_kinds: bool,
    /// Everything is to belong to the container's user.
    pub(crate) container_user: bool,
}

/// Why something could not be done with a path.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What the kernel said when this was done: `lstat`, `open`.
    Kernel(&'static str, PathBuf, Errno),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    /// In the words that a client knows: `path` is as it asked, `whose` what it asked about.
    pub(crate) fn tell(self, path: &str, whose: &str) -> Error {
        match self {
            Self::Kernel(_, _, Errno::NOENT) => {
                Error::not_found(format!("Could not find the file {path} in {whose}"))
            }
            Self::Kernel(doing, path, errno) => {
                Error::system(format!("{doing} {}: {}", path.display(), errno_text(errno)))
            }
            Self::Other(error) => error,
        }
    }
}

impl Containers {
    /// What is at `path` in a container; a link is not followed.
    ///
    /// # Errors
    /// No such container or path, in Docker's words.
    pub(crate) async fn stat_path(&self, name: &str, path: &str) -> Result<PathStat> {
        let container = self.get(name)?;
        let files = self.files(&container).await?;
        let asked = path.to_owned();
        let stat = crate::blocking(move || Ok(stat(&files.root()?, &asked).map(|(stat, _)| stat)));
        stat.await?.map_err(|failure| tell(failure, path, name))
    }

    /// What is at `path` in a container, and an archive of it: a directory with all that is in it, a link
    /// as a link. The archive's names begin with the last part of the path.
    ///
    /// # Errors
    /// As [`Containers::stat_path`].
    pub(crate) async fn archive_path(&self, name: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let container = self.get(name)?;
        let files = self.files(&container).await?;
        let asked = absolute(path);
        let opened =
            crate::blocking(move || Ok(open_source(&files.root()?, &asked).map(|opened| (opened, files))));
        let ((stat, source), files) = opened.await?.map_err(|failure| tell(failure, path, name))?;
        self.emit(&container, "archive-path", &[]);
        let (outgoing, stream) = Outgoing::new();
        tokio::task::spawn_blocking(move || {
            let mut archive = ArchiveWriter::with_owners(outgoing, files.owners());
            match source.write(&mut archive) {
                // A client that has left misses nothing.
                Ok(()) => drop(archive.finish()),
                Err(error) => archive.into_sink().fail(error),
            }
            drop(files);
        });
        Ok((stat, stream))
    }

    /// Unpacks an archive, compressed or not, into the directory `path` of a container.
    ///
    /// # Errors
    /// No such container or path, no directory, one that is not to be written to, in Docker's words; an
    /// archive that cannot be unpacked, of which the beginning stays.
    pub(crate) async fn extract(
        &self,
        name: &str,
        path: &str,
        how: Extract,
        mut archive: impl Read + Send + 'static,
    ) -> Result<()> {
        let container = self.get(name)?;
        let files = self.files(&container).await?;
        let (asked, target) = (path.to_owned(), container.clone());
        let extracted = crate::blocking(move || {
            let extracted = extract(&target, &files, &asked, how, &mut archive);
            drop(files);
            if extracted.is_err() {
                // A client that is still sending would hear of a broken connection instead.
                let _ = io::copy(&mut archive.take(HEARD_OUT), &mut io::sink());
            }
            Ok(extracted)
        });
        extracted.await?.map_err(|failure| tell(failure, path, name))?;
        self.emit(&container, "extract-to-dir", &[]);
        Ok(())
    }
}

fn tell(failure: Failure, path: &str, container: &str) -> Error {
    failure.tell(path, &format!("container {container}"))
}

/// What an archive is made of.
pub(crate) enum Source {
    /// A directory, and what it is called in the archive.
    Tree { top: std::os::fd::OwnedFd, stat: Stat, name: Vec<u8> },
    /// Something else in a directory.
    One { directory: std::os::fd::OwnedFd, stat: Stat, name: CString },
}

impl Source {
    /// # Errors
    /// The archive cannot be written.
    pub(crate) fn write(&self, archive: &mut ArchiveWriter<Outgoing>) -> io::Result<()> {
        match self {
            Self::Tree { top, stat, name } => {
                archive.member(top, c".", name, stat)?;
                archive.tree(top, name)
            }
            Self::One { directory, stat, name } => archive.member(directory, name, name.to_bytes(), stat),
        }
    }
}

/// Opens what is at `path`, which is absolute and clean but for what Docker keeps of its end.
pub(crate) fn open_source(root: &Root, path: &str) -> Result<(PathStat, Source), Failure> {
    let (answer, stat) = stat(root, path)?;
    let kernel = |error| Failure::Kernel("open", path.into(), error);
    let name = base(path);
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let top = root.open_at(Path::new(path), OFlags::RDONLY | OFlags::DIRECTORY).map_err(kernel)?;
        return Ok((answer, Source::Tree { top, stat, name: name.as_bytes().to_vec() }));
    }
    let parent = &path[..path.len() - name.len()];
    let directory = root.open_at(Path::new(parent), OFlags::PATH | OFlags::DIRECTORY).map_err(kernel)?;
    let name = CString::new(name).map_err(|_| kernel(Errno::INVAL))?;
    Ok((answer, Source::One { directory, stat, name }))
}

/// What is at `path`, which is as [`open_source`] takes it; a link is not followed.
pub(crate) fn stat(root: &Root, path: &str) -> Result<(PathStat, Stat), Failure> {
    let kernel = |error| Failure::Kernel("lstat", path.into(), error);
    let item = root.open_at(Path::new(path), OFlags::PATH | OFlags::NOFOLLOW).map_err(kernel)?;
    let stat = fstat(&item).map_err(kernel)?;
    let link_target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = root.follow(Path::new(path));
            let told = |error: io::Error| kernel(errno_of(&error));
            target.map_err(told)?.to_string_lossy().into_owned()
        }
        _ => String::new(),
    };
    let nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
    let mtime = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let answer = PathStat {
        name: base(path).to_owned(),
        size: stat.st_size,
        mode: go_mode(stat.st_mode),
        mtime: mtime.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default(),
        link_target,
    };
    Ok((answer, stat))
}

fn extract(
    container: &Arc<Container>,
    files: &Files,
    path: &str,
    how: Extract,
    archive: impl Read + Send,
) -> Result<(), Failure> {
    let root = files.root()?;
    let asked = absolute(path);
    let kernel = |error| Failure::Kernel("lstat", asked.clone().into(), error);
    // All links are followed, at the end of the path too.
    let item = root.open_at(Path::new(&asked), OFlags::PATH).map_err(kernel)?;
    if FileType::from_raw_mode(fstat(&item).map_err(kernel)?.st_mode) != FileType::Directory {
        return Err(Error::invalid("extraction point is not a directory").into());
    }
    let told = |error: io::Error| kernel(errno_of(&error));
    let destination = root.follow(Path::new(&asked)).map_err(told)?;
    check_writable(container, &destination)?;
    let record = container.record();
    let owner = match record.config.user.as_str() {
        user if how.container_user && !user.is_empty() => {
            let user = User::resolve_in(&root, user, &[])
                .map_err(|error| Error::invalid("look up the container's user").because(error))?;
            Some((user.uid, user.gid))
        }
        _ => None,
    };
    let destination = destination.strip_prefix("/").unwrap_or(&destination);
    let how = CopyInto {
        destination: destination.as_os_str().as_bytes().to_vec(),
        keep_kinds: how.keep_kinds,
        owner,
        owners: files.owners(),
    };
    let (_, plain) =
        decompress(archive).map_err(|error| Error::system("Error processing tar file").because(error))?;
    copy_into(plain, files.top(), &how).map_err(|error| tell_unpacking(error).into())
}

/// # Errors
/// What must not be written to, in Docker's words. What is not told here, because it is reached through
/// links of the archive's own, the kernel refuses: it is mounted read-only.
fn check_writable(container: &Container, path: &Path) -> Result<()> {
    let record = container.record();
    let above = record.mounts.iter().filter(|mount| path.starts_with(&mount.point.destination));
    match above.max_by_key(|mount| mount.point.destination.len()) {
        Some(mount) if mount.point.rw => Ok(()),
        Some(_) => Err(Error::invalid("mounted volume is marked read-only")),
        None if record.host_config.readonly_rootfs => {
            Err(Error::invalid("container rootfs is marked read-only"))
        }
        None => Ok(()),
    }
}

/// Why an archive could not be unpacked, in the words that a client knows.
pub(crate) fn tell_unpacking(error: UnpackError) -> Error {
    let message = error.to_string();
    match error {
        UnpackError::Entry { doing, path, source } => {
            let reason = Errno::from_io_error(&source).map_or_else(|| source.to_string(), errno_text);
            Error::system(format!("{doing} /{path}: {reason}"))
        }
        _ => Error::new(Kind::System, message),
    }
}

/// `path` from the root, clean, with a `/` or `/.` at its end if it had one: as in Docker, these tell the
/// target of a link from the link, and a directory's content from the directory.
pub(crate) fn absolute(path: &str) -> String {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    let mut clean = clean.to_string_lossy().into_owned();
    if base(path) == "." && !path.is_empty() {
        if !clean.ends_with('/') {
            clean.push('/');
        }
        clean.push('.');
    }
    if path.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    }
    clean
}

/// The last part of a path: `/` of the root, `.` of nothing.
pub(crate) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        _ if path.is_empty() => ".",
        None | Some("") => "/",
        Some(name) => name,
    }
}

/// A mode in the numbers of Go's `io/fs`.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    special.iter().filter(|(bit, _)| mode & bit != 0).fold(kind | mode & 0o777, |mode, (_, bit)| mode | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_paths_are_kept() {
        for (path, expected, name) in [
            ("/", "/", "/"),
            ("", "/", "/"),
            (".", "/.", "."),
            ("/.", "/.", "."),
            ("etc/passwd", "/etc/passwd", "passwd"),
            ("/a/../../b/", "/b/", "b"),
            ("/a//b/.", "/a/b/.", "."),
            ("/a/./", "/a/./", "."),
            ("..", "/", "/"),
        ] {
            assert_eq!(absolute(path), expected, "{path:?}");
            assert_eq!(base(&absolute(path)), name, "{path:?}");
        }
    }

    #[test]
    fn modes_are_gos() {
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o041_777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o120_777), 1 << 27 | 0o777);
        assert_eq!(go_mode(0o020_620), 1 << 26 | 1 << 21 | 0o620);
        assert_eq!(go_mode(0o106_755), 1 << 23 | 1 << 22 | 0o755);
    }
}
