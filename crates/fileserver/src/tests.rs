//! The file system as a guest uses it, in front of folders of this machine.

mod events;
mod nameless;
mod opened;

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem as _, GetxattrReply, ListxattrReply, ROOT_ID, SetattrValid,
    SetxattrFlags,
};
use virtiofsd::fuse::SetattrIn;
use virtiofsd::soft_idmap::Id as _;

use crate::Share;
use crate::file_system::SharedFiles;
use crate::owner::ATTRIBUTE;

/// Of the files that the guest knows, so many are open at a time.
const DESCRIPTORS: usize = 100;

/// Two shares, the second one read-only.
struct Bench {
    files: SharedFiles,
    folders: [TempDir; 2],
}

fn guest(user: u32) -> Context {
    Context { uid: user.into(), gid: user.into(), pid: 1 }
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

fn name(name: &str) -> CString {
    CString::new(name).unwrap()
}

impl Bench {
    fn new() -> Bench {
        rustix::process::umask(rustix::fs::Mode::empty());
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let shares: Vec<Share> = folders
            .iter()
            .zip([false, true])
            .map(|(folder, read_only)| Share { path: folder.path().to_owned(), read_only })
            .collect();
        Bench { files: SharedFiles::open(&shares, DESCRIPTORS).map_err(|(_, error)| error).unwrap(), folders }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folders[0].path().join(name)
    }

    fn look(&self, parent: u64, path: &str) -> io::Result<Entry> {
        self.files.lookup(guest(0), parent, &name(path))
    }

    fn share(&self, place: &str) -> u64 {
        self.look(ROOT_ID, place).unwrap().inode
    }

    fn create(&self, user: u32, parent: u64, path: &str, mode: u32) -> Entry {
        let (entry, handle, _) = self
            .files
            .create(guest(user), parent, &name(path), mode, false, 2, 0, Extensions::default())
            .unwrap();
        self.files.release(guest(0), entry.inode, 0, handle.unwrap(), false, false, None).unwrap();
        entry
    }

    fn change(&self, inode: u64, change: SetattrIn, valid: SetattrValid) -> io::Result<(u32, u32, u32)> {
        let (attr, _) = self.files.setattr(guest(0), inode, change, None, valid)?;
        Ok((attr.uid.into_inner(), attr.gid.into_inner(), attr.mode & 0o7777))
    }
}

fn shown(entry: &Entry) -> (u32, u32, u32) {
    (entry.attr.uid.into_inner(), entry.attr.gid.into_inner(), entry.attr.mode & 0o7777)
}

fn attribute(path: &Path) -> Option<String> {
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(path, ATTRIBUTE, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..length]).into_owned())
}

#[test]
fn what_the_guests_users_make_is_theirs_and_on_the_host_the_users() {
    let bench = Bench::new();
    let share = bench.share("0");
    let mine = fs::metadata(bench.folders[0].path()).unwrap().uid();
    assert_eq!(shown(&bench.create(0, share, "roots", 0o644)), (0, 0, 0o644));
    assert_eq!(attribute(&bench.path("roots")), None, "the guest's root leaves no trace");
    assert_eq!(shown(&bench.create(999, share, "theirs", 0o640)), (999, 999, 0o640));
    let on_host = fs::metadata(bench.path("theirs")).unwrap();
    assert_eq!((on_host.uid(), on_host.mode() & 0o7777), (mine, 0o640));
    // Somebody who comes later sees the same.
    bench.files.destroy();
    let share = bench.share("0");
    assert_eq!(shown(&bench.look(share, "theirs").unwrap()), (999, 999, 0o640));
    let folder =
        bench.files.mkdir(guest(70), share, &name("folder"), 0o2770, 0, Extensions::default()).unwrap();
    assert_eq!(shown(&folder), (70, 70, 0o2770));
    assert_eq!(shown(&bench.create(999, folder.inode, "inside", 0o600)), (999, 70, 0o600));
}

