//! What a folder holds.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use virtiofsd::filesystem::{DirEntry, DirectoryIterator};

/// Entries of a folder, as many as were read at once.
pub(crate) struct Entries {
    listed: std::vec::IntoIter<Listed>,
    /// The one that was given out last: the caller borrows its name.
    current: Option<Listed>,
}

struct Listed {
    inode: u64,
    /// Where the next entry is.
    next: u64,
    kind: u32,
    name: CString,
}

impl Entries {
    /// The entries from `offset` on, which is what an entry said of the next one, or 0. `bytes` is for how much the
    /// caller has room.
    pub(crate) fn read(folder: &File, offset: u64, bytes: usize) -> io::Result<Entries> {
        seek(folder, SeekFrom::Start(offset))?;
        let mut listed = Vec::new();
        let mut buffer = vec![MaybeUninit::uninit(); bytes.clamp(MIN_BUFFER, MAX_BUFFER)];
        let mut raw = RawDir::new(folder, &mut buffer);
        while let Some(entry) = raw.next() {
            let entry = entry?;
            listed.push(Listed {
                inode: entry.ino(),
                next: entry.next_entry_cookie(),
                kind: entry_kind(entry.file_type()),
                name: entry.file_name().to_owned(),
            });
            // The next one would be read from the host, and is read again when it is asked for.
            if raw.is_buffer_empty() {
                break;
            }
        }
        Ok(Entries::new(listed))
    }

    /// Folders with these names.
    pub(crate) fn folders(names: impl Iterator<Item = String>, offset: u64) -> Entries {
        let listed = (1..).zip(names).filter_map(|(place, name)| {
            let name = CString::new(name).ok()?;
            Some(Listed { inode: place + 1, next: place, kind: entry_kind(FileType::Directory), name })
        });
        Entries::new(listed.skip(usize::try_from(offset).unwrap_or(usize::MAX)).collect())
    }

    fn new(listed: Vec<Listed>) -> Entries {
        Entries { listed: listed.into_iter(), current: None }
    }
}

/// An entry with the longest name fits, and more than one page is of no use to a caller that has room for one.
const MIN_BUFFER: usize = 1024;
const MAX_BUFFER: usize = 64 << 10;

/// `DT_…` of readdir(3): the type's bits of `st_mode`.
fn entry_kind(kind: FileType) -> u32 {
    if kind == FileType::Unknown { 0 } else { (kind.as_raw_mode() & libc::S_IFMT) >> 12 }
}

impl DirectoryIterator for Entries {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        self.current = self.listed.next();
        let Listed { inode, next, kind, name } = self.current.as_ref()?;
        let name: &CStr = name;
        Some(DirEntry { ino: *inode, offset: *next, type_: *kind, name })
    }
}
