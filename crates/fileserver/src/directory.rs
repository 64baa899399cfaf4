//! What a folder holds.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use virtiofsd::filesystem::{DirEntry, DirectoryIterator};

/// Entries of a folder, as many as were read at once.
pub(crate) struct Entries {
    listed: VecDeque<Listed>,
    /// The one that was given out last: the caller borrows its name.
    current: Option<Listed>,
    /// Where what the caller has no room for is kept, and for which open folder.
    rest: Option<(Arc<Rests>, u64)>,
}

struct Listed {
    inode: u64,
    /// Where the entry is.
    place: u64,
    /// Where the next entry is.
    next: u64,
    kind: u32,
    name: CString,
}

/// What was read of folders that guests are listing, and had no room in an answer. One that tells the attributes of each entry
/// takes a fifth of what is read at once, and reading it anew from there has the host sort the folder again.
#[derive(Default)]
pub(crate) struct Rests(Mutex<VecDeque<(u64, Rest)>>);

/// The folder's file is at the end of it.
struct Rest {
    /// Where it ends.
    end: u64,
    listed: VecDeque<Listed>,
}

/// Of so many folders a rest is kept.
const MOST: usize = 16;

impl Rests {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, Rest)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, handle: u64) -> Option<Rest> {
        let mut rests = self.lock();
        let place = rests.iter().position(|(of, _)| *of == handle)?;
        rests.remove(place).map(|(_, rest)| rest)
    }

    fn keep(&self, handle: u64, rest: Rest) {
        let mut rests = self.lock();
        rests.push_back((handle, rest));
        if rests.len() > MOST {
            rests.pop_front();
        }
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

thread_local! {
    /// Whether this thread has entries in hand, each of which is looked up for the guest.
    static LISTING: Cell<bool> = const { Cell::new(false) };
}

/// Whether a name that is looked up is one of a listing: what is gone by then is still a part of it.
pub(crate) fn is_listing() -> bool {
    LISTING.get()
}

impl Entries {
    /// The entries of an open folder from `offset` on, which is what an entry said of the next one, or 0. `bytes` is for
    /// how much the caller has room.
    pub(crate) fn read(
        folder: &File,
        (rests, handle): (&Arc<Rests>, u64),
        offset: u64,
        bytes: usize,
    ) -> io::Result<Entries> {
        // Who begins anew wants to hear what is new.
        let rest = rests.take(handle).filter(|_| offset != 0);
        let mut listed = match rest {
            // Whether the one that was given out last was taken, the caller says by where it goes on.
            Some(Rest { end, mut listed }) => {
                while listed.front().is_some_and(|first| first.place != offset) {
                    listed.pop_front();
                }
                if listed.is_empty() && end != offset {
                    seek(folder, SeekFrom::Start(offset))?;
                }
                listed
            }
            None => {
                seek(folder, SeekFrom::Start(offset))?;
                VecDeque::new()
            }
        };
        if listed.is_empty() {
            read_on(folder, offset, bytes, &mut listed)?;
        }
        LISTING.set(true);
        Ok(Entries { listed, current: None, rest: Some((Arc::clone(rests), handle)) })
    }

    /// Folders with these names.
    pub(crate) fn folders(names: impl Iterator<Item = String>, offset: u64) -> Entries {
        let listed = (1..).zip(names).filter_map(|(place, name)| {
            let name = CString::new(name).ok()?;
            let kind = entry_kind(FileType::Directory);
            Some(Listed { inode: place + 1, place: place - 1, next: place, kind, name })
        });
        let listed = listed.skip(usize::try_from(offset).unwrap_or(usize::MAX)).collect();
        Entries { listed, current: None, rest: None }
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        LISTING.set(false);
        if let Some((rests, handle)) = self.rest.take()
            && let Some(last) = self.listed.back().or(self.current.as_ref())
        {
            let end = last.next;
            let mut listed = std::mem::take(&mut self.listed);
            if let Some(current) = self.current.take() {
                listed.push_front(current);
            }
            rests.keep(handle, Rest { end, listed });
        }
    }
}

/// Reads entries from where the folder's file is, which is `place`.
fn read_on(folder: &File, mut place: u64, bytes: usize, listed: &mut VecDeque<Listed>) -> io::Result<()> {
    let mut buffer = vec![MaybeUninit::uninit(); bytes.clamp(MIN_BUFFER, MAX_BUFFER)];
    let mut raw = RawDir::new(folder, &mut buffer);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let next = entry.next_entry_cookie();
        let kind = entry_kind(entry.file_type());
        listed.push_back(Listed {
            inode: entry.ino(),
            place,
            next,
            kind,
            name: entry.file_name().to_owned(),
        });
        place = next;
        // The next one would be read from the host.
        if raw.is_buffer_empty() {
            break;
        }
    }
    Ok(())
}

/// An entry with the longest name fits, and more than one page is of no use to a caller that has room for one.
const MIN_BUFFER: usize = 1024;
const MAX_BUFFER: usize = 16 << 10;

/// `DT_…` of readdir(3): the type's bits of `st_mode`.
fn entry_kind(kind: FileType) -> u32 {
    if kind == FileType::Unknown { 0 } else { (kind.as_raw_mode() & libc::S_IFMT) >> 12 }
}

impl DirectoryIterator for Entries {
    fn next(&mut self) -> Option<DirEntry<'_>> {
        self.current = self.listed.pop_front();
        let Listed { inode, next, kind, name, .. } = self.current.as_ref()?;
        let name: &CStr = name;
        Some(DirEntry { ino: *inode, offset: *next, type_: *kind, name })
    }
}
