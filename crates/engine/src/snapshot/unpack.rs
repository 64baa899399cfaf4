//! Applies a layer's archive to a directory (OCI image specification, "layer"), in overlayfs's terms:
//! `.wh.name` becomes a character device 0:0, `.wh..wh..opq` the attribute `trusted.overlay.opaque`.
//!
//! Every path is resolved by the kernel with the layer's directory as its root (`openat2`,
//! `RESOLVE_IN_ROOT`), as if the archive were unpacked in a chroot: neither `..` nor a link of the archive
//! reaches anything outside. The last component is never followed.
//!
//! The same archive can be copied into a container's live root instead ([`copy_into`]): without whiteouts,
//! over what is there.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::PathBuf,
    rc::Rc,
};

use rustix::{
    fs::{
        AtFlags, Dev, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid,
        XattrFlags, chmod, chmodat, chownat, fchmod, fchown, fsetxattr, ftruncate, futimens, lgetxattr,
        linkat, llistxattr, lsetxattr, makedev, mkdirat, mknodat, openat, openat2, renameat_with, statat,
        symlinkat, unlinkat, utimensat,
    },
    io::Errno,
};

/// The same into a container's live root.
mod copy;

pub(crate) use copy::{CopyInto, copy_into};

use super::{
    tar::{self, Entry, Kind, Time},
    tree,
};
use crate::{error::errno_of, lookup};

/// Prefix of a file that says what a layer removes.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// Prefix of AUFS's own bookkeeping, which Docker skips.
const WHITEOUT_META: &[u8] = b".wh..wh.";
/// Says that a directory hides all that lower layers have in it.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";
pub(super) const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";