#[test]
fn owners_and_modes_change_and_the_host_sees_the_mode_but_no_set_id() {
    let bench = Bench::new();
    let share = bench.share("0");
    let file = bench.create(0, share, "tool", 0o755).inode;
    let owner = SetattrIn { uid: 5.into(), gid: 6.into(), ..SetattrIn::default() };
    assert_eq!(bench.change(file, owner, SetattrValid::UID | SetattrValid::GID).unwrap(), (5, 6, 0o755));
    let mode = SetattrIn { mode: 0o4711, ..SetattrIn::default() };
    assert_eq!(bench.change(file, mode, SetattrValid::MODE).unwrap(), (5, 6, 0o4711));
    assert_eq!(fs::metadata(bench.path("tool")).unwrap().mode() & 0o7777, 0o711);
    // The host's user has the last word.
    fs::set_permissions(bench.path("tool"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(shown(&bench.look(share, "tool").unwrap()), (5, 6, 0o600));
    assert_eq!(attribute(&bench.path("tool")).as_deref(), Some("5:6:04711"), "looking changes nothing");
}

#[test]
fn what_the_host_made_belongs_to_whoever_asks_until_it_is_given_to_somebody() {
    let bench = Bench::new();
    let share = bench.share("0");
    fs::write(bench.path("file"), "").unwrap();
    let everybodys = |name: &str| bench.look(share, name).unwrap().attr.flags & 1 << 31 != 0;
    bench.create(0, share, "roots", 0o644);
    bench.create(999, share, "theirs", 0o644);
    assert!(everybodys("file") && everybodys("roots") && !everybodys("theirs"));
    let file = bench.look(share, "file").unwrap().inode;
    bench.change(file, SetattrIn { mode: 0o600, ..SetattrIn::default() }, SetattrValid::MODE).unwrap();
    assert!(everybodys("file"));
    // To root, by name.
    let root = SetattrIn::default();
    assert_eq!(bench.change(file, root, SetattrValid::UID | SetattrValid::GID).unwrap(), (0, 0, 0o600));
    assert!(!everybodys("file"));
    assert_eq!(attribute(&bench.path("file")).as_deref(), Some("0:0:0600"));
}

#[test]
fn writing_to_a_set_user_id_file_takes_that_away() {
    let bench = Bench::new();
    let share = bench.share("0");
    let file = bench.create(0, share, "tool", 0o755).inode;
    bench.change(file, SetattrIn { mode: 0o6755, ..SetattrIn::default() }, SetattrValid::MODE).unwrap();
    let cut = SetattrIn { size: 3, ..SetattrIn::default() };
    assert_eq!(bench.change(file, cut, SetattrValid::SIZE).unwrap().2, 0o6755);
    let kill = SetattrValid::SIZE | SetattrValid::KILL_SUIDGID;
    assert_eq!(bench.change(file, cut, kill).unwrap().2, 0o755);
    bench.change(file, SetattrIn { mode: 0o6755, ..SetattrIn::default() }, SetattrValid::MODE).unwrap();
    let owner = SetattrIn { uid: 9.into(), ..SetattrIn::default() };
    assert_eq!(bench.change(file, owner, SetattrValid::UID).unwrap(), (9, 0, 0o755));
}

#[test]
fn what_cannot_keep_an_owner_has_it_as_long_as_the_guest_knows_it() {
    let bench = Bench::new();
    let share = bench.share("0");
    let fifo = libc::S_IFIFO | 0o600;
    let made =
        bench.files.mknod(guest(999), share, &name("fifo"), fifo, 0, 0, Extensions::default()).unwrap();
    assert_eq!((shown(&made), made.attr.mode & libc::S_IFMT), ((999, 999, 0o600), libc::S_IFIFO));
    assert_eq!(shown(&bench.look(share, "fifo").unwrap()), (999, 999, 0o600));
    for device in [libc::S_IFCHR, libc::S_IFBLK] {
        let made = bench.files.mknod(
            guest(0),
            share,
            &name("null"),
            device | 0o666,
            0x103,
            0,
            Extensions::default(),
        );
        assert_eq!(errno(made.map(drop)), libc::EPERM);
    }
}

#[test]
fn nothing_leads_out_of_a_share() {
    let bench = Bench::new();
    let share = bench.share("0");
    for wrong in ["..", ".", "", "a/b", "/etc"] {
        assert_eq!(errno(bench.look(share, wrong).map(drop)), libc::EINVAL, "{wrong:?}");
    }
    for wrong in ["2", "-1", "..", "x"] {
        assert_eq!(errno(bench.look(ROOT_ID, wrong).map(drop)), libc::ENOENT, "{wrong:?}");
    }
    symlink("/etc", bench.path("out")).unwrap();
    let out = bench.look(share, "out").unwrap();
    assert_eq!(out.attr.mode & libc::S_IFMT, libc::S_IFLNK, "the link itself, not where it leads");
    assert_eq!(errno(bench.look(out.inode, "passwd").map(drop)), libc::ENOTDIR);
    assert_eq!(errno(bench.files.open(guest(0), out.inode, false, 0).map(drop)), libc::ENXIO);
    assert_eq!(bench.files.readlink(guest(0), out.inode).unwrap(), b"/etc");
    let socket = bench.path("socket");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let socket = bench.look(share, "socket").unwrap().inode;
    assert_eq!(errno(bench.files.open(guest(0), socket, false, 0).map(drop)), libc::ENXIO);
    // A number that was never given out, a handle of another file.
    assert_eq!(errno(bench.files.getattr(guest(0), 77, None).map(drop)), libc::EBADF);
    let file = bench.create(0, share, "file", 0o644).inode;
    let (handle, _) = bench.files.open(guest(0), file, false, 0).unwrap();
    assert_eq!(errno(bench.files.fsync(guest(0), share, false, handle.unwrap())), libc::EBADF);
}

#[test]
fn a_read_only_share_stays_as_it_is_and_shares_do_not_mix() {
    let bench = Bench::new();
    let (share, read_only) = (bench.share("0"), bench.share("1"));
    fs::write(bench.folders[1].path().join("file"), "kept").unwrap();
    let file = bench.look(read_only, "file").unwrap().inode;
    let files = &bench.files;
    let context = guest(0);
    let made = files.mkdir(context, read_only, &name("a"), 0o755, 0, Extensions::default()).map(drop);
    let wrong = [
        made,
        files.unlink(context, read_only, &name("file")),
        files.rename(context, read_only, &name("file"), read_only, &name("b"), 0),
        files.rename(context, read_only, &name("file"), share, &name("b"), 0),
        files.open(context, file, false, 1).map(drop),
        files.open(context, file, false, u32::try_from(libc::O_TRUNC).unwrap()).map(drop),
        files.setxattr(context, file, c"user.a", b"b", 0, SetxattrFlags::empty()),
        files.mkdir(context, ROOT_ID, &name("a"), 0o755, 0, Extensions::default()).map(drop),
        bench.change(file, SetattrIn::default(), SetattrValid::SIZE).map(drop),
    ];
    for (place, result) in wrong.into_iter().enumerate() {
        assert_eq!(errno(result), libc::EROFS, "case {place}");
    }
    assert_eq!(fs::read_to_string(bench.folders[1].path().join("file")).unwrap(), "kept");
    let first = bench.create(0, share, "first", 0o644).inode;
    assert_eq!(errno(files.link(context, first, read_only, &name("l")).map(drop)), libc::EROFS);
}

#[test]
fn a_file_keeps_its_number_by_whatever_name_and_is_forgotten_when_the_guest_does() {
    let bench = Bench::new();
    let share = bench.share("0");
    let file = bench.create(0, share, "a", 0o644).inode;
    assert_eq!(bench.files.link(guest(0), file, share, &name("b")).unwrap().inode, file);
    bench.files.rename(guest(0), share, &name("a"), share, &name("c"), 0).unwrap();
    assert_eq!(bench.look(share, "c").unwrap().inode, file);
    assert_eq!(bench.files.getattr(guest(0), file, None).unwrap().0.nlink, 2);
    bench.files.forget(guest(0), file, 2);
    assert!(bench.files.getattr(guest(0), file, None).is_ok(), "the guest was told of it three times");
    bench.files.forget(guest(0), file, u64::MAX);
    assert_eq!(errno(bench.files.getattr(guest(0), file, None).map(drop)), libc::EBADF);
    assert_ne!(bench.look(share, "c").unwrap().inode, file, "no number is used twice");
    let exchange = rustix::fs::RenameFlags::EXCHANGE.bits();
    fs::write(bench.path("d"), "d").unwrap();
    bench.files.rename(guest(0), share, &name("c"), share, &name("d"), exchange).unwrap();
    assert_eq!(fs::read_to_string(bench.path("c")).unwrap(), "d");
    let whiteout = rustix::fs::RenameFlags::WHITEOUT.bits();
    let result = bench.files.rename(guest(0), share, &name("c"), share, &name("e"), whiteout);
    assert_eq!(errno(result), libc::EINVAL);
}

#[test]
fn attributes_are_those_of_users_without_ours() {
    let bench = Bench::new();
    let share = bench.share("0");
    let file = bench.create(999, share, "file", 0o644).inode;
    let set = |name: &CStr| bench.files.setxattr(guest(0), file, name, b"v", 0, SetxattrFlags::empty());
    set(c"user.mine").unwrap();
    for other in [c"trusted.a", c"security.capability", c"system.posix_acl_access", ATTRIBUTE] {
        assert_eq!(errno(set(other)), libc::EOPNOTSUPP, "{other:?}");
        assert_eq!(errno(bench.files.getxattr(guest(0), file, other, 64).map(drop)), libc::ENODATA);
    }
    let Ok(GetxattrReply::Value(value)) = bench.files.getxattr(guest(0), file, c"user.mine", 64) else {
        panic!()
    };
    assert_eq!(value, b"v");
    let Ok(GetxattrReply::Count(1)) = bench.files.getxattr(guest(0), file, c"user.mine", 0) else { panic!() };
    let Ok(ListxattrReply::Names(names)) = bench.files.listxattr(guest(0), file, 64) else { panic!() };
    assert_eq!(names, b"user.mine\0");
    assert_eq!(errno(bench.files.listxattr(guest(0), file, 3).map(drop)), libc::ERANGE);
    bench.files.removexattr(guest(0), file, c"user.mine").unwrap();
    let Ok(ListxattrReply::Count(0)) = bench.files.listxattr(guest(0), file, 0) else { panic!() };
}

#[test]
fn a_folder_is_listed_from_wherever_the_guest_goes_on() {
    use virtiofsd::filesystem::DirectoryIterator as _;
    let bench = Bench::new();
    let share = bench.share("0");
    let mut expected: Vec<String> = (0..500).map(|number| format!("file-{number}")).collect();
    for name in &expected {
        fs::write(bench.path(name), "").unwrap();
    }
    let (handle, _) = bench.files.opendir(guest(0), share, 0).unwrap();
    let mut seen = Vec::new();
    let mut offset = 0;
    loop {
        let mut entries = bench.files.readdir(guest(0), share, handle.unwrap(), 4096, offset).unwrap();
        let mut taken = 0;
        // The guest has room for fewer than were read.
        while taken < 7
            && let Some(entry) = entries.next()
        {
            seen.push(entry.name.to_str().unwrap().to_owned());
            offset = entry.offset;
            taken += 1;
        }
        if taken == 0 {
            break;
        }
    }
    seen.retain(|name| name != "." && name != "..");
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    // From the beginning, from a place that is none of those read last, and after others have listed their folders.
    let first = |offset| {
        let mut entries = bench.files.readdir(guest(0), share, handle.unwrap(), 4096, offset).unwrap();
        entries.next().map(|entry| (entry.name.to_owned(), entry.offset))
    };
    let (name, second) = first(0).unwrap();
    assert_eq!(first(second), first(second));
    assert_eq!(first(0).unwrap().0, name);
    assert_eq!(first(offset), None);
    let all = || {
        let mut entries = bench.files.readdir(guest(0), share, handle.unwrap(), 4096, 0).unwrap();
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            names.push(entry.name.to_owned());
        }
        names
    };
    let before = all();
    for name in before.iter().filter(|name| name.to_bytes().starts_with(b"file")) {
        fs::remove_file(bench.path(name.to_str().unwrap())).unwrap();
    }
    assert!(all().iter().all(|name| !before.contains(name) || name.to_bytes().starts_with(b".")));
    let third = first(second).unwrap().1;
    for _ in 0..100 {
        let (other, _) = bench.files.opendir(guest(0), share, 0).unwrap();
        bench.files.readdir(guest(0), share, other.unwrap(), 4096, 0).unwrap().next();
    }
    assert_eq!(first(third), first(third));
    assert_ne!(first(third), first(second));

    let mut shares = bench.files.readdir(guest(0), ROOT_ID, 0, 4096, 1).unwrap();
    assert_eq!(shares.next().unwrap().name, c"1");
    assert!(shares.next().is_none());
}

/// Root may enter every folder, so this is another user of the host.
#[test]
fn a_folder_that_may_not_be_entered_keeps_its_owner() {
    let work = || {
        let user = rustix::process::Uid::from_raw(4242);
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        }
        let bench = Bench::new();
        let share = bench.share("0");
        let folder =
            bench.files.mkdir(guest(0), share, c"mine", 0o755, 0, Extensions::default()).unwrap().inode;
        let owner = SetattrIn { uid: 999.into(), gid: 998.into(), ..SetattrIn::default() };
        bench.change(folder, owner, SetattrValid::UID | SetattrValid::GID).unwrap();
        for mode in [0o600, 0o755] {
            let change = SetattrIn { mode, ..SetattrIn::default() };
            assert_eq!(bench.change(folder, change, SetattrValid::MODE).unwrap(), (999, 998, mode));
            assert_eq!(shown(&bench.look(share, "mine").unwrap()), (999, 998, mode));
        }
    };
    std::thread::spawn(work).join().unwrap();
}

