//! The file system that the guest mounts: a root that holds the shares by their numbers, and in each the host's files.

use std::cell::RefCell;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::ReadFlags;
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, ROOT_ID,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{ATTR_SUBMOUNT, Attr, SetattrIn};
use virtiofsd::oslib::WritevFlags;

use crate::Share;
use crate::attributes::id;
use crate::directory::{Entries, Rests, is_listing};
use crate::events::{Events, Own};
use crate::node::{Handle, Handles, Node, Nodes};
use crate::opened::{Descriptor, Place, Seen};
use crate::owner::{ATTRIBUTE, HostUser, Owner, SET_GROUP_ID};

/// How long the guest may go by what it was told. The host's files change without the guest's doing, so this is less than
/// anybody notices; and long enough for what is asked in one go, a path's folders, or the files of a listing one by one.
/// The guest counts it in ticks of 10 ms.
const VALID: Duration = Duration::from_millis(10);

/// Of the flags of open(2), those that mean something to a file that the guest has open.
pub(crate) const OPEN_FLAGS: OFlags =
    OFlags::ACCMODE.union(OFlags::TRUNC).union(OFlags::SYNC).union(OFlags::DSYNC);

/// The events of a new file or folder that is given to its owner.
const MADE: ReadFlags = ReadFlags::CREATE.union(ReadFlags::ATTRIB);
/// Those of one that gets another length, with which goes what was its set-user-id.
const RESIZED: ReadFlags = ReadFlags::MODIFY.union(ReadFlags::ATTRIB);

/// Attributes of files by which users tell each other things; the guest has no others.
const USERS_ATTRIBUTES: &[u8] = b"user.";

/// Shares, as the guest sees them. A clone is the same ones.
#[derive(Clone)]
pub(crate) struct SharedFiles {
    shares: Arc<[Exported]>,
    pub(crate) user: HostUser,
    nodes: Arc<Nodes>,
    pub(crate) handles: Arc<Handles>,
    rests: Arc<Rests>,
    own: Arc<Own>,
    events: Arc<Events>,
}

struct Exported {
    /// Opened with `O_PATH`.
    root: OwnedFd,
    read_only: bool,
}