/// How many directories are kept open: archives list what belongs together in one place.
const OPEN_DIRECTORIES: usize = 32;
/// Bytes of memory that directories waiting for their times may take: about a million of them.
const MAX_DIRECTORY_BYTES: usize = 64 << 20;
/// Bytes copied at once.
const BUFFER: usize = 256 << 10;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Archive(#[from] tar::Error),
    #[error("invalid path {path:?}: it is outside of the layer")]
    Outside { path: String },
    #[error("invalid whiteout {path:?}")]
    Whiteout { path: String },
    #[error("{path:?} is outside of {destination:?}")]
    Breakout { path: String, destination: String },
    #[error("cannot overwrite directory {path:?} with non-directory {destination:?}")]
    OverDirectory { path: String, destination: String },
    #[error("cannot overwrite non-directory {path:?} with directory {destination:?}")]
    OverNonDirectory { path: String, destination: String },
    #[error("unhandled tar header type {flag}")]
    Unhandled { flag: u8 },
    #[error("the layer has too many directories")]
    TooManyDirectories,
    #[error("no space left on device")]
    NoSpace,
    #[error("{doing} {path:?}")]
    Entry { doing: &'static str, path: String, source: io::Error },
}

/// Unpacks `archive` into the empty directory `root`. `lower` are the directories of the layers below,
/// topmost first; `spare` is an empty directory on the same file system for what is replaced. Returns
/// the bytes of all files.
///
/// `archive` is read to its very end, also past what tar needs.
///
/// # Errors
/// What it then leaves in `root` is of no use.
pub(crate) fn unpack(
    archive: impl Read,
    root: &OwnedFd,
    spare: &OwnedFd,
    lower: &[OwnedFd],
) -> Result<u64, Error> {
    Unpacker::new(root, Purpose::Layer { spare, lower }).run(archive)
}

/// What the archive becomes.
#[derive(Debug, Clone, Copy)]
enum Purpose<'a> {
    Layer {
        /// An empty directory on the same file system, for what is replaced.
        spare: &'a OwnedFd,
        /// The layers below, topmost first.
        lower: &'a [OwnedFd],
    },
    Copy(&'a CopyInto),
}

struct Unpacker<'a> {
    root: &'a OwnedFd,
    purpose: Purpose<'a>,
    /// The directories used last, the latest first.
    open: VecDeque<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories get their times at the end: making something in them changes these.
    directories: Vec<(Vec<u8>, Time)>,
    directory_bytes: usize,
    /// How many things a later entry took the place of.
    replaced: u64,
    size: u64,
    room: tree::Room,
    buffer: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    fn new(root: &'a OwnedFd, purpose: Purpose<'a>) -> Self {
        Self {
            root,
            purpose,
            open: VecDeque::with_capacity(OPEN_DIRECTORIES),
            directories: Vec::new(),
            directory_bytes: 0,
            replaced: 0,
            size: 0,
            room: tree::Room::default(),
            buffer: vec![0; BUFFER],
        }
    }

    fn run(mut self, archive: impl Read) -> Result<u64, Error> {
        let mut archive = tar::Reader::new(archive);
        while let Some(mut entry) = archive.next()? {
            match self.purpose {
                Purpose::Layer { .. } => self.apply_to_layer(&entry, &mut archive)?,
                Purpose::Copy(how) => self.copy_one(how, &mut entry, &mut archive)?,
            }
        }
        archive.drain()?;
        self.finish()
    }

    fn apply_to_layer<R: Read>(&mut self, entry: &Entry, content: &mut tar::Reader<R>) -> Result<(), Error> {
        let path = clean(&entry.path)?;
        let (parent, name) = split(&path);
        if name.is_empty() {
            return self.root_directory(entry);
        }
        if name == OPAQUE {
            return self.opaque(parent);
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let directory = self.directory(parent)?;
            return self.whiteout(entry, &directory, hidden);
        }
        self.apply(entry, &path, content)
    }

    /// Makes what `entry` says at `path`, which is clean and not the root.
    fn apply<R: Read>(
        &mut self,
        entry: &Entry,
        path: &[u8],
        content: &mut tar::Reader<R>,
    ) -> Result<(), Error> {
        let (parent, name) = split(path);
        let directory = self.directory(parent)?;
        let said = |doing, source: Errno| failed(doing, path, source);
        match &entry.kind {
            Kind::File => {
                let file = self.make(&directory, name, |directory, name| {
                    let flags =
                        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    openat(directory, name, flags, Mode::RUSR | Mode::WUSR)
                });
                let file = file.map_err(|error| said("create", error))?;
                self.content(entry, &file, content)?;
                self.size = self.size.saturating_add(entry.size);
                return attributes(&file, entry);
            }
            Kind::Directory => {
                match mkdirat(&*directory, name, Mode::RWXU) {
                    Err(Errno::EXIST) => match found(&directory, name) {
                        Found::Directory => {}
                        other => self
                            .replace_by_directory(&directory, name, other)
                            .map_err(|error| said("replace", error))?,
                    },
                    result => result.map_err(|error| said("create", error))?,
                }
                self.remember_time(path, entry.mtime)?;
            }
            Kind::Symlink => {
                self.make(&directory, name, |directory, name| symlinkat(&entry.link[..], directory, name))
                    .map_err(|error| said("create", error))?;
                self.size = self.size.saturating_add(entry.link.len() as u64);
            }
            Kind::HardLink => {
                let target = clean(&entry.link)?;
                let (target_parent, target_name) = split(&target);
                let target_directory = self
                    .open_existing(target_parent)
                    .map_err(|error| failed("open the target's directory of", &entry.path, error))?;
                if target_name.is_empty() {
                    return Err(said("link", Errno::PERM));
                }
                let link = |directory: &OwnedFd, name: &[u8]| {
                    let flags = AtFlags::empty();
                    linkat(&*target_directory, target_name, directory, name, flags)
                };
                // A link to itself must not replace its target before it is made.
                if (target_parent, target_name) != (parent, name) {
                    self.make(&directory, name, link).map_err(|error| said("link", error))?;
                }
                return Ok(());
            }
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::Fifo => {
                let (kind, device) = device(&entry.kind);
                self.make(&directory, name, |directory, name| {
                    mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, device)
                })
                .map_err(|error| said("create", error))?;
            }
            Kind::Other(flag) => return Err(Error::Unhandled { flag: *flag }),
        }
        attributes_at(&directory, name, entry)
    }

    /// An entry for the layer's root itself.
    fn root_directory(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.kind != Kind::Directory {
            return Err(Error::Outside { path: shown(&entry.path) });
        }
        attributes_at(self.root, b".", entry)?;
        self.remember_time(b".", entry.mtime)
    }

    fn opaque(&mut self, parent: &[u8]) -> Result<(), Error> {
        let directory = self.directory(parent)?;
        set_attribute(&directory, b".", OPAQUE_ATTRIBUTE.as_bytes(), b"y")
            .map_err(|error| failed("make opaque", parent, error))
    }

    fn whiteout(&mut self, entry: &Entry, directory: &OwnedFd, hidden: &[u8]) -> Result<(), Error> {
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(Error::Whiteout { path: shown(&entry.path) });
        }
        let said = |error| failed("hide", &entry.path, error);
        match mknodat(directory, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            // Only what lower layers have is to be hidden, not what this layer has (OCI image
            // specification, "Whiteouts"), wherever in the archive that stands.
            Err(Errno::EXIST) => match found(directory, hidden) {
                Found::Directory => {
                    set_attribute(directory, hidden, OPAQUE_ATTRIBUTE.as_bytes(), b"y").map_err(said)
                }
                _ => Ok(()),
            },
            result => result.map_err(said),
        }
    }

    /// What this layer hid and then makes anew as a directory hides everything below.
    fn replace_by_directory(&mut self, directory: &OwnedFd, name: &[u8], before: Found) -> Result<(), Errno> {
        self.set_aside(directory, name)?;
        mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
        match (before, self.purpose) {
            (Found::Whiteout, Purpose::Layer { .. }) => {
                set_attribute(directory, name, OPAQUE_ATTRIBUTE.as_bytes(), b"y")
            }
            _ => Ok(()),
        }
    }

    /// Makes something new called `name`; what is there already is set aside first, as in Docker the
    /// last entry of a path wins.
    fn make<T>(
        &mut self,
        directory: &OwnedFd,
        name: &[u8],
        make: impl Fn(&OwnedFd, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make(directory, name) {
            Err(Errno::EXIST) => {
                self.set_aside(directory, name)?;
                make(directory, name)
            }
            result => result,
        }
    }

    /// Takes `name` out of the layer. A directory may hold a lot, so that it is moved away instead of
    /// being emptied.
    fn set_aside(&mut self, directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        self.replaced += 1;
        // It may have been a directory on the way to others.
        self.open.clear();
        match (unlinkat(directory, name, AtFlags::empty()), self.purpose) {
            (Err(Errno::ISDIR | Errno::PERM), Purpose::Layer { spare, .. }) => {
                let aside = format!("{}", self.replaced);
                renameat_with(directory, name, spare, aside, RenameFlags::NOREPLACE)
            }
            (Err(Errno::ISDIR | Errno::PERM), Purpose::Copy(_)) => {
                let path = PathBuf::from(OsString::from_vec(through_proc(directory, name)));
                tree::remove_tree(&path).map_err(|error| errno_of(&error))
            }
            (result, _) => result,
        }
    }

    fn content<R: Read>(
        &mut self,
        entry: &Entry,
        file: &OwnedFd,
        content: &mut tar::Reader<R>,
    ) -> Result<(), Error> {
        let Some(pieces) = &entry.pieces else {
            return self.copy(entry, file, content, 0, entry.size);
        };
        ftruncate(file, entry.size).map_err(|error| failed("write", &entry.path, error))?;
        for piece in pieces {
            self.copy(entry, file, content, piece.offset, piece.length)?;
        }
        Ok(())
    }

    fn copy<R: Read>(
        &mut self,
        entry: &Entry,
        file: &OwnedFd,
        content: &mut tar::Reader<R>,
        mut offset: u64,
        mut length: u64,
    ) -> Result<(), Error> {
        while length > 0 {
            let most = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = match content.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(tar::Error::Truncated.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(tar::Error::from(error).into()),
            };
            self.room.take(self.root, count).map_err(|_| Error::NoSpace)?;
            let mut bytes = &self.buffer[..count];
            while !bytes.is_empty() {
                let written = rustix::io::pwrite(file, bytes, offset)
                    .map_err(|error| failed("write", &entry.path, error))?;
                offset += written as u64;
                bytes = &bytes[written..];
            }
            length -= count as u64;
        }
        Ok(())
    }

    /// The directory `path`, made if it is missing.
    fn directory(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Error> {
        match self.open_existing(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            result => return result.map_err(|error| failed("open", path, error)),
        }
        let mut at = 0;
        loop {
            at = path[at..].iter().position(|byte| *byte == b'/').map_or(path.len(), |slash| at + slash);
            let prefix = &path[..at];
            match self.open_existing(prefix) {
                Ok(_) => {}
                Err(Errno::NOENT) => self.missing_directory(prefix)?,
                Err(Errno::NOTDIR) => {
                    let (parent, name) = split(prefix);
                    let said = |error| failed("create", prefix, error);
                    let directory = self.open_existing(parent).map_err(said)?;
                    match found(&directory, name) {
                        Found::Whiteout => {
                            self.replace_by_directory(&directory, name, Found::Whiteout).map_err(said)?
                        }
                        _ => return Err(said(Errno::NOTDIR)),
                    }
                }
                Err(error) => return Err(failed("open", prefix, error)),
            }
            if at == path.len() {
                return self.open_existing(path).map_err(|error| failed("open", path, error));
            }
            at += 1;
        }
    }

    /// Makes a directory that the archive uses without having an entry for it. It must not change what
    /// the layers below say of this directory.
    fn missing_directory(&mut self, path: &[u8]) -> Result<(), Error> {
        let (parent, name) = split(path);
        let said = |error| failed("create", path, error);
        let directory = self.open_existing(parent).map_err(said)?;
        mkdirat(&*directory, name, Mode::from_raw_mode(0o755)).map_err(said)?;
        let lower = match self.purpose {
            Purpose::Layer { lower, .. } => lower,
            Purpose::Copy(_) => &[],
        };
        for layer in lower {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
            let below = match openat2(layer, path, flags, Mode::empty(), resolve) {
                Ok(below) => below,
                Err(Errno::NOENT) => continue,
                Err(_) => break,
            };
            let stat = rustix::fs::fstat(&below).map_err(said)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            chownat(&*directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(said)?;
            chmodat(&*directory, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())
                .map_err(said)?;
            copy_attributes(&below, &directory, name).map_err(said)?;
            let seconds = stat.st_mtime;
            let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
            return self.remember_time(path, Time { seconds, nanos });
        }
        Ok(())
    }

    /// # Errors
    /// `NOENT`, `NOTDIR` and whatever else the kernel says.
    fn open_existing(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(at) = self.open.iter().position(|(open, _)| open == path) {
            // The latest come first; a run of files in one directory finds it at once.
            if at > 0 {
                self.open.swap(0, at);
            }
            return Ok(self.open[0].1.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place: &[u8] = if path.is_empty() { b"." } else { path };
        let opened = Rc::new(lookup::open(self.root, place, flags, resolve)?);
        self.open.truncate(OPEN_DIRECTORIES - 1);
        self.open.push_front((path.to_vec(), opened.clone()));
        Ok(opened)
    }

    fn remember_time(&mut self, path: &[u8], time: Time) -> Result<(), Error> {
        self.directory_bytes += path.len() + size_of::<(Vec<u8>, Time)>();
        if self.directory_bytes > MAX_DIRECTORY_BYTES {
            return Err(Error::TooManyDirectories);
        }
        self.directories.push((path.to_vec(), time));
        Ok(())
    }

    fn finish(mut self) -> Result<u64, Error> {
        for (path, time) in std::mem::take(&mut self.directories) {
            let (parent, name) = split(&path);
            let set = self
                .open_existing(parent)
                .and_then(|directory| utimensat(&*directory, name, &times(time), AtFlags::SYMLINK_NOFOLLOW));
            match set {
                // A later entry may have taken its place.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(failed("set the times of", &path, error)),
            }
        }
        if self.replaced == 0 || matches!(self.purpose, Purpose::Copy(_)) {
            return Ok(self.size);
        }
        // What was replaced was counted.
        tree::disk_usage_of(self.root).map_err(|source| Error::Entry {
            doing: "measure",
            path: ".".to_owned(),
            source,
        })
    }
}

/// Owner, mode, extended attributes and times of a file just written, in the order that keeps them: a
/// change of owner takes away setuid bits and capabilities.
fn attributes(file: &OwnedFd, entry: &Entry) -> Result<(), Error> {
    let said = |error| failed("set the attributes of", &entry.path, error);
    fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).map_err(said)?;
    fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(said)?;
    for (name, value) in wanted(&entry.xattrs) {
        tolerant(fsetxattr(file, name, value, XattrFlags::empty())).map_err(said)?;
    }
    futimens(file, &times(entry.mtime)).map_err(said)
}

/// The same for what cannot be opened without an effect.
fn attributes_at(directory: impl AsFd, name: &[u8], entry: &Entry) -> Result<(), Error> {
    let directory = directory.as_fd();
    let said = |error| failed("set the attributes of", &entry.path, error);
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(directory, name, Some(uid), Some(gid), nofollow).map_err(said)?;
    if entry.kind != Kind::Symlink {
        set_mode(directory, name, Mode::from_raw_mode(entry.mode)).map_err(said)?;
    }
    for (attribute, value) in wanted(&entry.xattrs) {
        tolerant(set_attribute(directory, name, attribute, value)).map_err(said)?;
    }
    utimensat(directory, name, &times(entry.mtime), nofollow).map_err(said)
}

/// Sets the mode of `name` itself: should a container put a link there meanwhile, that is an error.
fn set_mode(directory: impl AsFd, name: &[u8], mode: Mode) -> Result<(), Errno> {
    let item = openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    chmod(format!("/proc/self/fd/{}", item.as_raw_fd()), mode)
}

/// An archive's own idea of overlayfs's bookkeeping is not taken over.
fn wanted(xattrs: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> {
    xattrs.iter().filter_map(|(name, value)| {
        let ours = name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.");
        (!ours).then_some((name.as_slice(), value.as_slice()))
    })
}

/// As Docker does, an attribute that this file system or this kind of file cannot have is left out.
fn tolerant(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        result => result,
    }
}

/// There is no `setxattrat` on every kernel that this engine runs on; a path through `/proc` names the
/// directory without resolving anything above it.
fn set_attribute(directory: impl AsFd, name: &[u8], attribute: &[u8], value: &[u8]) -> Result<(), Errno> {
    lsetxattr(through_proc(directory, name), attribute, value, XattrFlags::empty())
}

fn copy_attributes(from: &OwnedFd, directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    let source = through_proc(from, b".");
    let mut names = vec![0; 64 << 10];
    let length = match llistxattr(&source[..], &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    for attribute in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if attribute.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(&source[..], attribute, &mut value[..])?;
        tolerant(set_attribute(directory, name, attribute, &value[..length]))?;
    }
    Ok(())
}

pub(super) fn through_proc(directory: impl AsFd, name: &[u8]) -> Vec<u8> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&directory.as_fd());
    [format!("/proc/self/fd/{fd}/").as_bytes(), name].concat()
}

/// What a name in the layer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Directory,
    /// A character device 0:0.
    Whiteout,
    Other,
}

