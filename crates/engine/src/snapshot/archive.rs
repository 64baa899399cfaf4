//! Writing files into a tar archive: ustar, with PAX records (POSIX.1-2017 "pax") for what it has no room
//! for. Times are whole seconds, as in Docker's archives.

use std::{
    collections::HashMap,
    ffi::CStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
};

use rustix::{
    fs::{
        FileType, Stat, fgetxattr, flistxattr, flistxattr_query, fstat, lgetxattr, llistxattr,
        llistxattr_query, major, minor, readlinkat,
    },
    io::Errno,
};

use super::{
    unpack::through_proc,
    walk::{Found, join, walk},
};
use crate::{lookup, userns::Owners};

/// Tar's unit.
const BLOCK: usize = 512;
/// Longest path or link target of a header.
const MAX_NAME: usize = 100;
/// Bytes of one file's extended attributes; the readers of archives have bounds, [our own](super::tar) too.
const MAX_ATTRIBUTES: usize = 512 << 10;
/// Bytes of memory for the names of files with several: about half a million of them. Those beyond are
/// written as files of their own.
const MAX_LINKED: usize = 64 << 20;
/// Bytes copied at once.
const BUFFER: usize = 256 << 10;
/// The prefix of PAX records that are extended attributes, as everyone writes them.
const XATTR: &str = "SCHILY.xattr.";

/// An archive in the making.
pub(crate) struct ArchiveWriter<W> {
    sink: W,
    /// The first name in the archive of files that have several, by device and inode.
    linked: HashMap<(u64, u64), Vec<u8>>,
    linked_bytes: usize,
    buffer: Vec<u8>,
    members: u64,
    owners: Owners,
}

