//! What a container changed, told from its upper directory: as a list, and as a layer's archive.
//!
//! Running a container needs places to mount things at, which are made in its upper directory if the image
//! lacks them. Docker makes these in a layer of their own below the upper one, so that they are no change
//! of the container's; here they are left out.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags, Stat, fstat, lgetxattr, statat},
    io::Errno,
};

use super::{
    archive::ArchiveWriter,
    unpack::{OPAQUE, OPAQUE_ATTRIBUTE, WHITEOUT, through_proc},
    walk::{Found, join, open_below, walk},
};

/// Bytes of memory that a list of changes may take: about a million of them.
const MAX_LIST: usize = 128 << 20;

/// What Docker's own layer has in every container.
const PLACEHOLDERS: [&[u8]; 10] = [
    b".dockerenv",
    b"dev/console",
    b"dev/pts",
    b"dev/shm",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/mtab",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
];
/// The directories of these.
const PLACEHOLDER_DIRECTORIES: [&[u8]; 2] = [b"dev", b"etc"];

/// What happened to a path; as a number in Docker's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Modified = 0,
    Added = 1,
    Deleted = 2,
}

/// A container's upper directory beside its image.
#[derive(Debug)]
pub(super) struct Diff<'a> {
    pub(super) upper: &'a OwnedFd,
    /// The image's layers, merged.
    pub(super) image: &'a OwnedFd,
}

/// Paths in the order of a walk: `a`, `a/b`, `a-b`.
type Changes = BTreeMap<Vec<u8>, Change>;

