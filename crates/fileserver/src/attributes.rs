//! What stat(2) says of a file, and what the guest changes of it.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rustix::fs::inotify::ReadFlags;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use virtiofsd::filesystem::SetattrValid;
use virtiofsd::fuse::{Attr, SetattrIn};

use crate::node::Node;
use crate::owner::{ATTRIBUTE, HostUser, Owner, SET_ID, can_keep};

/// Among a file's attributes, tells the guest's kernel that it belongs to whoever asks (`FUSE_ATTR_CALLER_OWNS` of our
/// patch): a folder of the host's user is everybody's own in his machine. Another kernel shows root as its owner.
const CALLER_OWNS: u32 = 1 << 31;

/// More than the attribute ever takes.
const ATTRIBUTE_BYTES: usize = 64;

impl Node {
    /// The owner that is kept of the file.
    fn kept(&self, user: HostUser) -> Option<Owner> {
        if !can_keep(self.kind) {
            return *self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        }
        // Attributes of users are read by who may read the file (xattr(7)), and written likewise.
        let read = || {
            let mut value = [0; ATTRIBUTE_BYTES];
            let length = self.attribute(ATTRIBUTE, &mut value)?;
            Ok(value.get(..length).and_then(Owner::parse))
        };
        self.with_access(user, Mode::RUSR, read).ok()?
    }

    fn seen(&self, user: HostUser, stat: &Stat, kept: Option<Owner>) -> Owner {
        let owner = user.seen(stat, kept);
        self.has_set_id.store(owner.mode & SET_ID != 0, Ordering::Relaxed);
        owner
    }

    /// The owner that the guest sees.
    pub(crate) fn owner(&self, user: HostUser, stat: &Stat) -> Owner {
        self.seen(user, stat, self.kept(user))
    }

    /// Makes `owner` what the guest sees from now on. Nothing is kept of what the guest would see anyway, unless
    /// somebody in the guest has `given` the file to this owner: then it is nobody else's.
    pub(crate) fn set_owner(
        &self,
        user: HostUser,
        stat: &Stat,
        owner: Owner,
        given: bool,
    ) -> Result<(), Errno> {
        if !user.owns(stat) {
            // As the host says it to who may not.
            return Err(Errno::PERM);
        }
        let mode = owner.host_mode();
        let is_link = self.kind == rustix::fs::FileType::Symlink;
        if stat.st_mode & 0o7777 != mode && !is_link {
            rustix::fs::chmod(self.file()?.path(), Mode::from_raw_mode(mode))?;
        }
        self.has_set_id.store(owner.mode & SET_ID != 0, Ordering::Relaxed);
        if !can_keep(self.kind) {
            *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
            return Ok(());
        }
        let mut bare = *stat;
        bare.st_mode = stat.st_mode & libc::S_IFMT | mode;
        if user.plain(&bare) == owner && !given {
            let remove = || rustix::fs::removexattr(self.file()?.path(), ATTRIBUTE);
            match self.with_access(user, Mode::WUSR, remove) {
                Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
                result => result,
            }
        } else {
            let value = owner.to_attribute();
            let set = || {
                rustix::fs::setxattr(self.file()?.path(), ATTRIBUTE, value.as_bytes(), XattrFlags::empty())
            };
            self.with_access(user, Mode::WUSR, set)
        }
    }

    /// Takes set-user-id and set-group-id away, because somebody changes what is in the file.
    pub(crate) fn drop_set_id(&self, user: HostUser) -> Result<(), Errno> {
        if !self.has_set_id.load(Ordering::Relaxed) {
            return Ok(());
        }
        let stat = self.stat()?;
        let kept = self.kept(user);
        let owner = self.seen(user, &stat, kept);
        self.set_owner(user, &stat, owner.without_set_id(), kept.is_some())
    }

    /// Does what the guest has allowed to one of its users, though the mode on the host forbids it to the file's owner:
    /// the guest's root needs no permission, and a user other than root has them by the owner that is kept. For that
    /// moment the owner has them on the host as well.
    pub(crate) fn with_access<T>(
        &self,
        user: HostUser,
        access: Mode,
        act: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let denied = match act() {
            Err(error @ Errno::ACCESS) => error,
            result => return result,
        };
        let stat = self.stat()?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        if !user.owns(&stat) || mode.contains(access) {
            return Err(denied);
        }
        self.changes(ReadFlags::ATTRIB);
        rustix::fs::chmod(self.file()?.path(), mode | access)?;
        let result = act();
        rustix::fs::chmod(self.file()?.path(), mode)?;
        result
    }

