//! Files that have no name until they are given one (`O_TMPFILE` of open(2)). virtiofsd's `Server` knows that there is such a
//! request, and not what is in it.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::sync::Arc;

use rustix::fs::inotify::ReadFlags;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::{Context, Entry};
use virtiofsd::fuse::{CreateIn, EntryOut, InHeader, OpenOut};
use vm_memory::ByteValued as _;

use crate::device::{ANSWER_HEADER, answer_with};
use crate::file_system::{OPEN_FLAGS, SharedFiles, reopen};
use crate::opened::Seen;

/// Bytes of an answer.
const ANSWER: usize = ANSWER_HEADER + size_of::<EntryOut>() + size_of::<OpenOut>();

/// Serves a request for one (`FUSE_TMPFILE`: what a request for a file with a name has). Returns the length of the answer.
pub(crate) fn serve(files: &SharedFiles, mut reader: Reader<'_>, writer: Writer<'_>) -> u32 {
    let Ok(header) = reader.read_obj::<InHeader>() else { return 0 };
    let made = match reader.read_obj::<CreateIn>() {
        Ok(_) if writer.available_bytes() < ANSWER => Err(Errno::INVAL.into()),
        Ok(wanted) => files.create_nameless(Context::from(header), header.nodeid, wanted.mode, wanted.flags),
        Err(_) => Err(Errno::INVAL.into()),
    };
    let answer = made.map(|(entry, handle)| {
        let opened = OpenOut { fh: handle, ..OpenOut::default() };
        [EntryOut::from(entry).as_slice(), opened.as_slice()].concat()
    });
    let answer = answer.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
    answer_with(writer, header.unique, answer)
}

impl SharedFiles {
    /// Makes a file that is in no folder, on the file system of `parent`, and opens it.
    pub(crate) fn create_nameless(
        &self,
        context: Context,
        parent: u64,
        mode: u32,
        flags: u32,
    ) -> io::Result<(Entry, u64)> {
        let folder = self.writable(parent)?;
        let owner = self.newcomer(&folder, &context, FileType::RegularFile, mode)?;
        let host_mode = Mode::from_raw_mode(owner.host_mode());
        let flags = OFlags::from_bits_retain(flags) & OPEN_FLAGS;
        let flags = flags.difference(OFlags::TRUNC) | OFlags::TMPFILE | OFlags::CLOEXEC;
        let make = || rustix::fs::openat(folder.file()?, c".", flags, host_mode);
        let file = folder.with_access(self.user, Mode::WUSR | Mode::XUSR, make)?;
        let opened = reopen(&file)?;
        // By no name is it found, so it stays open as long as the guest knows it.
        let place = Some((Arc::clone(&folder), c"".into()));
        let mut entry = self.tell(&Seen::of(&opened)?, Some(opened), folder.share, place)?;
        self.changes(entry.inode, ReadFlags::ATTRIB);
        self.give(&mut entry, owner)?;
        let handle = self.handles.add(entry.inode, File::from(file));
        Ok((entry, handle))
    }
}
