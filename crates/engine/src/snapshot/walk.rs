//! Going through a tree whose shape somebody else chose and may be changing: one directory is open at a
//! time, names are read in portions, and no link is followed.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags, ResolveFlags, Stat, statat},
    io::Errno,
};

use crate::lookup;

/// Names of a directory that are sorted together.
const NAMES: usize = 4096;
/// Longest path that Linux takes, with its zero byte.
const MAX_PATH: usize = 4096;
/// Bytes of memory that directories yet to be visited may take: about a million of them.
const MAX_PENDING: usize = 64 << 20;

/// Something in a tree.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// The directory it is in.
    pub(crate) directory: &'a OwnedFd,
    pub(crate) name: &'a CStr,
    /// From the top of the tree, without a slash at either end.
    pub(crate) path: &'a [u8],
    /// Of itself, if it is a link.
    pub(crate) stat: Stat,
}

impl Found<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Shows all that is in the directory `top` to `visit`: a directory before what is in it, and what is in
/// one directory by name. What vanishes meanwhile is left out, as is what has too long a path.
///
/// # Errors
/// Those of `visit`, which end the walk; a top that cannot be read; more directories than fit in memory.
pub(crate) fn walk<E: From<io::Error>>(
    top: impl AsFd,
    mut visit: impl FnMut(&Found<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    let mut pending_bytes = 0_usize;
    while let Some(place) = pending.pop() {
        pending_bytes = pending_bytes.saturating_sub(cost(&place));
        let opened = open_below(&top, &place, OFlags::RDONLY | OFlags::DIRECTORY);
        let directory = match opened {
            Ok(directory) => directory,
            Err(error) if place.is_empty() => return Err(io::Error::from(error).into()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => {
                tracing::warn!("open {}: {error}", String::from_utf8_lossy(&place));
                continue;
            }
        };
        let mut entries = Dir::read_from(&directory).map_err(io::Error::from)?;
        let first_below = pending.len();
        loop {
            let names = portion(&mut entries)?;
            if names.is_empty() {
                break;
            }
            for name in names {
                let path = join(&place, name.to_bytes());
                if path.len() >= MAX_PATH {
                    tracing::warn!("{}: file name too long", String::from_utf8_lossy(&path));
                    continue;
                }
                let stat = match statat(&directory, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(Errno::NOENT) => continue,
                    Err(error) => {
                        tracing::warn!("look at {}: {error}", String::from_utf8_lossy(&path));
                        continue;
                    }
                };
                let found = Found { directory: &directory, name: &name, path: &path, stat };
                visit(&found)?;
                if found.kind() == FileType::Directory {
                    pending_bytes += cost(&path);
                    if pending_bytes > MAX_PENDING {
                        return Err(io::Error::other("too many directories").into());
                    }
                    pending.push(path);
                }
            }
        }
        pending[first_below..].reverse();
    }
    Ok(())
}

/// The next names of a directory, sorted; none at its end.
fn portion(entries: &mut Dir) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    while names.len() < NAMES
        && let Some(entry) = entries.next()
    {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens what is at `path` below `top`, following no link; `top` itself when the path is empty.
pub(crate) fn open_below(top: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"." } else { path };
    lookup::open(top, path, flags | OFlags::NOFOLLOW, resolve)
}

/// `name` in `directory`; either may be empty.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory, name) {
        ([], path) | (path, []) => path.to_vec(),
        (directory, name) => [directory, b"/", name].concat(),
    }
}

fn cost(path: &[u8]) -> usize {
    path.len() + size_of::<Vec<u8>>()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::{CWD, Mode, mkdirat, open, openat};

    use super::*;

    fn paths(top: &std::path::Path) -> Vec<String> {
        let top = open(top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut paths = Vec::new();
        walk(&top, |found| {
            paths.push(String::from_utf8(found.path.to_vec()).unwrap());
            io::Result::Ok(())
        })
        .unwrap();
        paths
    }

    #[test]
    fn everything_is_found_and_no_link_followed() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        fs::create_dir_all(top.join("b/c")).unwrap();
        fs::write(top.join("b/c/file"), "").unwrap();
        fs::write(top.join("a"), "").unwrap();
        symlink("..", top.join("b/up")).unwrap();
        assert_eq!(paths(top), ["a", "b", "b/c", "b/up", "b/c/file"]);
    }

    #[test]
    fn a_tree_deeper_than_any_path_ends() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        mkdirat(CWD, &top, Mode::RWXU).unwrap();
        let mut at = open(&top, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        drop(at);
        assert_eq!(paths(&top).len(), MAX_PATH / 2);
        crate::snapshot::remove_tree(&top).unwrap();
    }
}