impl SharedFiles {
    /// Opens the shares. The caller's umask MUST be 0: modes are the guest's business. Of the files that the guest knows so many
    /// are open at a time.
    pub(crate) fn open(shares: &[Share], descriptors: usize) -> Result<SharedFiles, (usize, Errno)> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty())
        };
        let shares = shares.iter().enumerate().map(|(place, share)| {
            let root = open(&share.path).map_err(|error| (place, error))?;
            Ok(Exported { root, read_only: share.read_only })
        });
        let shares = shares.collect::<Result<_, _>>()?;
        let (user, own) = (HostUser::this(), Arc::<Own>::default());
        let nodes = Arc::new(Nodes::new(descriptors, Arc::clone(&own)));
        let events = Arc::new(Events::new(user, Arc::clone(&nodes), Arc::clone(&own)));
        Ok(SharedFiles { shares, user, nodes, handles: Arc::default(), rests: Arc::default(), own, events })
    }

    /// What happens to the files.
    pub(crate) fn events(&self) -> Arc<Events> {
        Arc::clone(&self.events)
    }

    /// A file that is to be changed.
    pub(crate) fn writable(&self, number: u64) -> io::Result<Arc<Node>> {
        let node = self.nodes.get(number)?;
        if self.shares[node.share].read_only { Err(Errno::ROFS.into()) } else { Ok(node) }
    }

    /// Tells the guest of a file, of which there may be an `O_PATH` descriptor.
    pub(crate) fn tell(
        &self,
        seen: &Seen,
        file: Option<OwnedFd>,
        share: usize,
        place: Place,
    ) -> io::Result<Entry> {
        let above = place.as_ref().map(|(folder, _)| folder.id.device);
        let (inode, node) = self.nodes.tell(seen, file, share, place);
        let mut attr = node.attributes(self.user, &seen.stat);
        // Another file system of the host is another one in the guest, since its files have the same numbers.
        if node.kind == FileType::Directory && above != Some(node.id.device) {
            attr.flags |= ATTR_SUBMOUNT;
        }
        Ok(Entry { inode, generation: 0, attr, attr_timeout: VALID, entry_timeout: VALID })
    }

    /// Tells the guest of a file in a folder.
    fn tell_of(&self, folder: &Arc<Node>, name: &CStr) -> io::Result<Entry> {
        let look = || {
            let seen = Seen::at(folder.file()?, name)?;
            // Somebody may live in a folder, wherever the host moves it.
            if FileType::from_raw_mode(seen.stat.st_mode) != FileType::Directory {
                return Ok((seen, None));
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(folder.file()?, name, flags, Mode::empty())?;
            Ok((Seen::of(&file)?, Some(file)))
        };
        let (seen, file) = folder.with_access(self.user, Mode::XUSR, look)?;
        self.tell(&seen, file, folder.share, Some((Arc::clone(folder), name.into())))
    }

    /// The file that is in a folder, if the guest knows it. It is open from now on: another name may be all that it has.
    fn known(&self, folder: &Node, name: &CStr) -> Option<Arc<Node>> {
        let node = self.nodes.known(folder.share, folder.file_at(name)?)?;
        node.file().ok()?;
        Some(node)
    }

    /// Whom a new file in `folder` belongs to, and its mode (inode(7), the set-group-ID bit of a folder).
    pub(crate) fn newcomer(
        &self,
        folder: &Node,
        context: &Context,
        kind: FileType,
        mode: u32,
    ) -> io::Result<Owner> {
        let mut owner = Owner { uid: id(context.uid), gid: id(context.gid), mode: mode & 0o7777 };
        if folder.has_set_id.load(std::sync::atomic::Ordering::Relaxed) {
            let above = folder.owner(self.user, &folder.stat()?);
            if above.mode & SET_GROUP_ID != 0 {
                owner.gid = above.gid;
                if kind == FileType::Directory {
                    owner.mode |= SET_GROUP_ID;
                }
            }
        }
        Ok(owner)
    }

    /// Has `make` make a file in a folder, and gives it to its owner.
    fn make(
        &self,
        parent: u64,
        name: &CStr,
        (context, kind, mode): (&Context, FileType, u32),
        make: impl Fn(&Descriptor, Mode) -> Result<(), Errno>,
    ) -> io::Result<Entry> {
        check(name)?;
        let folder = self.writable(parent)?;
        let owner = self.newcomer(&folder, context, kind, mode)?;
        let host_mode = Mode::from_raw_mode(owner.host_mode());
        folder.changes_in(name, MADE);
        folder.with_access(self.user, Mode::WUSR | Mode::XUSR, || make(&folder.file()?, host_mode))?;
        let mut entry = self.tell_of(&folder, name)?;
        self.give(&mut entry, owner)?;
        Ok(entry)
    }

    /// Gives a new file to its owner.
    pub(crate) fn give(&self, entry: &mut Entry, owner: Owner) -> io::Result<()> {
        let node = self.nodes.get(entry.inode)?;
        let stat = node.stat()?;
        match node.set_owner(self.user, &stat, owner, false) {
            // A file system of the host that keeps no attributes: the file is there, and the guest's root has it.
            Err(Errno::OPNOTSUPP) => {}
            result => result?,
        }
        entry.attr = node.attributes(self.user, &node.stat()?);
        Ok(())
    }

    fn open_node(&self, number: u64, kill_priv: bool, flags: OFlags) -> io::Result<u64> {
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC);
        let node = if writes { self.writable(number)? } else { self.nodes.get(number)? };
        let access = match (flags & OFlags::ACCMODE, node.kind) {
            (_, FileType::Directory) => Mode::RUSR | Mode::XUSR,
            (OFlags::WRONLY, _) => Mode::WUSR,
            (OFlags::RDWR, _) => Mode::RUSR | Mode::WUSR,
            _ => Mode::RUSR,
        };
        if flags.contains(OFlags::TRUNC) {
            node.changes(RESIZED);
        }
        let file =
            node.with_access(self.user, access, || node.open(flags & OPEN_FLAGS | OFlags::NONBLOCK))?;
        if kill_priv && flags.contains(OFlags::TRUNC) {
            node.drop_set_id(self.user)?;
        }
        Ok(self.handles.add(number, file))
    }

    /// The request at hand makes these events of a file that the guest has open.
    pub(crate) fn changes(&self, inode: u64, mask: ReadFlags) {
        if self.own.counts()
            && let Some(node) = self.nodes.find(inode)
        {
            node.changes(mask);
        }
    }

    fn handle(&self, node: u64, handle: u64) -> io::Result<Arc<Handle>> {
        self.handles.get(node, handle)
    }

    /// An attribute that the guest may have, by its name.
    fn attribute<'n>(&self, name: &'n CStr, absent: Errno) -> io::Result<&'n CStr> {
        if name == ATTRIBUTE || !name.to_bytes().starts_with(USERS_ATTRIBUTES) {
            return Err(absent.into());
        }
        Ok(name)
    }
}

