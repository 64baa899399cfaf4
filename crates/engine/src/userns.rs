//! User namespaces: containers whose users are others outside of them (dockerd's `--userns-remap`).
//!
//! What is on disk keeps the containers' own numbers, so that images and volumes are the same with and
//! without. A second mount of the data root shows them as the machine's (idmapped mounts,
//! `mount_setattr(2)`), and what a remapped container gets of the data root comes from there.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    io::Errno,
    mount::MountPropagationFlags,
    pipe::PipeFlags,
    process::{Pid, WaitOptions, waitpid},
    thread::{CapabilitySets, set_capabilities},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Context, Error, Result},
    mounts::{self, Changes},
};

/// The user that `default` means, as in Docker.
const DEFAULT_USER: &str = "dockremap";

/// Consecutive users or groups of the machine that are those from 0 on in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

/// The users and groups of remapped containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remap {
    pub uids: Range,
    pub gids: Range,
}

impl Remap {
    /// From `default`, `USER`, `USER:GROUP` or their numbers: the first range that `/etc/subuid` and
    /// `/etc/subgid` give them (subuid(5)).
    ///
    /// # Errors
    /// No such user, or one without ranges.
    pub fn parse(text: &str) -> Result<Self> {
        Self::parse_in(text, Path::new("/etc"))
    }

    fn parse_in(text: &str, etc: &Path) -> Result<Self> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let user = if user == "default" && group.is_empty() { DEFAULT_USER } else { user };
        let group = if group.is_empty() { user } else { group };
        let range = |name: &str, kind: &str, names: &str, ranges: &str| -> Result<Range> {
            let read = |file: &str| {
                let path = etc.join(file);
                fs::read_to_string(&path).context(|| format!("read {}", path.display()))
            };
            let known = read(names)?;
            let (name, number) = entry(&known, name)
                .ok_or_else(|| Error::invalid(format!("userns-remap: no {kind} {name:?} in /etc/{names}")))?;
            let found = first_range(&read(ranges)?, name, number);
            found.ok_or_else(|| {
                Error::invalid(format!(
                    "userns-remap: no range of IDs for {name:?} in /etc/{ranges}: add a line like \
                     {name}:100000:65536"
                ))
            })
        };
        Ok(Self {
            uids: range(user, "user", "passwd", "subuid")?,
            gids: range(group, "group", "group", "subgid")?,
        })
    }

    /// How owners that are remapped so relate to those on disk.
    pub(crate) fn owners(&self) -> Owners {
        Owners { uid: self.uids.first, gid: self.gids.first }
    }

    /// Those of a running process; `None` if it has this process's.
    ///
    /// # Errors
    /// No such process; one whose users are several ranges.
    pub(crate) fn of_process(pid: Pid) -> io::Result<Option<Self>> {
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user"));
        let pid = pid.as_raw_nonzero().to_string();
        if namespace(&pid)? == namespace("self")? {
            return Ok(None);
        }
        let range = |file: &str| {
            let map = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
            let mut numbers = map.split_whitespace().map(str::parse);
            match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(0)), Some(Ok(first)), Some(Ok(count)), None) => Ok(Range { first, count }),
                _ => Err(io::Error::new(io::ErrorKind::Unsupported, format!("{file}: {map:?}"))),
            }
        };
        Ok(Some(Self { uids: range("uid_map")?, gids: range("gid_map")? }))
    }

    /// A user namespace that nobody is in.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn make_namespace(&self) -> io::Result<OwnedFd> {
        self.make_namespaces(0, |namespaces| File::open(namespaces.join("user"))).map(OwnedFd::from)
    }

    /// Makes a user namespace, and others that belong to it (flags of `clone(2)`); `keep` gets the directory
    /// of the namespaces, which are gone when it returns unless it has opened or mounted them.
    ///
    /// # Errors
    /// The kernel refuses; those of `keep`.
    pub(crate) fn make_namespaces<T>(
        &self,
        more: libc::c_int,
        keep: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let (waits, tells) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let flags = libc::CLONE_NEWUSER | more | libc::SIGCHLD;
        // SAFETY: without a stack of its own the child has a copy of its parent's, as after `fork`. It
        // makes system calls only, so that other threads of its parent do not matter.
        let pid = match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                let mut byte = 0_u8;
                // SAFETY: descriptors that are open, one byte that is written to, and the end.
                unsafe {
                    libc::close(tells.as_raw_fd());
                    libc::read(waits.as_raw_fd(), (&raw mut byte).cast(), 1);
                    libc::_exit(0)
                }
            }
            pid => pid,
        };
        let process = PathBuf::from(format!("/proc/{pid}"));
        let map = |range: &Range| format!("0 {} {}", range.first, range.count);
        let made = fs::write(process.join("uid_map"), map(&self.uids))
            .and_then(|()| fs::write(process.join("gid_map"), map(&self.gids)))
            .and_then(|()| keep(&process.join("ns")));
        drop(tells);
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            waitpid(Some(pid), WaitOptions::empty())?;
        }
        made
    }
}

