//! Files without a name.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use virtiofsd::filesystem::FileSystem as _;
use virtiofsd::filesystem::ROOT_ID;

use super::{Bench, DESCRIPTORS, errno, guest, name, shown};

#[test]
fn a_file_without_a_name_is_nowhere_until_it_is_linked() {
    let bench = Bench::new();
    let share = bench.share("0");
    let read_write = u32::try_from(libc::O_RDWR).unwrap();
    let (entry, handle) = bench.files.create_nameless(guest(999), share, 0o600, read_write).unwrap();
    assert_eq!((shown(&entry), entry.attr.nlink), ((999, 999, 0o600), 0));
    assert_eq!(fs::read_dir(bench.folders[0].path()).unwrap().count(), 0);
    // It stays though others need its descriptor.
    for number in 0..3 * DESCRIPTORS {
        bench.create(999, share, &number.to_string(), 0o600);
    }
    assert_eq!(bench.files.getattr(guest(0), entry.inode, None).unwrap().0.nlink, 0);
    assert_eq!(bench.files.link(guest(0), entry.inode, share, &name("named")).unwrap().inode, entry.inode);
    let named = bench.look(share, "named").unwrap();
    assert_eq!((named.inode, shown(&named), named.attr.nlink), (entry.inode, (999, 999, 0o600), 1));
    assert_eq!(fs::metadata(bench.path("named")).unwrap().ino(), entry.attr.ino);
    bench.files.release(guest(0), entry.inode, 0, handle, false, false, None).unwrap();
    let made = |place: u64| errno(bench.files.create_nameless(guest(0), place, 0o600, read_write).map(drop));
    assert_eq!(
        (made(bench.share("1")), made(ROOT_ID), made(named.inode)),
        (libc::EROFS, libc::EROFS, libc::ENOTDIR)
    );
}
