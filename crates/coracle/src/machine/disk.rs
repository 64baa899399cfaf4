//! The data disk: a raw, sparse file that grows and never shrinks.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};

use super::size::{GIB, MIB, Size, human};

/// A new machine writes some hundred MB at once: file system tables, then the first image.
const MIN_FREE_FOR_NEW: u64 = GIB;
/// Below this much free space a start warns.
const LOW_FREE: u64 = 4 * GIB;

/// The size of the disk as the guest sees it; `None` when there is none yet.
///
/// # Errors
/// When there is something by that name that is no disk of ours.
pub(crate) fn current_size(path: &Path) -> Result<Option<Size>> {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        // A link to nowhere is not a missing disk: a new one in its place would hide the user's data.
        Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            return Ok(None);
        }
        Err(error) => return Err(unusable(path, error)),
    };
    if !found.is_file() {
        bail!(
            "the data disk {} is not a regular file; move it away to start with an empty disk",
            path.display()
        );
    }
    if found.len() == 0 {
        // Created but never sized: the process was killed in between, and nothing was written.
        return Ok(None);
    }
    if !found.len().is_multiple_of(MIB) {
        bail!(
            "the data disk {} has {} bytes, which is no whole number of MiB: it was cut or is not a data disk of Coracle; restore it, or move it away to start with an empty disk",
            path.display(),
            found.len()
        );
    }
    Ok(Some(Size::from_bytes(found.len())))
}

/// What the disk takes on the host, in bytes.
pub(crate) fn used_bytes(path: &Path) -> u64 {
    // The unit of `st_blocks` is 512 bytes whatever the file system's block is.
    fs::metadata(path).map_or(0, |found| found.blocks() * 512)
}

/// Creates the disk or grows it to `size`, and proves that it can be read and written. Says in words
/// what the user should know, if anything.
pub(crate) fn prepare(path: &Path, size: Size) -> Result<Option<String>> {
    let now = current_size(path)?;
    let directory = path.parent().context("a data disk has a directory")?;
    let free = free_bytes(directory)?;
    if now.is_none() && free < MIN_FREE_FOR_NEW {
        bail!(
            "only {} are free in {}, and a new machine needs at least {}; free some space, or set {} to a directory with more",
            human(free),
            directory.display(),
            human(MIN_FREE_FOR_NEW),
            super::home::HOME_VARIABLE
        );
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|error| unusable(path, error))?;
    // A disk that opens and cannot be read would fail later, in the guest, with a poorer message.
    if now.is_some() {
        file.read_exact_at(&mut [0; 4096], 0).map_err(|error| unusable(path, error))?;
    }
    if now.is_none_or(|now| now < size) {
        grow(&file, size).with_context(|| {
            format!(
                "cannot make the data disk {} {size} large; its file system may not take files of that size",
                path.display()
            )
        })?;
    }
    Ok((free < LOW_FREE).then(|| {
        format!(
            "only {} are free in {}; containers will see write errors when the host's disk is full",
            human(free),
            directory.display()
        )
    }))
}

fn grow(file: &File, size: Size) -> io::Result<()> {
    file.set_len(size.bytes())?;
    file.sync_all()
}

/// What an unprivileged user can still write in the file system of `directory`, in bytes.
pub(crate) fn free_bytes(directory: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(directory)
        .with_context(|| format!("cannot tell how much space is free in {}", directory.display()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

fn unusable(path: &Path, error: io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => "it must belong to you, with mode 600",
        ErrorKind::ReadOnlyFilesystem => "its file system is mounted read-only",
        ErrorKind::NotFound => "it is a link to a file that is not there",
        _ => "the host's disk may be damaged",
    };
    anyhow::Error::new(error).context(format!("cannot use the data disk {} ({advice})", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn gib(n: u64) -> Size {
        Size::from_bytes(n * GIB)
    }

    #[test]
    fn a_disk_is_created_sparse_and_grows_keeping_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        prepare(&path, gib(2)).unwrap();
        assert_eq!(current_size(&path).unwrap(), Some(gib(2)));
        assert!(used_bytes(&path) < MIB);
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"data", 7).unwrap();
        prepare(&path, gib(3)).unwrap();
        assert_eq!(current_size(&path).unwrap(), Some(gib(3)));
        let mut content = [0; 4];
        File::open(&path).unwrap().read_exact_at(&mut content, 7).unwrap();
        assert_eq!(&content, b"data");
        // Settings are checked before; should that ever fail, a disk is still never cut.
        prepare(&path, gib(1)).unwrap();
        assert_eq!(current_size(&path).unwrap(), Some(gib(3)));
    }

    #[test]
    fn what_is_no_disk_is_left_alone_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        fs::create_dir(&path).unwrap();
        assert!(prepare(&path, gib(2)).unwrap_err().to_string().contains("not a regular file"));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert!(prepare(&path, gib(2)).unwrap_err().to_string().contains("4 bytes"));
        assert_eq!(fs::read(&path).unwrap(), b"text");
        fs::remove_file(&path).unwrap();
        symlink(dir.path().join("unmounted/disk.raw"), &path).unwrap();
        assert!(prepare(&path, gib(2)).unwrap_err().to_string().contains("link"));
    }

    #[test]
    fn a_disk_created_but_not_sized_is_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.raw");
        fs::write(&path, "").unwrap();
        assert_eq!(current_size(&path).unwrap(), None);
        prepare(&path, gib(2)).unwrap();
        assert_eq!(current_size(&path).unwrap(), Some(gib(2)));
    }
}