fn found(directory: &OwnedFd, name: &[u8]) -> Found {
    let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { return Found::Other };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Directory,
        FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
        _ => Found::Other,
    }
}

fn device(kind: &Kind) -> (FileType, Dev) {
    match kind {
        Kind::CharDevice { major, minor } => (FileType::CharacterDevice, makedev(*major, *minor)),
        Kind::BlockDevice { major, minor } => (FileType::BlockDevice, makedev(*major, *minor)),
        _ => (FileType::Fifo, 0),
    }
}

fn times(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    Timestamps { last_access: time, last_modification: time }
}

/// `path` without `.`, `..` and double slashes, relative to the layer's root; empty for the root. `..`
/// at the root of an absolute path is the root, as everywhere.
fn clean(path: &[u8]) -> Result<Vec<u8>, Error> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if components.pop().is_none() && !path.starts_with(b"/") {
                    return Err(Error::Outside { path: shown(path) });
                }
            }
            name => components.push(name),
        }
    }
    Ok(components.join(&b'/'))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn failed(doing: &'static str, path: &[u8], error: Errno) -> Error {
    match error {
        Errno::NOSPC | Errno::DQUOT => Error::NoSpace,
        error => Error::Entry { doing, path: shown(path), source: error.into() },
    }
}

#[cfg(test)]
mod tests;