/// The line of a name or a number in `passwd` or `group`: both.
fn entry<'a>(lines: &'a str, wanted: &str) -> Option<(&'a str, &'a str)> {
    let entries = lines.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, fields.nth(1)?))
    });
    let is_number = !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_digit());
    entries.into_iter().find(|(name, number)| *name == wanted || (is_number && *number == wanted))
}

fn first_range(lines: &str, name: &str, number: &str) -> Option<Range> {
    lines.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let fits = count > 0 && first > 0 && u32::checked_add(first, count).is_some();
        ((owner == name || owner == number) && fits).then_some(Range { first, count })
    })
}

/// The engine's remapping: its ranges, and the data root as remapped containers have it.
#[derive(Debug, Clone)]
pub(crate) struct Userns {
    pub(crate) remap: Remap,
    data_root: PathBuf,
    shown: PathBuf,
}

impl Userns {
    /// Mounts the data root a second time, in the place of what an engine before this one mounted and
    /// containers may still run on.
    ///
    /// # Errors
    /// The data root's file system cannot be mounted so, or the kernel makes no user namespaces.
    pub(crate) fn open(remap: Option<Remap>, data_root: &Path, exec_root: &Path) -> Result<Option<Self>> {
        let shown = exec_root.join("remapped");
        mounts::detach(&shown).context(|| format!("unmount {}", shown.display()))?;
        let Some(remap) = remap else { return Ok(None) };
        fs::create_dir_all(&shown).context(|| format!("create {}", shown.display()))?;
        let namespace =
            remap.make_namespace().context(|| "userns-remap: make a user namespace".to_owned())?;
        let mount = || -> std::result::Result<(), Errno> {
            let tree = mounts::copy(CWD, data_root, false)?;
            Changes {
                propagation: MountPropagationFlags::PRIVATE,
                ids: Some(namespace.as_fd()),
                ..Changes::default()
            }
            .apply(&tree)?;
            mounts::attach_at(&tree, &shown)
        };
        mount().context(|| {
            let root = data_root.display();
            format!("userns-remap: mount {root} with other owners (its file system has to support idmapped mounts)")
        })?;
        Ok(Some(Self { remap, data_root: data_root.to_owned(), shown }))
    }

    /// Where a remapped container finds what is at `path`: beside it, if it is in the data root and not
    /// on a mount of its own.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.data_root) {
            Ok(relative) if !mounts::is_mount_point(path).unwrap_or(false) => self.shown.join(relative),
            _ => path.to_owned(),
        }
    }
}

/// How owners in a mounted root relate to those that its container knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owners {
    uid: u32,
    gid: u32,
}

impl Owners {
    /// Whom nobody knows, as the kernel shows them.
    const NOBODY: u32 = 65534;

    /// From a file whose owner is `stored` on disk and `shown` in the mount.
    pub(crate) fn between(stored: (u32, u32), shown: (u32, u32)) -> Self {
        Self { uid: shown.0.saturating_sub(stored.0), gid: shown.1.saturating_sub(stored.1) }
    }