/// What is removed while a folder is listed must not end the listing.
#[test]
fn a_file_that_goes_while_it_is_listed_is_listed() {
    use virtiofsd::filesystem::DirectoryIterator as _;
    let bench = Bench::new();
    let share = bench.share("0");
    fs::write(bench.path("file"), "").unwrap();
    let (handle, _) = bench.files.opendir(guest(0), share, 0).unwrap();
    let mut entries = bench.files.readdir(guest(0), share, handle.unwrap(), 4096, 0).unwrap();
    fs::remove_file(bench.path("file")).unwrap();
    while let Some(entry) = entries.next() {
        if entry.name == c"file" {
            assert_eq!(bench.files.lookup(guest(0), share, c"file").unwrap().inode, 0);
        }
    }
    drop(entries);
    assert_eq!(errno(bench.files.lookup(guest(0), share, c"file")), libc::ENOENT);
}

#[test]
fn offsets_beyond_what_a_file_can_have_are_refused() {
    let bench = Bench::new();
    let share = bench.share("0");
    let file = bench.create(0, share, "file", 0o644).inode;
    let (handle, _) = bench.files.open(guest(0), file, false, 2).unwrap();
    let handle = handle.unwrap();
    let files = &bench.files;
    let big = u64::MAX - 1;
    assert_eq!(errno(files.fallocate(guest(0), file, handle, 0, big, 1)), libc::EINVAL);
    assert_eq!(errno(files.fallocate(guest(0), file, handle, 1 << 30, 0, 1)), libc::EOPNOTSUPP);
    assert_eq!(errno(files.lseek(guest(0), file, handle, big, 3).map(drop)), libc::EINVAL);
    assert_eq!(errno(files.lseek(guest(0), file, handle, 0, 0).map(drop)), libc::EINVAL);
    let copied = files.copyfilerange(guest(0), file, handle, big, file, handle, 0, big, 0);
    assert_eq!(errno(copied.map(drop)), libc::EINVAL);
    let cut = SetattrIn { size: u64::MAX, ..SetattrIn::default() };
    assert_eq!(errno(bench.change(file, cut, SetattrValid::SIZE).map(drop)), libc::EINVAL);
}