/// What a header says.
struct Header<'a> {
    path: &'a [u8],
    kind: tar::EntryType,
    link: &'a [u8],
    stat: &'a Stat,
    size: u64,
    xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<W: Write> ArchiveWriter<W> {
    pub(crate) fn new(sink: W) -> Self {
        let linked = HashMap::new();
        let owners = Owners::default();
        Self { sink, linked, linked_bytes: 0, buffer: vec![0; BUFFER], members: 0, owners }
    }

    /// The same with the owners that a container knows, not those of the files as they are mounted.
    pub(crate) fn with_owners(sink: W, owners: Owners) -> Self {
        Self { owners, ..Self::new(sink) }
    }

    /// Adds all that is in the directory `top`, under names that begin with `prefix`, a path without a
    /// slash at its end.
    ///
    /// # Errors
    /// The archive cannot be written. Files that cannot be read are left out.
    pub(crate) fn tree(&mut self, top: impl AsFd, prefix: &[u8]) -> io::Result<()> {
        walk(top, |found| self.found(found, prefix))
    }

    /// The same for one thing.
    pub(crate) fn found(&mut self, found: &Found<'_>, prefix: &[u8]) -> io::Result<()> {
        let path = join_prefix(prefix, found.path);
        self.member(found.directory, found.name, &path, &found.stat)
    }

    /// Adds `name` in `directory` as `path`; `stat` is what it was found to be.
    ///
    /// # Errors
    /// The archive cannot be written. What cannot be read is left out.
    pub(crate) fn member(
        &mut self,
        directory: impl AsFd,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Tar has none, and nothing may be a link to one.
        if kind == FileType::Socket {
            return Ok(());
        }
        let identity = (stat.st_dev, stat.st_ino);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&identity).cloned() {
                let kind = tar::EntryType::Link;
                return self.header(&Header { path, kind, link: &first, stat, size: 0, xattrs: &[] });
            }
            let cost = path.len() + size_of::<((u64, u64), Vec<u8>)>();
            if self.linked_bytes + cost <= MAX_LINKED {
                self.linked_bytes += cost;
                self.linked.insert(identity, path.to_vec());
            }
        }
        let (kind, link) = match kind {
            FileType::RegularFile => return self.file(directory, name, path, identity),
            FileType::Directory => {
                let path = if path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() };
                let xattrs = attributes_of(&directory, name);
                let kind = tar::EntryType::Directory;
                return self.header(&Header { path: &path, kind, link: b"", stat, size: 0, xattrs: &xattrs });
            }
            FileType::Symlink => match readlinkat(directory, name, Vec::new()) {
                Ok(target) => (tar::EntryType::Symlink, target.into_bytes()),
                Err(error) => return self.left_out(path, identity, error),
            },
            FileType::CharacterDevice => (tar::EntryType::Char, Vec::new()),
            FileType::BlockDevice => (tar::EntryType::Block, Vec::new()),
            FileType::Fifo => (tar::EntryType::Fifo, Vec::new()),
            _ => return self.left_out(path, identity, Errno::INVAL),
        };
        self.header(&Header { path, kind, link: &link, stat, size: 0, xattrs: &[] })
    }

    /// Adds an empty file that only its name means something of.
    pub(crate) fn marker(&mut self, path: &[u8], stat: &Stat) -> io::Result<()> {
        let mut stat = *stat;
        stat.st_mode = 0o600;
        let kind = tar::EntryType::Regular;
        self.header(&Header { path, kind, link: b"", stat: &stat, size: 0, xattrs: &[] })
    }

    /// Ends the archive; returns how many members it has.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.sink.write_all(&[0; 2 * BLOCK])?;
        self.sink.flush()?;
        Ok(self.members)
    }

    /// What the archive is written to.
    pub(crate) fn into_sink(self) -> W {
        self.sink
    }

    /// A regular file, as far as it still is one: whatever stands there now must not make us wait.
    fn file(
        &mut self,
        directory: impl AsFd,
        name: &CStr,
        path: &[u8],
        identity: (u64, u64),
    ) -> io::Result<()> {
        let file = match lookup::open_regular_at(directory, name) {
            Ok(file) => File::from(file),
            Err(error) => return self.left_out(path, identity, error),
        };
        let stat = fstat(&file)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let xattrs = read_attributes(
            flistxattr_query(&file),
            |names| flistxattr(&file, names),
            |name, value| fgetxattr(&file, name, value),
        );
        let kind = tar::EntryType::Regular;
        self.header(&Header { path, kind, link: b"", stat: &stat, size, xattrs: &xattrs })?;
        // It may grow or shrink meanwhile; the header's word stands.
        let mut content = (&file).take(size);
        let mut left = size;
        while left > 0 {
            let count = match content.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let path = String::from_utf8_lossy(path);
                    return Err(io::Error::new(error.kind(), format!("read {path}: {error}")));
                }
            };
            self.sink.write_all(&self.buffer[..count])?;
            left -= count as u64;
        }
        io::copy(&mut io::repeat(0).take(left + padding(size)), &mut self.sink)?;
        Ok(())
    }

    /// Goes on without something that cannot be read, as Docker does.
    fn left_out(&mut self, path: &[u8], identity: (u64, u64), error: Errno) -> io::Result<()> {
        self.linked.remove(&identity);
        tracing::warn!("{} is not in the archive: {error}", String::from_utf8_lossy(path));
        Ok(())
    }

    fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let mut records = Vec::new();
        if header.path.len() > MAX_NAME {
            record(&mut records, b"path", header.path);
        }
        if header.link.len() > MAX_NAME {
            record(&mut records, b"linkpath", header.link);
        }
        for (name, value) in header.xattrs {
            record(&mut records, &[XATTR.as_bytes(), name].concat(), value);
        }
        if !records.is_empty() {
            let mut block = tar::Header::new_ustar();
            block.set_entry_type(tar::EntryType::XHeader);
            put_name(&mut block, 0, b"PaxHeaders/0");
            block.set_mode(0o644);
            block.set_size(records.len() as u64);
            block.set_cksum();
            self.sink.write_all(block.as_bytes())?;
            records.resize(records.len().next_multiple_of(BLOCK), 0);
            self.sink.write_all(&records)?;
        }
        let stat = header.stat;
        let mut block = tar::Header::new_ustar();
        block.set_entry_type(header.kind);
        put_name(&mut block, 0, header.path);
        put_name(&mut block, 157, header.link);
        block.set_mode(stat.st_mode & 0o7777);
        let (uid, gid) = self.owners.inside(stat.st_uid, stat.st_gid);
        block.set_uid(uid.into());
        block.set_gid(gid.into());
        block.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        block.set_size(header.size);
        if matches!(header.kind, tar::EntryType::Char | tar::EntryType::Block) {
            block.set_device_major(major(stat.st_rdev))?;
            block.set_device_minor(minor(stat.st_rdev))?;
        }
        block.set_cksum();
        self.members += 1;
        self.sink.write_all(block.as_bytes())
    }
}