    pub(crate) fn are_remapped(self) -> bool {
        self != Self::default()
    }

    /// The container's number for an owner in the mount.
    pub(crate) fn inside(self, uid: u32, gid: u32) -> (u32, u32) {
        let inside = |id: u32, first: u32| id.checked_sub(first).unwrap_or(Self::NOBODY);
        (inside(uid, self.uid), inside(gid, self.gid))
    }

    /// The mount's number for an owner as the container has it.
    pub(crate) fn outside(self, uid: u32, gid: u32) -> (u32, u32) {
        (uid.saturating_add(self.uid), gid.saturating_add(self.gid))
    }

    /// Runs `work` with this thread making files as the container's root, all capabilities kept.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn as_root<T>(self, work: impl FnOnce() -> T) -> std::result::Result<T, Errno> {
        if !self.are_remapped() {
            return Ok(work());
        }
        let before = AsRoot::begin(self)?;
        let done = work();
        drop(before);
        Ok(done)
    }
}

/// While it lives, this thread makes files as another user.
struct AsRoot {
    uid: libc::c_int,
    gid: libc::c_int,
}

impl AsRoot {
    fn begin(owners: Owners) -> std::result::Result<Self, Errno> {
        // SAFETY: numbers only; both concern this thread alone (setfsuid(2)).
        let before = unsafe { Self { gid: libc::setfsgid(owners.gid), uid: libc::setfsuid(owners.uid) } };
        // With the user, the file system's capabilities went from the effective set.
        let all = rustix::thread::capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective: all.permitted, ..all })?;
        Ok(before)
    }
}

impl Drop for AsRoot {
    fn drop(&mut self) {
        // SAFETY: as above; the numbers are those from before.
        unsafe {
            libc::setfsuid(self.uid.unsigned_abs());
            libc::setfsgid(self.gid.unsigned_abs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_users_names_and_numbers() {
        let etc = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(etc.path().join(name), text).unwrap();
        write(
            "passwd",
            "root:x:0:0::/:/bin/sh\ndockremap:x:105:110::/:/bin/false\nada:x:1000:1000::/:/bin/sh\n",
        );
        write("group", "root:x:0:\ndockremap:x:110:\nada:x:1000:\n");
        write("subuid", "ada:0:10\nada:x:y\nada:4294967295:2\n1000:200000:65536\ndockremap:100000:65536\n");
        write("subgid", "ada:300000:1000\ndockremap:100000:65536\n");
        let parse = |text: &str| Remap::parse_in(text, etc.path());
        let default = Range { first: 100_000, count: 65536 };
        assert_eq!(parse("default").unwrap(), Remap { uids: default, gids: default });
        let ada = Remap {
            uids: Range { first: 200_000, count: 65536 },
            gids: Range { first: 300_000, count: 1000 },
        };
        for text in ["ada", "1000", "ada:ada", "1000:1000"] {
            assert_eq!(parse(text).unwrap(), ada, "{text}");
        }
        assert_eq!(parse("ada:dockremap").unwrap().gids, default);
        for (text, why) in [
            ("root", "no range of IDs for \"root\" in /etc/subuid"),
            ("nobody", "no user \"nobody\" in /etc/passwd"),
            ("ada:nobody", "no group \"nobody\" in /etc/group"),
            ("", "no user \"\""),
            ("ada:root", "no range of IDs for \"root\" in /etc/subgid"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn owners_are_shifted_both_ways() {
        let owners = Owners::between((5, 6), (100_005, 200_006));
        assert!(owners.are_remapped());
        assert_eq!(owners.outside(0, 1000), (100_000, 201_000));
        assert_eq!(owners.inside(100_000, 201_000), (0, 1000));
        assert_eq!(owners.inside(0, 0), (Owners::NOBODY, Owners::NOBODY));
        assert!(!Owners::between((5, 6), (5, 6)).are_remapped());
        assert_eq!(Owners::default().inside(7, 8), (7, 8));
    }
}
