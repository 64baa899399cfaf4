//! More files than may be open.

use std::fs;

use rustix::io::Errno;
use virtiofsd::filesystem::{FileSystem as _, ROOT_ID};

use super::{Bench, DESCRIPTORS, errno, guest, name};

/// Descriptors of this process that lead below the bench's first share.
fn open(bench: &Bench) -> usize {
    let below = |entry: std::io::Result<fs::DirEntry>| {
        let target = fs::read_link(entry.unwrap().path());
        target.is_ok_and(|target| target.starts_with(bench.folders[0].path()))
    };
    fs::read_dir("/proc/self/fd").unwrap().map(below).filter(|is| *is).count()
}

#[test]
fn files_that_were_not_used_for_long_are_closed_and_found_again() {
    let bench = Bench::new();
    let share = bench.share("0");
    fs::create_dir_all(bench.path("a/b")).unwrap();
    let look = |parent, name: &str| bench.look(parent, name).unwrap().inode;
    let folder = look(look(share, "a"), "b");
    let many = 5 * DESCRIPTORS;
    for number in 0..many {
        fs::write(bench.path("a/b").join(number.to_string()), number.to_string()).unwrap();
    }
    let nodes: Vec<u64> = (0..many).map(|number| look(folder, &number.to_string())).collect();
    assert!(open(&bench) <= DESCRIPTORS + 10, "{}", open(&bench));
    for (number, node) in nodes.iter().enumerate() {
        let (attributes, _) = bench.files.getattr(guest(0), *node, None).unwrap();
        assert_eq!(attributes.size, number.to_string().len() as u64);
    }
    assert!(open(&bench) <= DESCRIPTORS + 10, "{}", open(&bench));

    // The guest moves one, and the folders above it: they are found where they are now.
    bench.files.rename(guest(0), folder, &name("0"), share, &name("moved"), 0).unwrap();
    bench.files.rename(guest(0), look(share, "a"), &name("b"), share, &name("c"), 0).unwrap();
    for node in &nodes {
        bench.files.getattr(guest(0), *node, None).unwrap();
    }
    bench.files.getattr(guest(0), nodes[0], None).unwrap();
    // The host moves another one: the guest has to look for it.
    fs::rename(bench.path("c/1"), bench.path("taken")).unwrap();
    assert_eq!(errno(bench.files.getattr(guest(0), nodes[1], None)), Errno::STALE.raw_os_error());
    assert_eq!(look(share, "taken"), nodes[1]);
    bench.files.getattr(guest(0), nodes[1], None).unwrap();
    // Or puts another one in its place.
    fs::remove_file(bench.path("c/2")).unwrap();
    fs::write(bench.path("c/2"), "another").unwrap();
    assert_ne!(look(folder, "2"), nodes[2]);
}

#[test]
fn a_removed_file_stays_open_as_long_as_the_guest_knows_it() {
    let bench = Bench::new();
    let share = bench.share("0");
    let kept = bench.create(0, share, "kept", 0o644).inode;
    bench.files.unlink(guest(0), share, &name("kept")).unwrap();
    for number in 0..3 * DESCRIPTORS {
        bench.create(0, share, &number.to_string(), 0o644);
    }
    let (attributes, _) = bench.files.getattr(guest(0), kept, None).unwrap();
    assert_eq!(attributes.nlink, 0);
    assert_eq!(bench.look(ROOT_ID, "0").unwrap().inode, share);
}