/// Docker's archive of the root directory has names that begin with a slash.
fn join_prefix(prefix: &[u8], path: &[u8]) -> Vec<u8> {
    match prefix {
        b"/" => [b"/", path].concat(),
        prefix => join(prefix, path),
    }
}

/// Puts as much of `name` in a header as fits.
fn put_name(block: &mut tar::Header, at: usize, name: &[u8]) {
    let length = name.len().min(MAX_NAME);
    block.as_mut_bytes()[at..at + length].copy_from_slice(&name[..length]);
}

/// Appends `length key=value\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while length.to_string().len() + body != length {
        length = length.to_string().len() + body;
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Bytes from `size` to the next block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

/// The extended attributes of something that must not be opened.
fn attributes_of(directory: impl AsFd, name: &CStr) -> Vec<(Vec<u8>, Vec<u8>)> {
    let path = through_proc(directory, name.to_bytes());
    read_attributes(
        llistxattr_query(&path[..]),
        |names| llistxattr(&path[..], names),
        |name, value| lgetxattr(&path[..], name, value),
    )
}

/// Those extended attributes that mean something elsewhere: users' own, and capabilities. `length` is that of
/// the list.
fn read_attributes(
    length: Result<usize, Errno>,
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    // Most files have none: that takes no memory to find out.
    if matches!(length, Ok(0) | Err(_)) {
        return Vec::new();
    }
    let mut names = vec![0; 64 << 10];
    let Ok(length) = list(&mut names) else { return Vec::new() };
    let (mut attributes, mut bytes) = (Vec::new(), 0);
    for name in names[..length].split(|byte| *byte == 0) {
        let users = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        // A PAX record's key ends at the first equals sign.
        if (!users && name != b"security.capability") || name.contains(&b'=') {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        if let Ok(length) = get(name, &mut value) {
            value.truncate(length);
            // What is more would not be taken back by any reader with a bound.
            bytes += name.len() + length;
            if bytes > MAX_ATTRIBUTES {
                break;
            }
            attributes.push((name.to_vec(), value));
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use rustix::fs::{CWD, Mode, OFlags, XattrFlags, mknodat, open, setxattr};

    use super::*;
    use crate::snapshot::tar::{Kind, Reader};

    fn archive(top: &std::path::Path, prefix: &[u8]) -> Vec<u8> {
        let top = open(top, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArchiveWriter::new(&mut bytes);
        writer.tree(&top, prefix).unwrap();
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn a_tree_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        let long = "n".repeat(200);
        fs::create_dir(top.join("dir")).unwrap();
        fs::write(top.join("dir").join(&long), vec![7; 1000]).unwrap();
        fs::hard_link(top.join("dir").join(&long), top.join("dir/second")).unwrap();
        symlink("t".repeat(150), top.join("link")).unwrap();
        fs::set_permissions(top.join("dir"), fs::Permissions::from_mode(0o1750)).unwrap();
        mknodat(CWD, top.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let named = setxattr(top.join("dir"), "user.mark", b"a=b\nc", XattrFlags::empty()).is_ok();
        let bytes = archive(top, b"new");
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut reader = Reader::new(&bytes[..]);
        let mut next = || reader.next().unwrap().unwrap();
        let dir = next();
        assert_eq!((dir.path, dir.kind, dir.mode), (b"new/dir/".to_vec(), Kind::Directory, 0o1750));
        assert_eq!(dir.xattrs.len(), usize::from(named));
        assert_eq!((next().kind, next().link.len()), (Kind::Fifo, 150));
        let file = next();
        assert_eq!(file.path, format!("new/dir/{long}").into_bytes());
        assert_eq!(file.size, 1000);
        assert_eq!(file.mtime.seconds, fs::metadata(top.join("dir/second")).unwrap().mtime());
        let second = next();
        assert_eq!((second.kind, second.link), (Kind::HardLink, file.path));
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn the_root_directory_keeps_its_slash() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("x"), "").unwrap();
        let bytes = archive(directory.path(), b"/");
        assert_eq!(Reader::new(&bytes[..]).next().unwrap().unwrap().path, b"/x");
        let bytes = archive(directory.path(), b"");
        assert_eq!(Reader::new(&bytes[..]).next().unwrap().unwrap().path, b"x");
    }
}