/// A name in a folder and nothing else: the guest's kernel sends no other.
fn check(name: &CStr) -> io::Result<()> {
    let bytes = name.to_bytes();
    let wrong = bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/');
    if wrong { Err(Errno::INVAL.into()) } else { Ok(()) }
}

/// A range of bytes of a file (the kernel's are signed).
fn check_range(offset: u64, length: u64) -> io::Result<()> {
    let end = offset.checked_add(length).and_then(|end| i64::try_from(end).ok());
    end.map(drop).ok_or_else(|| Errno::INVAL.into())
}

impl FileSystem for SharedFiles {
    type Inode = u64;
    type Handle = u64;
    type DirIter = Entries;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        self.destroy();
        Ok(FsOptions::DO_READDIRPLUS | FsOptions::READDIRPLUS_AUTO | FsOptions::HANDLE_KILLPRIV_V2)
    }

    fn destroy(&self) {
        self.events.clear();
        self.handles.clear();
        self.rests.clear();
        self.nodes.clear();
    }

    fn lookup(&self, _: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        if parent == ROOT_ID {
            let place = name.to_str().ok().and_then(|name| name.parse::<usize>().ok());
            let place = place.filter(|place| *place < self.shares.len()).ok_or(Errno::NOENT)?;
            let root = rustix::io::fcntl_dupfd_cloexec(&self.shares[place].root, 0)?;
            return self.tell(&Seen::of(&root)?, Some(root), place, None);
        }
        check(name)?;
        match self.tell_of(&self.nodes.get(parent)?, name) {
            // Of no number and for no time: the guest lists the name, and looks for itself should it want more.
            Err(error) if is_listing() && error.kind() == io::ErrorKind::NotFound => Ok(Entry {
                inode: 0,
                generation: 0,
                attr: Attr::default(),
                attr_timeout: Duration::ZERO,
                entry_timeout: Duration::ZERO,
            }),
            entry => entry,
        }
    }

    fn forget(&self, _: Context, inode: u64, count: u64) {
        if self.nodes.forget(inode, count) {
            self.events.forget(inode);
        }
    }

    fn getattr(&self, _: Context, inode: u64, _: Option<u64>) -> io::Result<(Attr, Duration)> {
        if inode == ROOT_ID {
            let mode = libc::S_IFDIR | 0o555;
            return Ok((Attr { ino: ROOT_ID, mode, nlink: 2, ..Attr::default() }, VALID));
        }
        let node = self.nodes.get(inode)?;
        Ok((node.attributes(self.user, &node.stat()?), VALID))
    }

    fn setattr(
        &self,
        context: Context,
        inode: u64,
        change: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        let node = self.writable(inode)?;
        check_range(change.size, 0)?;
        let handle = handle.map(|handle| self.handle(inode, handle)).transpose()?;
        node.changes(RESIZED | ReadFlags::CLOSE_WRITE);
        node.change(self.user, &change, valid, handle.as_ref().map(|handle| &handle.file))?;
        self.getattr(context, inode, None)
    }

    fn readlink(&self, _: Context, inode: u64) -> io::Result<Vec<u8>> {
        let node = self.nodes.get(inode)?;
        Ok(rustix::fs::readlinkat(node.file()?, c"", Vec::new())?.into_bytes())
    }

    fn symlink(
        &self,
        context: Context,
        target: &CStr,
        parent: u64,
        name: &CStr,
        _: Extensions,
    ) -> io::Result<Entry> {
        self.make(parent, name, (&context, FileType::Symlink, 0o777), |folder, _| {
            rustix::fs::symlinkat(target, folder, name)
        })
    }

    fn mknod(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _rdev: u32,
        _umask: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        let kind = FileType::from_raw_mode(mode);
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            // Devices of the guest are none of the host's.
            return Err(Errno::PERM.into());
        }
        self.make(parent, name, (&context, kind, mode), |folder, mode| {
            rustix::fs::mknodat(folder, name, kind, mode, 0)
        })
    }

    fn mkdir(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _umask: u32,
        _: Extensions,
    ) -> io::Result<Entry> {
        self.make(parent, name, (&context, FileType::Directory, mode), |folder, mode| {
            rustix::fs::mkdirat(folder, name, mode)
        })
    }

    fn unlink(&self, _: Context, parent: u64, name: &CStr) -> io::Result<()> {
        check(name)?;
        let folder = self.writable(parent)?;
        folder.changes_in(name, ReadFlags::DELETE);
        if let Some(node) = self.known(&folder, name) {
            // The number of its names is an attribute.
            node.changes(ReadFlags::ATTRIB);
        }
        let unlink = || rustix::fs::unlinkat(folder.file()?, name, AtFlags::empty());
        Ok(folder.with_access(self.user, Mode::WUSR | Mode::XUSR, unlink)?)
    }

    fn rmdir(&self, _: Context, parent: u64, name: &CStr) -> io::Result<()> {
        check(name)?;
        let folder = self.writable(parent)?;
        folder.changes_in(name, ReadFlags::DELETE);
        let remove = || rustix::fs::unlinkat(folder.file()?, name, AtFlags::REMOVEDIR);
        Ok(folder.with_access(self.user, Mode::WUSR | Mode::XUSR, remove)?)
    }

    fn rename(&self, _: Context, from: u64, old: &CStr, to: u64, new: &CStr, flags: u32) -> io::Result<()> {
        check(old)?;
        check(new)?;
        let (from, to) = (self.writable(from)?, self.writable(to)?);
        if from.share != to.share {
            return Err(Errno::XDEV.into());
        }
        // Leaving a device node behind (RENAME_WHITEOUT) is for root.
        let known = RenameFlags::NOREPLACE | RenameFlags::EXCHANGE;
        let flags =
            RenameFlags::from_bits(flags).filter(|flags| known.contains(*flags)).ok_or(Errno::INVAL)?;
        let moved = ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        from.changes_in(old, moved);
        to.changes_in(new, moved);
        let nodes = [self.known(&from, old), self.known(&to, new)];
        for node in nodes.iter().flatten() {
            node.changes(ReadFlags::MOVE_SELF | ReadFlags::ATTRIB);
        }
        let access = Mode::WUSR | Mode::XUSR;
        let rename = || rustix::fs::renameat_with(from.file()?, old, to.file()?, new, flags);
        from.with_access(self.user, access, || to.with_access(self.user, access, rename))?;
        let [moved, replaced] = nodes;
        if let Some(moved) = moved {
            moved.moved(&to, new);
        }
        if let Some(replaced) = replaced.filter(|_| flags.contains(RenameFlags::EXCHANGE)) {
            replaced.moved(&from, old);
        }
        Ok(())
    }

    fn link(&self, _: Context, inode: u64, parent: u64, name: &CStr) -> io::Result<Entry> {
        check(name)?;
        let (node, folder) = (self.writable(inode)?, self.writable(parent)?);
        if node.share != folder.share {
            return Err(Errno::XDEV.into());
        }
        let link = || {
            rustix::fs::linkat(
                rustix::fs::CWD,
                node.file()?.path(),
                folder.file()?,
                name,
                AtFlags::SYMLINK_FOLLOW,
            )
        };
        folder.changes_in(name, ReadFlags::CREATE);
        node.changes(ReadFlags::ATTRIB);
        folder.with_access(self.user, Mode::WUSR | Mode::XUSR, link)?;
        self.tell_of(&folder, name)
    }

    fn open(
        &self,
        _: Context,
        inode: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let handle = self.open_node(inode, kill_priv, OFlags::from_bits_retain(flags))?;
        Ok((Some(handle), OpenOptions::empty()))
    }

    fn create(
        &self,
        context: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        _umask: u32,
        _: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        check(name)?;
        let folder = self.writable(parent)?;
        let flags = OFlags::from_bits_retain(flags);
        let owner = self.newcomer(&folder, &context, FileType::RegularFile, mode)?;
        let host_mode = Mode::from_raw_mode(owner.host_mode());
        let made = flags & OPEN_FLAGS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        folder.changes_in(name, MADE);
        let create = || rustix::fs::openat(folder.file()?, name, made, host_mode);
        match folder.with_access(self.user, Mode::WUSR | Mode::XUSR, create) {
            Ok(file) => {
                // The same file, whatever its name leads to by now.
                let place = Some((Arc::clone(&folder), name.into()));
                let opened = reopen(&file)?;
                let mut entry = self.tell(&Seen::of(&opened)?, Some(opened), folder.share, place)?;
                self.give(&mut entry, owner)?;
                let handle = self.handles.add(entry.inode, File::from(file));
                Ok((entry, Some(handle), OpenOptions::empty()))
            }
            // The host has made it since the guest looked.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => {
                let entry = self.tell_of(&folder, name)?;
                let opened = self.open_node(entry.inode, kill_priv, flags);
                let handle = opened.inspect_err(|_| self.forget(context, entry.inode, 1))?;
                Ok((entry, Some(handle), OpenOptions::empty()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        mut to: W,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        check_range(offset, size.into())?;
        let handle = self.handle(inode, handle)?;
        to.read_from_file_at(&handle.file, usize::try_from(size).unwrap_or(0), offset, None)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        mut from: R,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        delayed: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        check_range(offset, size.into())?;
        let handle = self.handle(inode, handle)?;
        // What others append on the host is not overwritten.
        let appends = !delayed && OFlags::from_bits_retain(flags).contains(OFlags::APPEND);
        let flags = appends.then_some(WritevFlags::RWF_APPEND);
        self.changes(inode, ReadFlags::MODIFY | ReadFlags::ATTRIB);
        let written =
            from.write_to_file_at(&handle.file, usize::try_from(size).unwrap_or(0), offset, flags)?;
        if kill_priv {
            self.nodes.get(inode)?.drop_set_id(self.user)?;
        }
        Ok(written)
    }

    fn fsync(&self, _: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        let handle = self.handle(inode, handle)?;
        if data_only { handle.file.sync_data() } else { handle.file.sync_all() }
    }

    fn fallocate(
        &self,
        _: Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        check_range(offset, length)?;
        let handle = self.handle(inode, handle)?;
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        self.changes(inode, ReadFlags::MODIFY);
        Ok(rustix::fs::fallocate(&handle.file, mode, offset, length)?)
    }

    fn release(
        &self,
        _: Context,
        inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.changes(inode, ReadFlags::CLOSE_WRITE);
        self.handles.remove(inode, handle)
    }

    fn statfs(&self, _: Context, inode: u64) -> io::Result<libc::statvfs64> {
        let node = if inode == ROOT_ID { None } else { Some(self.nodes.get(inode)?) };
        let file = node.map(|node| node.file()).transpose()?;
        let file = file.as_ref().map(|file| file.as_fd());
        let Some(file) = file.or_else(|| Some(self.shares.first()?.root.as_fd())) else {
            return Err(Errno::NOSYS.into());
        };
        let found = rustix::fs::fstatvfs(file)?;
        // SAFETY: plain numbers, for which zero is a value.
        let mut answer: libc::statvfs64 = unsafe { std::mem::zeroed() };
        answer.f_bsize = found.f_bsize;
        answer.f_frsize = found.f_frsize;
        answer.f_blocks = found.f_blocks;
        answer.f_bfree = found.f_bfree;
        answer.f_bavail = found.f_bavail;
        answer.f_files = found.f_files;
        answer.f_ffree = found.f_ffree;
        answer.f_favail = found.f_favail;
        answer.f_namemax = found.f_namemax;
        Ok(answer)
    }

    fn setxattr(
        &self,
        _: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        _: SetxattrFlags,
    ) -> io::Result<()> {
        let name = self.attribute(name, Errno::OPNOTSUPP)?;
        let node = self.writable(inode)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        node.changes(ReadFlags::ATTRIB);
        let set = || rustix::fs::setxattr(node.file()?.path(), name, value, flags);
        Ok(node.with_access(self.user, Mode::WUSR, set)?)
    }

    fn getxattr(&self, _: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        let name = self.attribute(name, Errno::NODATA)?;
        let node = self.nodes.get(inode)?;
        let mut value = vec![0; VALUE_BYTES];
        let buffer = RefCell::new(&mut value);
        let get = || node.attribute(name, &mut buffer.borrow_mut());
        let length = node.with_access(self.user, Mode::RUSR, get)?;
        match usize::try_from(size).unwrap_or(usize::MAX) {
            0 => return Ok(GetxattrReply::Count(u32::try_from(length).unwrap_or(u32::MAX))),
            room if room < length => return Err(Errno::RANGE.into()),
            _ => value.truncate(length),
        }
        Ok(GetxattrReply::Value(value))
    }

    fn listxattr(&self, _: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        let node = self.nodes.get(inode)?;
        let mut names = vec![0_u8; LIST_BYTES];
        let length = match rustix::fs::listxattr(node.file()?.path(), &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            result => result?,
        };
        let names: Vec<u8> = names[..length]
            .split_inclusive(|byte| *byte == 0)
            .filter(|name| name.starts_with(USERS_ATTRIBUTES) && *name != ATTRIBUTE.to_bytes_with_nul())
            .flatten()
            .copied()
            .collect();
        match usize::try_from(size).unwrap_or(usize::MAX) {
            0 => Ok(ListxattrReply::Count(u32::try_from(names.len()).unwrap_or(u32::MAX))),
            room if room < names.len() => Err(Errno::RANGE.into()),
            _ => Ok(ListxattrReply::Names(names)),
        }
    }

    fn removexattr(&self, _: Context, inode: u64, name: &CStr) -> io::Result<()> {
        let name = self.attribute(name, Errno::NODATA)?;
        let node = self.writable(inode)?;
        node.changes(ReadFlags::ATTRIB);
        let remove = || rustix::fs::removexattr(node.file()?.path(), name);
        Ok(node.with_access(self.user, Mode::WUSR, remove)?)
    }

    fn opendir(&self, _: Context, inode: u64, _flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let handle = match inode {
            ROOT_ID => 0,
            _ => self.open_node(inode, false, OFlags::RDONLY | OFlags::DIRECTORY)?,
        };
        Ok((Some(handle), OpenOptions::empty()))
    }

    fn readdir(&self, _: Context, inode: u64, handle: u64, size: u32, offset: u64) -> io::Result<Entries> {
        if inode == ROOT_ID {
            return Ok(Entries::folders((0..self.shares.len()).map(|place| place.to_string()), offset));
        }
        check_range(offset, 0)?;
        let folder = self.handle(inode, handle)?;
        let bytes = usize::try_from(size).unwrap_or(0);
        Entries::read(&folder.file, (&self.rests, handle), offset, bytes)
    }

    fn fsyncdir(&self, context: Context, inode: u64, data_only: bool, handle: u64) -> io::Result<()> {
        if inode == ROOT_ID { Ok(()) } else { self.fsync(context, inode, data_only, handle) }
    }

    fn releasedir(&self, _: Context, inode: u64, _flags: u32, handle: u64) -> io::Result<()> {
        if inode == ROOT_ID { Ok(()) } else { self.handles.remove(inode, handle) }
    }

    fn lseek(&self, _: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        check_range(offset, 0)?;
        let handle = self.handle(inode, handle)?;
        let to = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(rustix::fs::seek(&handle.file, to)?)
    }

    fn copyfilerange(
        &self,
        _: Context,
        inode_in: u64,
        handle_in: u64,
        mut offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        mut offset_out: u64,
        len: u64,
        _flags: u64,
    ) -> io::Result<usize> {
        // A call is done before the next one's turn, so it copies no more than what a second is enough for.
        let len = len.min(MAX_COPY);
        check_range(offset_in, len)?;
        check_range(offset_out, len)?;
        let (from, to) = (self.handle(inode_in, handle_in)?, self.handle(inode_out, handle_out)?);
        let len = usize::try_from(len).unwrap_or(0);
        self.changes(inode_out, ReadFlags::MODIFY);
        Ok(rustix::fs::copy_file_range(
            &from.file,
            Some(&mut offset_in),
            &to.file,
            Some(&mut offset_out),
            len,
        )?)
    }

    fn syncfs(&self, _: Context, inode: u64) -> io::Result<()> {
        let sync = |root: &OwnedFd| -> io::Result<()> {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::syncfs(rustix::fs::openat(root, c".", flags, Mode::empty())?)?)
        };
        if inode == ROOT_ID {
            return self.shares.iter().try_for_each(|share| sync(&share.root));
        }
        sync(&self.shares[self.nodes.get(inode)?.share].root)
    }
}

/// The longest value of an attribute (`XATTR_SIZE_MAX`).
const VALUE_BYTES: usize = 64 << 10;
/// All names of a file's attributes (`XATTR_LIST_MAX`).
const LIST_BYTES: usize = 64 << 10;
/// See [`SharedFiles::copyfilerange`].
const MAX_COPY: u64 = 64 << 20;

/// An `O_PATH` descriptor of an open file.
pub(crate) fn reopen(file: &OwnedFd) -> Result<OwnedFd, Errno> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
}