#[test]
fn each_change_of_owner_or_mode_moves_the_time_of_the_last_change() {
    let bench = Bench::new();
    let share = bench.share("0");
    bench.create(0, share, "file", 0o644);
    symlink("nowhere", bench.path("link")).unwrap();
    bench
        .files
        .mknod(guest(0), share, &name("pipe"), libc::S_IFIFO | 0o644, 0, 0, Extensions::default())
        .unwrap();
    let owner = SetattrIn { uid: 5.into(), gid: 6.into(), ..SetattrIn::default() };
    let mode = SetattrIn { mode: 0o644, ..SetattrIn::default() };
    let changes = [("file", mode, SetattrValid::MODE), ("pipe", mode, SetattrValid::MODE)];
    let owners = ["file", "link", "pipe"].map(|name| (name, owner, SetattrValid::UID | SetattrValid::GID));
    for (name, change, valid) in changes.into_iter().chain(owners) {
        let time = || {
            let stat = fs::symlink_metadata(bench.path(name)).unwrap();
            (stat.ctime(), stat.ctime_nsec())
        };
        let (before, modified) = (time(), fs::symlink_metadata(bench.path(name)).unwrap().mtime_nsec());
        // The host's clock for files has ticks: not each change can have a time of its own.
        let end = Instant::now() + Duration::from_secs(5);
        while time() == before {
            assert!(Instant::now() < end, "{name}: the time stands still");
            bench.change(bench.look(share, name).unwrap().inode, change, valid).unwrap();
        }
        assert_eq!(fs::symlink_metadata(bench.path(name)).unwrap().mtime_nsec(), modified, "{name}");
    }
}