impl Diff<'_> {
    /// The changes, absolute paths, each directory before what is in it. A directory in which something
    /// changed is changed.
    pub(super) fn changes(&self) -> io::Result<Vec<(Vec<u8>, Change)>> {
        let (mut changes, mut bytes) = (Changes::new(), 0);
        walk(self.upper, |found| -> io::Result<()> {
            if let Some(change) = self.change(found)? {
                note(&mut changes, &mut bytes, found.path, change)?;
            }
            if found.kind() == FileType::Directory && is_opaque(found.directory, found.name.to_bytes()) {
                self.deleted_by(found, &mut changes, &mut bytes)?;
            }
            Ok(())
        })?;
        let path = |key: Vec<u8>| key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect();
        Ok(changes.into_iter().map(|(key, change)| (path(key), change)).collect())
    }

    fn change(&self, found: &Found<'_>) -> io::Result<Option<Change>> {
        let before = self.in_image(found.path)?;
        if is_whiteout(&found.stat) {
            return Ok(before.map(|_| Change::Deleted));
        }
        let Some((item, before)) = before else {
            return Ok(match is_placeholder(found.path, &found.stat) {
                true => None,
                false => Some(Change::Added),
            });
        };
        let differs = differ(&before, &found.stat)
            || (found.kind() == FileType::RegularFile
                && capability(&item, b"") != capability(found.directory, found.name.to_bytes()));
        Ok(differs.then_some(Change::Modified))
    }

    /// What an opaque directory hides of the image's and does not have itself.
    fn deleted_by(&self, found: &Found<'_>, changes: &mut Changes, bytes: &mut usize) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let Ok(before) = open_below(self.image, found.path, flags) else { return Ok(()) };
        let Ok(now) = open_below(self.upper, found.path, flags) else { return Ok(()) };
        for entry in Dir::read_from(&before)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..")
                && matches!(statat(&now, name, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
            {
                note(changes, bytes, &join(found.path, name.to_bytes()), Change::Deleted)?;
            }
        }
        Ok(())
    }

    /// The image's file at `path`, open as a place.
    fn in_image(&self, path: &[u8]) -> io::Result<Option<(OwnedFd, Stat)>> {
        match open_below(self.image, path, OFlags::PATH) {
            Ok(item) => {
                let stat = fstat(&item)?;
                Ok(Some((item, stat)))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what a layer on top of the image's must have (OCI image specification, "layer"); returns
    /// whether that is anything.
    pub(super) fn write_layer(&self, sink: impl Write) -> io::Result<bool> {
        let mut archive = ArchiveWriter::new(sink);
        walk(self.upper, |found| -> io::Result<()> {
            if is_whiteout(&found.stat) {
                let at = found.path.len() - found.name.to_bytes().len();
                let path = [&found.path[..at], WHITEOUT, found.name.to_bytes()].concat();
                return archive.marker(&path, &found.stat);
            }
            let is_for_others = match PLACEHOLDER_DIRECTORIES.contains(&found.path) {
                true => !self.is_worth_telling(found)?,
                false => is_placeholder(found.path, &found.stat) && self.in_image(found.path)?.is_none(),
            };
            if is_for_others {
                return Ok(());
            }
            archive.found(found, b"")?;
            if found.kind() == FileType::Directory && is_opaque(found.directory, found.name.to_bytes()) {
                archive.marker(&join(found.path, OPAQUE), &found.stat)?;
            }
            Ok(())
        })?;
        Ok(archive.finish()? > 0)
    }

    /// Whether a directory that may be here for its placeholders alone has anything else.
    fn is_worth_telling(&self, found: &Found<'_>) -> io::Result<bool> {
        match self.in_image(found.path)? {
            Some((_, before)) if differ(&before, &found.stat) => return Ok(true),
            _ => {}
        }
        if found.kind() != FileType::Directory || is_opaque(found.directory, found.name.to_bytes()) {
            return Ok(true);
        }
        let Ok(directory) = open_below(self.upper, found.path, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return Ok(false);
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = join(found.path, name.to_bytes());
            let Ok(stat) = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if !is_placeholder(&path, &stat) || self.in_image(&path)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Notes a change and that the directories above it changed.
fn note(changes: &mut Changes, bytes: &mut usize, path: &[u8], change: Change) -> io::Result<()> {
    // Zero sorts before every byte that a name can have, as the slash should.
    let mut key = vec![0];
    key.extend(path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }));
    let mut above = key.len();
    while let Some(slash) = key[..above].iter().rposition(|byte| *byte == 0).filter(|slash| *slash > 0) {
        if changes.contains_key(&key[..slash]) {
            break;
        }
        take(bytes, slash)?;
        changes.insert(key[..slash].to_vec(), Change::Modified);
        above = slash;
    }
    take(bytes, key.len())?;
    changes.insert(key, change);
    Ok(())
}

fn take(bytes: &mut usize, length: usize) -> io::Result<()> {
    *bytes += length + size_of::<(Vec<u8>, Change)>();
    match *bytes > MAX_LIST {
        true => Err(io::Error::other("there are too many changes to list")),
        false => Ok(()),
    }
}

/// How overlayfs says that something is deleted.
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// How overlayfs says that a directory hides all that is below it.
fn is_opaque(directory: &OwnedFd, name: &[u8]) -> bool {
    let mut value = [0; 1];
    let read = lgetxattr(through_proc(directory, name), OPAQUE_ATTRIBUTE, &mut value[..]);
    read == Ok(1) && value == *b"y"
}

/// An empty place to mount something at.
fn is_placeholder(path: &[u8], stat: &Stat) -> bool {
    let is_empty = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => stat.st_size == 0,
        kind => kind == FileType::Symlink,
    };
    is_empty && (PLACEHOLDERS.contains(&path) || PLACEHOLDER_DIRECTORIES.contains(&path))
}

/// Whether two files differ, as Docker sees it: the times and sizes of directories say nothing.
fn differ(before: &Stat, now: &Stat) -> bool {
    let same = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    if same(before) != same(now) {
        return true;
    }
    if FileType::from_raw_mode(now.st_mode) == FileType::Directory {
        return false;
    }
    // An archive may have kept whole seconds only.
    let nanos = (before.st_mtime_nsec, now.st_mtime_nsec);
    let same_time = before.st_mtime == now.st_mtime && (nanos.0 == nanos.1 || nanos.0 == 0 || nanos.1 == 0);
    !same_time || before.st_size != now.st_size
}

/// The capabilities of a program; those of `item` itself when `name` is empty.
fn capability(item: impl AsFd, name: &[u8]) -> Option<Vec<u8>> {
    const NAME: &str = "security.capability";
    let mut value = vec![0; 256];
    let length = match name {
        // A place cannot be asked, its path can: it leads to the very same file.
        b"" => {
            let path = through_proc(&item, b"");
            let path = path.strip_suffix(b"/").unwrap_or(&path);
            rustix::fs::getxattr(path, NAME, &mut value[..])
        }
        name => lgetxattr(through_proc(&item, name), NAME, &mut value[..]),
    };
    value.truncate(length.ok()?);
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use rustix::fs::{CWD, Mode, XattrFlags, mknodat, open, setxattr};

    use super::*;
    use crate::snapshot::{
        tar::{Kind, Reader},
        testing::is_root,
    };

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for directory in ["image", "upper"] {
                fs::create_dir(place.0.path().join(directory)).unwrap();
            }
            place
        }

        /// Makes `path` an empty file, or a directory if it ends with a slash.
        fn add(&self, path: &str) -> &Self {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match path.to_string_lossy().ends_with('/') {
                true => fs::create_dir_all(path).unwrap(),
                false => fs::write(path, "").unwrap(),
            }
            self
        }

        fn whiteout(&self, path: &str) {
            let path = self.0.path().join("upper").join(path);
            mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }

        fn with<T>(&self, run: impl FnOnce(&Diff<'_>) -> T) -> T {
            let opened = |name: &str| {
                let path = self.0.path().join(name);
                open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
            };
            run(&Diff { upper: &opened("upper"), image: &opened("image") })
        }

        fn changes(&self) -> Vec<String> {
            let changes = self.with(|diff| diff.changes()).unwrap();
            let letter = |change| ["C", "A", "D"][change as usize];
            let line = |(path, change): &(Vec<u8>, Change)| {
                format!("{} {}", letter(*change), String::from_utf8_lossy(path))
            };
            changes.iter().map(line).collect()
        }

        fn layer(&self) -> (bool, Vec<(String, Kind)>) {
            let mut bytes = Vec::new();
            let any = self.with(|diff| diff.write_layer(&mut bytes)).unwrap();
            let (mut reader, mut members) = (Reader::new(&bytes[..]), Vec::new());
            while let Some(entry) = reader.next().unwrap() {
                members.push((String::from_utf8(entry.path).unwrap(), entry.kind));
            }
            (any, members)
        }
    }

    #[test]
    fn changes_are_dockers() {
        if !is_root("changes_are_dockers") {
            return;
        }
        let place = Place::new();
        for path in ["etc/kept", "etc/gone", "srv/x", "opq/old", "opq/again", "file-to-directory"] {
            place.add(&format!("image/{path}"));
        }
        for path in ["a/new", "a-b", "etc/new", "opq/again", "opq/own", "file-to-directory/in"] {
            place.add(&format!("upper/{path}"));
        }
        place.whiteout("etc/gone");
        place.whiteout("etc/came-and-went");
        place.add("upper/srv/");
        let opaque = place.0.path().join("upper/opq");
        setxattr(opaque, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty()).unwrap();
        let again = "opq/again";
        let set = |path: &str| {
            fs::File::options()
                .write(true)
                .open(place.0.path().join(path))
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH)
                .unwrap();
        };
        set(&format!("image/{again}"));
        set(&format!("upper/{again}"));
        let expected = [
            "A /a",
            "A /a/new",
            "A /a-b",
            "C /etc",
            "D /etc/gone",
            "A /etc/new",
            "C /file-to-directory",
            "A /file-to-directory/in",
            "C /opq",
            "D /opq/old",
            "A /opq/own",
        ];
        assert_eq!(place.changes(), expected);
        let (any, members) = place.layer();
        assert!(any);
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"etc/.wh.gone") && names.contains(&"opq/.wh..wh..opq"), "{names:?}");
        assert!(names.contains(&"srv/") && !names.contains(&"etc/kept"), "{names:?}");
    }

    #[test]
    fn a_mode_is_a_change_and_a_time_of_a_directory_is_none() {
        let place = Place::new();
        place.add("image/d/").add("upper/d/").add("image/m/").add("upper/m/");
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(place.0.path().join("upper/m"), mode).unwrap();
        assert_eq!(place.changes(), ["C /m"]);
    }

    #[test]
    fn places_to_mount_at_are_no_changes() {
        let place = Place::new();
        place.add("image/etc/passwd").add("upper/etc/hosts").add("upper/proc/").add("upper/dev/pts/");
        symlink("/proc/mounts", place.0.path().join("upper/etc/mtab")).unwrap();
        assert_eq!(place.changes(), [""; 0]);
        assert_eq!(place.layer(), (false, Vec::new()));
        // Something in them is.
        place.add("upper/dev/own");
        fs::write(place.0.path().join("upper/etc/hosts"), "own").unwrap();
        assert_eq!(place.changes(), ["C /dev", "A /dev/own", "C /etc", "A /etc/hosts"]);
        let (_, members) = place.layer();
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["dev/", "etc/", "dev/own", "etc/hosts"]);
    }

    #[test]
    fn too_long_a_list_is_refused() {
        let mut bytes = MAX_LIST;
        assert!(note(&mut Changes::new(), &mut bytes, b"a", Change::Added).is_err());
        let mut changes = Changes::new();
        note(&mut changes, &mut 0, b"a/b/c", Change::Added).unwrap();
        let keys: Vec<&[u8]> = changes.keys().map(Vec::as_slice).collect();
        assert_eq!(keys, [&b"\0a"[..], b"\0a\0b", b"\0a\0b\0c"]);
    }
}