    /// Does what `change` asks for.
    pub(crate) fn change(
        &self,
        user: HostUser,
        change: &SetattrIn,
        valid: SetattrValid,
        handle: Option<&std::fs::File>,
    ) -> io::Result<()> {
        let stat = self.stat()?;
        if valid.intersects(SetattrValid::MODE | SetattrValid::UID | SetattrValid::GID) {
            let kept = self.kept(user);
            let mut owner = self.seen(user, &stat, kept);
            let mut given = kept.is_some();
            if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
                given = true;
                if valid.contains(SetattrValid::UID) {
                    owner.uid = id(change.uid);
                }
                if valid.contains(SetattrValid::GID) {
                    owner.gid = id(change.gid);
                }
                if self.kind != rustix::fs::FileType::Directory {
                    owner = owner.without_set_id();
                }
            }
            if valid.contains(SetattrValid::MODE) {
                owner.mode = change.mode & 0o7777;
            }
            self.set_owner(user, &stat, owner, given)?;
            self.was_changed_since(&stat)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            match handle {
                Some(file) => rustix::fs::ftruncate(file, change.size)?,
                None => {
                    let open = || self.open(OFlags::WRONLY | OFlags::NONBLOCK);
                    let file = self.with_access(user, Mode::WUSR, open)?;
                    rustix::fs::ftruncate(&file, change.size)?;
                }
            }
            if valid.contains(SetattrValid::KILL_SUIDGID) {
                self.drop_set_id(user)?;
            }
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            let time = |set, now, seconds: u64, nanoseconds: u32| {
                let tv_nsec = if valid.contains(now) {
                    rustix::fs::UTIME_NOW
                } else if valid.contains(set) {
                    nanoseconds.into()
                } else {
                    rustix::fs::UTIME_OMIT
                };
                // Times before 1970 are sent as their two's complement.
                Timespec { tv_sec: seconds.cast_signed(), tv_nsec }
            };
            let times = Timestamps {
                last_access: time(
                    SetattrValid::ATIME,
                    SetattrValid::ATIME_NOW,
                    change.atime,
                    change.atimensec,
                ),
                last_modification: time(
                    SetattrValid::MTIME,
                    SetattrValid::MTIME_NOW,
                    change.mtime,
                    change.mtimensec,
                ),
            };
            // The path leads to a symbolic link itself, not to where that leads.
            rustix::fs::utimensat(rustix::fs::CWD, self.file()?.path(), &times, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Has the time of the file's last change move on: an owner that is kept elsewhere and a mode that was the same before do
    /// not move it.
    fn was_changed_since(&self, before: &Stat) -> Result<(), Errno> {
        let now = self.stat()?;
        if (now.st_ctime, now.st_ctime_nsec) != (before.st_ctime, before.st_ctime_nsec) {
            return Ok(());
        }
        let times = Timestamps {
            last_access: Timespec { tv_sec: now.st_atime, tv_nsec: now.st_atime_nsec.cast_signed() },
            last_modification: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        };
        rustix::fs::utimensat(rustix::fs::CWD, self.file()?.path(), &times, AtFlags::empty())
    }

    /// The answer to a stat(2) of the guest.
    pub(crate) fn attributes(&self, user: HostUser, stat: &Stat) -> Attr {
        let kept = self.kept(user);
        let owner = self.seen(user, stat, kept);
        let flags = if kept.is_none() && user.owns(stat) { CALLER_OWNS } else { 0 };
        // A nanosecond is less than 2^30; the kernel's own numbers are not negative but in times before 1970.
        let nanoseconds = |value: i64| u32::try_from(value).unwrap_or(0);
        Attr {
            ino: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            atime: stat.st_atime.cast_unsigned(),
            mtime: stat.st_mtime.cast_unsigned(),
            ctime: stat.st_ctime.cast_unsigned(),
            atimensec: nanoseconds(stat.st_atime_nsec.cast_signed()),
            mtimensec: nanoseconds(stat.st_mtime_nsec.cast_signed()),
            ctimensec: nanoseconds(stat.st_ctime_nsec.cast_signed()),
            mode: stat.st_mode & libc::S_IFMT | owner.mode,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: owner.uid.into(),
            gid: owner.gid.into(),
            // Its 32 bits are those that the guest's kernel takes (`new_decode_dev`).
            rdev: u32::try_from(stat.st_rdev & u64::from(u32::MAX)).unwrap_or(0),
            blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
            flags,
        }
    }
}

/// A user or group of the guest as a number. A mount that maps users leaves them out where they do not matter.
pub(crate) fn id<T: virtiofsd::soft_idmap::Id<Inner = u32>>(id: T) -> u32 {
    match id.into_inner() {
        u32::MAX => 0,
        id => id,
    }
}
