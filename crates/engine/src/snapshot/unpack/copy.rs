//! An archive that goes over what is in a container's root: without whiteouts, and at a place of its own.

use std::{io::Read, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, FileType, statat},
    io::Errno,
};

use super::{Entry, Error, Kind, Purpose, Unpacker, clean, failed, shown, split, tar};
use crate::{snapshot::walk::join, userns::Owners};

/// Where and how an archive is copied into a container's root.
#[derive(Debug, Clone, Default)]
pub(crate) struct CopyInto {
    /// A directory, as a path from the container's root without links.
    pub(crate) destination: Vec<u8>,
    /// A directory is not replaced by something else, nor the other way round.
    pub(crate) keep_kinds: bool,
    /// User and group of everything, instead of what the archive says.
    pub(crate) owner: Option<(u32, u32)>,
    /// Whose files are whose below the root; those of the archive are as a container knows them.
    pub(crate) owners: Owners,
}

/// Copies what is in `archive` over what is in `root`, a container's root directory that others may be
/// changing at the same time.
///
/// # Errors
/// What was copied before stays.
pub(crate) fn copy_into(archive: impl Read, root: &OwnedFd, how: &CopyInto) -> Result<(), Error> {
    let copied = how.owners.as_root(|| Unpacker::new(root, Purpose::Copy(how)).run(archive).map(drop));
    copied.map_err(|error| failed("open", b"", error))?
}

impl Unpacker<'_> {
    /// Copies an entry below the destination.
    pub(super) fn copy_one<R: Read>(
        &mut self,
        how: &CopyInto,
        entry: &mut Entry,
        content: &mut tar::Reader<R>,
    ) -> Result<(), Error> {
        let destination = || format!("/{}", shown(&how.destination));
        let cleaned = |path: &[u8]| {
            let outside = |_| Error::Breakout { path: shown(path), destination: destination() };
            clean(path).map_err(outside)
        };
        let relative = cleaned(&entry.path)?;
        if relative.is_empty() {
            return Ok(());
        }
        let path = join(&how.destination, &relative);
        if entry.kind == Kind::HardLink {
            entry.link = join(&how.destination, &cleaned(&entry.link)?);
        }
        if let Some((uid, gid)) = how.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        (entry.uid, entry.gid) = how.owners.outside(entry.uid, entry.gid);
        // As GNU tar writes a file that it was told to add twice.
        if entry.kind == Kind::HardLink && entry.link == path {
            return Ok(());
        }
        let (parent, name) = split(&path);
        let directory = self.directory(parent)?;
        match statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let was_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let is_directory = entry.kind == Kind::Directory;
                if how.keep_kinds && was_directory != is_directory {
                    let (path, destination) = (shown(&relative), destination());
                    return Err(match was_directory {
                        true => Error::OverDirectory { path, destination },
                        false => Error::OverNonDirectory { path, destination },
                    });
                }
                if !(was_directory && is_directory) {
                    self.set_aside(&directory, name).map_err(|error| failed("replace", &path, error))?;
                }
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("look at", &path, error)),
        }
        self.apply(entry, &path, content)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt};

    use super::{super::tests::opened, *};
    use crate::snapshot::testing::{Archive, is_root};

    fn copied(root: &std::path::Path, archive: &[u8], how: &CopyInto) -> Result<(), Error> {
        copy_into(archive, &opened(root), how)
    }

    #[test]
    fn a_copy_goes_over_what_is_there_and_knows_no_whiteouts() {
        if !is_root("a_copy_goes_over_what_is_there_and_knows_no_whiteouts") {
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        fs::create_dir_all(root.join("run/dir/full")).unwrap();
        fs::write(root.join("run/dir/full/file"), "").unwrap();
        fs::write(root.join("run/file"), "long before").unwrap();
        // As in a container's root, a link of it leads to its own files, also out of the destination.
        std::os::unix::fs::symlink("/etc", root.join("run/link")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        let archive = Archive::default()
            .directory("./")
            .file("file", b"new")
            .hard_link("second", "file")
            .file(".wh.kept", b"1")
            // As GNU tar writes a file that it was told to add twice.
            .file("twice", b"4")
            .hard_link("twice", "twice")
            .file("link/in", b"2")
            .file("dir/full", b"3")
            .finish();
        let mut how = CopyInto {
            destination: b"run".to_vec(),
            keep_kinds: true,
            owner: Some((7, 8)),
            owners: Owners::default(),
        };
        let error = copied(root, &archive, &how).unwrap_err().to_string();
        assert_eq!(error, "cannot overwrite directory \"dir/full\" with non-directory \"/run\"");
        how.keep_kinds = false;
        copied(root, &archive, &how).unwrap();
        for (path, content) in [
            ("run/file", "new"),
            ("run/.wh.kept", "1"),
            ("run/twice", "4"),
            ("etc/in", "2"),
            ("run/dir/full", "3"),
        ] {
            assert_eq!(fs::read_to_string(root.join(path)).unwrap(), content, "{path}");
        }
        let second = fs::metadata(root.join("run/second")).unwrap();
        assert_eq!((second.uid(), second.gid(), second.nlink()), (7, 8, 2));
        for path in ["../x", "a/../../x"] {
            let archive = Archive::default().file(path, b"").finish();
            let error = copied(root, &archive, &how).unwrap_err().to_string();
            assert_eq!(error, format!("{path:?} is outside of \"/run\""));
        }
    }
}
