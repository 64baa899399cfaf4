//! What the guest is told of what happens to files, and what not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::inotify::ReadFlags;
use rustix::io::Errno;
use virtiofsd::filesystem::{Extensions, FileSystem as _, SetattrValid};
use virtiofsd::fuse::SetattrIn;

use super::{Bench, guest, name};

/// Node, event, name.
type Told = (u64, ReadFlags, String);

impl Bench {
    /// What the guest would be told now.
    fn told(&self) -> Vec<Told> {
        let events = self.files.events();
        events.collect();
        let answer = events.take(1 << 20).map_or(Vec::new(), Result::unwrap);
        let mut rest = &answer[..];
        let mut told = Vec::new();
        while !rest.is_empty() {
            let number = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap());
            let node = u64::from_le_bytes(rest[..8].try_into().unwrap());
            let length = usize::try_from(number(24)).unwrap();
            let mask = ReadFlags::from_bits_retain(number(16));
            let name = String::from_utf8(rest[32..32 + length].to_vec()).unwrap();
            told.push((node, mask, name));
            let padded = if length == 0 { 0 } else { (length + 1).next_multiple_of(8) };
            rest = &rest[32 + padded..];
        }
        told
    }

    fn watch(&self, node: u64) {
        self.files.events().watch(node).unwrap();
    }
}

fn of(node: u64, name: &str) -> impl Fn(ReadFlags) -> Told {
    move |mask| (node, mask, name.to_owned())
}

