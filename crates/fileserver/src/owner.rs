//! Who owns a file, as the guest sees it.
//!
//! Whoever serves the files is one user of the host, and in the guest there are many: a database's user 999 wants its
//! folder to belong to it, and to nobody else. So what the guest asks for is kept beside the file, in an extended
//! attribute, while on the host everything goes on belonging to the one user. The attribute and its form are those of
//! podman and libkrun: `uid:gid:mode`, the last in octal.

use std::ffi::CStr;

use rustix::fs::{FileType, Stat};

/// Where it is kept. The guest neither sees nor changes it.
pub(crate) const ATTRIBUTE: &CStr = c"user.containers.override_stat";

/// Whom the guest is shown as the owner of what belongs to another user of the host: nobody.
const NOBODY: u32 = 65534;

/// Set-user-id and set-group-id.
pub(crate) const SET_ID: u32 = 0o6000;
pub(crate) const SET_USER_ID: u32 = 0o4000;
pub(crate) const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// Owner and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The lowest 12 bits of `st_mode`.
    pub(crate) mode: u32,
}

impl Owner {
    /// Reads the attribute. What follows the mode (podman notes a type there) is not ours.
    pub(crate) fn parse(value: &[u8]) -> Option<Owner> {
        let mut fields = str::from_utf8(value).ok()?.split(':');
        let mut number = |radix| u32::from_str_radix(fields.next()?, radix).ok();
        Some(Owner { uid: number(10)?, gid: number(10)?, mode: number(8)? & 0o7777 })
    }

    /// The attribute's value.
    pub(crate) fn to_attribute(self) -> String {
        format!("{}:{}:0{:o}", self.uid, self.gid, self.mode)
    }

    /// The mode of the file on the host: without set-user-id and set-group-id, which would let a container make programs
    /// that run as the host's user.
    pub(crate) fn host_mode(self) -> u32 {
        self.mode & !SET_ID
    }

    /// What is left of the mode when somebody writes to the file, or gives it away (chown(2), write(2)).
    pub(crate) fn without_set_id(self) -> Owner {
        let group = if self.mode & GROUP_EXECUTE == 0 { 0 } else { SET_GROUP_ID };
        Owner { mode: self.mode & !(SET_USER_ID | group), ..self }
    }
}

/// The user of the host who serves the files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostUser(u32);

impl HostUser {
    pub(crate) fn this() -> HostUser {
        HostUser(rustix::process::geteuid().as_raw())
    }

    fn is_root(self) -> bool {
        self.0 == 0
    }

    /// Whether this user decides to whom the file belongs. What others have written beside theirs counts for nothing: it
    /// could make one of their programs run as root in the guest.
    pub(crate) fn owns(self, stat: &Stat) -> bool {
        stat.st_uid == self.0
    }

    /// The owner of a file beside which nothing is kept: the guest's root for what belongs to this user. Only if this
    /// user is root, who may do to the others' files what they may, are these shown as theirs.
    pub(crate) fn plain(self, stat: &Stat) -> Owner {
        let mode = stat.st_mode & 0o7777 & !SET_ID;
        if self.owns(stat) {
            Owner { uid: 0, gid: 0, mode }
        } else if self.is_root() {
            Owner { uid: stat.st_uid, gid: stat.st_gid, mode }
        } else {
            Owner { uid: NOBODY, gid: NOBODY, mode }
        }
    }

    /// The owner that the guest sees. A mode that the host has changed since it was kept is the file's mode.
    pub(crate) fn seen(self, stat: &Stat, kept: Option<Owner>) -> Owner {
        let plain = self.plain(stat);
        match kept.filter(|_| self.owns(stat)) {
            Some(kept) if kept.host_mode() == plain.mode => kept,
            Some(kept) => Owner { mode: plain.mode, ..kept },
            None => plain,
        }
    }
}

/// Whether the host's file systems let a file of this type have attributes of users (xattr(7)).
pub(crate) fn can_keep(kind: FileType) -> bool {
    matches!(kind, FileType::RegularFile | FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(uid: u32, mode: u32) -> Stat {
        // SAFETY: plain numbers, for which zero is a value.
        let mut stat: Stat = unsafe { std::mem::zeroed() };
        (stat.st_uid, stat.st_gid, stat.st_mode) = (uid, uid, libc::S_IFREG | mode);
        stat
    }

    #[test]
    fn the_attribute_is_read_as_others_write_it() {
        let owner = Owner { uid: 999, gid: 0, mode: 0o4755 };
        assert_eq!(owner.to_attribute(), "999:0:04755");
        assert_eq!(Owner::parse(b"999:0:04755"), Some(owner));
        assert_eq!(Owner::parse(b"999:0:4755:file"), Some(owner));
        for wrong in [&b""[..], b"1:2", b"1:2:9", b"-1:2:644", b"1:2:\xff", b"99999999999:0:644"] {
            assert_eq!(Owner::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_guests_root_owns_what_is_the_users_and_nobody_the_rest() {
        let user = HostUser(1000);
        assert_eq!(user.plain(&stat(1000, 0o644)), Owner { uid: 0, gid: 0, mode: 0o644 });
        assert_eq!(user.plain(&stat(0, 0o4755)), Owner { uid: NOBODY, gid: NOBODY, mode: 0o755 });
        assert_eq!(HostUser(0).plain(&stat(1000, 0o644)), Owner { uid: 1000, gid: 1000, mode: 0o644 });
    }

    #[test]
    fn what_is_kept_counts_unless_it_is_anothers_and_the_hosts_mode_wins() {
        let user = HostUser(1000);
        let kept = Owner { uid: 999, gid: 999, mode: 0o4750 };
        assert_eq!(user.seen(&stat(1000, 0o750), Some(kept)), kept);
        assert_eq!(user.seen(&stat(1000, 0o600), Some(kept)), Owner { mode: 0o600, ..kept });
        assert_eq!(user.seen(&stat(1001, 0o750), Some(kept)).uid, NOBODY);
    }

    #[test]
    fn writing_takes_set_id_away() {
        let mode = |mode| Owner { uid: 0, gid: 0, mode }.without_set_id().mode;
        assert_eq!((mode(0o6755), mode(0o2644), mode(0o1777)), (0o755, 0o2644, 0o1777));
    }
}