#[test]
fn what_the_host_does_is_told_in_order_and_what_the_guest_does_is_not() {
    let bench = Bench::new();
    let share = bench.share("0");
    fs::write(bench.path("before"), "").unwrap();
    assert_eq!(bench.told(), []);
    bench.watch(share);
    fs::write(bench.path("file"), "text").unwrap();
    fs::set_permissions(bench.path("file"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(bench.path("file"), bench.path("other")).unwrap();
    fs::remove_file(bench.path("other")).unwrap();
    let (file, other) = (of(share, "file"), of(share, "other"));
    assert_eq!(
        bench.told(),
        [
            file(ReadFlags::CREATE),
            file(ReadFlags::MODIFY),
            file(ReadFlags::CLOSE_WRITE),
            file(ReadFlags::ATTRIB),
            file(ReadFlags::MOVED_FROM),
            other(ReadFlags::MOVED_TO),
            other(ReadFlags::DELETE),
        ]
    );
    // The same by the guest, one request after the other.
    let quiet = || assert_eq!(bench.told(), []);
    let (entry, handle, _) = bench
        .files
        .create(guest(999), share, &name("mine"), 0o640, false, 2, 0, Extensions::default())
        .unwrap();
    quiet();
    let made = entry.inode;
    bench.files.release(guest(0), made, 0, handle.unwrap(), false, false, None).unwrap();
    quiet();
    let mode = SetattrIn { mode: 0o600, size: 5, ..SetattrIn::default() };
    bench.change(made, mode, SetattrValid::MODE | SetattrValid::SIZE).unwrap();
    quiet();
    bench.files.link(guest(0), made, share, &name("second")).unwrap();
    quiet();
    bench.watch(made);
    bench.files.rename(guest(0), share, &name("mine"), share, &name("moved"), 0).unwrap();
    quiet();
    bench.files.unlink(guest(0), share, &name("moved")).unwrap();
    quiet();
    let folder = bench.files.mkdir(guest(70), share, &name("folder"), 0o755, 0, Extensions::default());
    quiet();
    bench.watch(folder.unwrap().inode);
    bench.files.rmdir(guest(0), share, &name("folder")).unwrap();
    quiet();
    // A file without a name has one in events.
    let (nameless, handle) = bench.files.create_nameless(guest(999), share, 0o640, 2).unwrap();
    quiet();
    let size = SetattrIn { size: 5, ..SetattrIn::default() };
    bench.change(nameless.inode, size, SetattrValid::SIZE).unwrap();
    quiet();
    bench.files.release(guest(0), nameless.inode, 0, handle, false, false, None).unwrap();
    quiet();
}

#[test]
fn what_the_host_does_in_the_meantime_is_told_apart() {
    let bench = Bench::new();
    let share = bench.share("0");
    bench.watch(share);
    // The request at hand is the guest's; all else is not.
    bench.create(0, share, "guests", 0o644);
    fs::write(bench.path("hosts"), "").unwrap();
    let told = bench.told();
    assert!(told.iter().all(|(_, _, name)| name == "hosts"), "{told:?}");
    assert_eq!(told[0], of(share, "hosts")(ReadFlags::CREATE));
}

#[test]
fn a_removed_file_is_told_though_the_guest_knows_it_still() {
    let bench = Bench::new();
    let share = bench.share("0");
    fs::write(bench.path("file"), "").unwrap();
    fs::create_dir_all(bench.path("folder/inside")).unwrap();
    let look = |parent, name: &str| bench.look(parent, name).unwrap().inode;
    let (file, folder) = (look(share, "file"), look(share, "folder"));
    let inside = look(folder, "inside");
    [file, folder, inside].into_iter().for_each(|node| bench.watch(node));
    // In another folder by now, which tells of its end.
    fs::create_dir(bench.path("new")).unwrap();
    fs::rename(bench.path("folder/inside"), bench.path("new/inside")).unwrap();
    fs::remove_dir(bench.path("new/inside")).unwrap();
    fs::remove_dir(bench.path("folder")).unwrap();
    fs::remove_file(bench.path("file")).unwrap();
    let directory = ReadFlags::ISDIR;
    assert_eq!(
        bench.told(),
        [
            of(folder, "inside")(ReadFlags::MOVED_FROM | directory),
            of(inside, "")(ReadFlags::MOVE_SELF),
            of(inside, "")(ReadFlags::DELETE_SELF),
            of(folder, "")(ReadFlags::DELETE_SELF),
            of(file, "")(ReadFlags::ATTRIB),
            of(file, "")(ReadFlags::DELETE_SELF),
        ]
    );
}

#[test]
fn nothing_is_watched_any_more_when_nobody_does() {
    let bench = Bench::new();
    let share = bench.share("0");
    let events = bench.files.events();
    bench.watch(share);
    bench.watch(share);
    fs::write(bench.path("file"), "").unwrap();
    assert!(!bench.told().is_empty());
    // It has been watched once more since the event that found nobody.
    events.unwatch(share, 1);
    fs::write(bench.path("file"), "").unwrap();
    assert!(!bench.told().is_empty());
    events.unwatch(share, 2);
    fs::write(bench.path("file"), "").unwrap();
    assert_eq!(bench.told(), []);
    let file = bench.look(share, "file").unwrap().inode;
    bench.watch(file);
    bench.files.forget(guest(0), file, 1);
    fs::write(bench.path("file"), "").unwrap();
    assert_eq!(bench.told(), []);
    assert_eq!(events.watch(file), Err(Errno::BADF));
}

#[test]
fn a_guest_that_does_not_ask_is_told_that_something_was_lost() {
    let bench = Bench::new();
    let share = bench.share("0");
    bench.watch(share);
    let events = bench.files.events();
    for round in 0..6000 {
        fs::write(bench.path("file"), round.to_string()).unwrap();
        fs::remove_file(bench.path("file")).unwrap();
        events.collect();
    }
    let told = bench.told();
    assert_eq!(told.len(), (16 << 10) + 1);
    assert_eq!(told.last().unwrap(), &of(0, "")(ReadFlags::QUEUE_OVERFLOW));
    // And goes on.
    fs::write(bench.path("new"), "").unwrap();
    assert_eq!(bench.told()[0], of(share, "new")(ReadFlags::CREATE));
}

#[test]
fn events_are_told_as_far_as_there_is_room() {
    let bench = Bench::new();
    let share = bench.share("0");
    bench.watch(share);
    fs::write(bench.path("file"), "").unwrap();
    let events = bench.files.events();
    events.collect();
    assert!(events.take(39).is_none());
    assert_eq!(events.take(79).unwrap().unwrap().len(), 40);
    assert_eq!(bench.told(), [of(share, "file")(ReadFlags::CLOSE_WRITE)]);
    events.end();
    assert_eq!(events.take(1000), Some(Err(Errno::NODEV)));
}
