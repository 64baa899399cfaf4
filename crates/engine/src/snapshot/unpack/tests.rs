use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{lsetxattr, open};

use super::*;
use crate::snapshot::testing::{Archive, is_root};

/// A layer's directory, beside something that no archive may touch.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/secret"), "secret").unwrap();
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("layer")
    }

    fn outside(&self) -> PathBuf {
        self.directory.path().join("outside")
    }

    fn unpack(&self, archive: &[u8]) -> Result<u64, Error> {
        self.unpack_on(archive, &[])
    }

    fn unpack_on(&self, archive: &[u8], lower: &[OwnedFd]) -> Result<u64, Error> {
        let spare = self.directory.path().join("spare");
        for path in [&self.root(), &spare] {
            let _ = fs::remove_dir_all(path);
            fs::create_dir(path).unwrap();
        }
        let result = unpack(archive, &opened(&self.root()), &opened(&spare), lower);
        let secret = fs::read_dir(self.outside()).unwrap().count();
        assert_eq!(secret, 1, "something was written outside");
        assert_eq!(fs::read_to_string(self.outside().join("secret")).unwrap(), "secret");
        assert_eq!(fs::metadata(self.outside().join("secret")).unwrap().nlink(), 1);
        result
    }

    fn stat(&self, path: &str) -> fs::Metadata {
        fs::symlink_metadata(self.root().join(path)).unwrap()
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0; 8];
        let path = self.root().join(path);
        lgetxattr(&path, OPAQUE_ATTRIBUTE, &mut value[..]).is_ok_and(|length| value[..length] == *b"y")
    }
}

pub(super) fn opened(path: &Path) -> OwnedFd {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

#[test]
fn all_that_a_layer_can_hold_is_there_afterwards() {
    if !is_root("all_that_a_layer_can_hold_is_there_afterwards") {
        return;
    }
    let mut setuid = ::tar::Header::new_ustar();
    setuid.set_path("bin/su").unwrap();
    setuid.set_mode(0o4755);
    setuid.set_uid(1000);
    setuid.set_gid(1001);
    setuid.set_size(2);
    setuid.set_cksum();
    let archive = Archive::default()
        .directory("./")
        .directory("bin/")
        .pax(&[
            ("mtime", b"1.5"),
            (
                "SCHILY.xattr.security.capability",
                &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            ),
        ])
        .header(&setuid, b"su")
        .hard_link("bin/sudo", "bin/su")
        .symlink("bin/sh", "/bin/su")
        .entry("fifo", b'6', "", b"")
        .entry("null", b'3', "", b"")
        .finish();
    let place = Place::new();
    assert_eq!(place.unpack(&archive).unwrap(), 2 + 7);
    let su = place.stat("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid()), (0o4755, 1000, 1001));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1, 500_000_000));
    assert_eq!(su.ino(), place.stat("bin/sudo").ino());
    assert_eq!(fs::read_link(place.root().join("bin/sh")).unwrap(), Path::new("/bin/su"));
    assert!(place.stat("fifo").file_type().is_fifo());
    assert_eq!(place.stat("null").rdev(), makedev(1, 3));
    let mut value = [0; 32];
    let capability = lgetxattr(place.root().join("bin/su"), "security.capability", &mut value[..]);
    assert_eq!(capability, Ok(20));
    // What was made in it later did not change the directory's time.
    assert_eq!(place.stat("bin").mtime(), 1_000_000_000);
    assert_eq!(place.stat("").mtime(), 1_000_000_000);
}

#[test]
fn whiteouts_become_overlayfs_own() {
    if !is_root("whiteouts_become_overlayfs_own") {
        return;
    }
    let place = Place::new();
    let archive = Archive::default()
        .file("a/.wh.gone", b"")
        .directory("b/")
        .file("b/.wh..wh..opq", b"")
        .file("b/new", b"")
        .file(".wh..wh.plnk", b"")
        .finish();
    place.unpack(&archive).unwrap();
    assert!(place.is_whiteout("a/gone"));
    assert!(!place.is_opaque("a") && place.is_opaque("b"));
    assert!(place.root().join("b/new").exists());
    assert_eq!(fs::read_dir(place.root()).unwrap().count(), 2);
}

#[test]
fn a_whiteout_hides_only_what_is_below() {
    if !is_root("a_whiteout_hides_only_what_is_below") {
        return;
    }
    let place = Place::new();
    let archive = Archive::default()
        .file(".wh.first", b"")
        .file("first", b"new")
        .file("second", b"new")
        .file(".wh.second", b"")
        .file(".wh.dir", b"")
        .file("dir/new", b"")
        .directory("late/")
        .file(".wh.late", b"")
        .finish();
    place.unpack(&archive).unwrap();
    assert_eq!(place.text("first"), "new");
    assert_eq!(place.text("second"), "new");
    assert!(place.is_opaque("dir") && place.is_opaque("late"));
}

#[test]
fn names_do_not_lead_out() {
    let place = Place::new();
    for path in ["../outside/x", "a/../../outside/x", "..", "a/../.."] {
        let archive = Archive::default().directory("a/").file(path, b"x").finish();
        assert!(matches!(place.unpack(&archive), Err(Error::Outside { .. })), "{path}");
    }
    let archive = Archive::default()
        .file("/etc/passwd", b"x")
        .file("/../../up", b"y")
        .file("a/./b//../c", b"z")
        .finish();
    place.unpack(&archive).unwrap();
    assert_eq!(place.text("etc/passwd"), "x");
    assert_eq!(place.text("up"), "y");
    assert_eq!(place.text("a/c"), "z");
}

#[test]
fn symbolic_links_do_not_lead_out() {
    let place = Place::new();
    let outside = place.outside();
    let outside = outside.to_str().unwrap();
    // A file through a link; a link to a link; the link itself replaced.
    for target in [outside, "../outside", "../../../../../../../../../../"] {
        let archive = Archive::default().symlink("link", target).file("link/x", b"x").finish();
        let _ = place.unpack(&archive);
        let archive =
            Archive::default().symlink("one", "two").symlink("two", target).file("one/secret", b"x").finish();
        let _ = place.unpack(&archive);
        let archive = Archive::default().symlink("secret", &format!("{target}/secret")).file("secret", b"x");
        place.unpack(&archive.finish()).unwrap();
        assert!(place.stat("secret").is_file());
    }
    // Inside, a link works as it would in the container.
    let archive = Archive::default()
        .directory("usr/lib/")
        .symlink("lib", "/usr/lib")
        .symlink("lib64", "../../usr/lib")
        .file("lib/one", b"1")
        .file("lib64/two", b"2")
        .finish();
    place.unpack(&archive).unwrap();
    assert_eq!(place.text("usr/lib/one"), "1");
    assert_eq!(place.text("usr/lib/two"), "2");
    // The modes and whiteouts of links and what they lead to.
    let archive = Archive::default().symlink("dir", outside).file("dir/.wh.secret", b"").finish();
    let _ = place.unpack(&archive);
    let archive = Archive::default().symlink("dir", outside).directory("dir/").file("dir/x", b"").finish();
    place.unpack(&archive).unwrap();
    assert!(place.stat("dir").is_dir());
}

#[test]
fn hard_links_do_not_lead_out() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    for target in [secret.to_str().unwrap(), "../outside/secret", "link/secret"] {
        let archive = Archive::default().symlink("link", "../outside").hard_link("stolen", target).finish();
        assert!(place.unpack(&archive).is_err(), "{target}");
        assert!(!place.root().join("stolen").exists());
    }
    let archive = Archive::default().file("a", b"1").hard_link("a", "a").finish();
    place.unpack(&archive).unwrap();
    assert_eq!(place.text("a"), "1");
    let archive = Archive::default().directory("d/").hard_link("e", "d").finish();
    assert!(place.unpack(&archive).is_err());
    let archive = Archive::default().hard_link("e", "/").finish();
    assert!(place.unpack(&archive).is_err());
}

#[test]
fn the_last_entry_of_a_path_wins() {
    let place = Place::new();
    let archive = Archive::default()
        .file("file", b"long content")
        .file("file", b"short")
        .file("dir/deep/file", b"gone")
        .file("dir", b"now a file")
        .file("other", b"now a directory")
        .directory("other/")
        .file("other/in", b"it")
        .symlink("link", "other")
        .directory("link/")
        .finish();
    let size = place.unpack(&archive).unwrap();
    assert_eq!(place.text("file"), "short");
    assert_eq!(place.text("dir"), "now a file");
    assert_eq!(place.text("other/in"), "it");
    assert!(place.stat("link").is_dir());
    assert_eq!(size, 5 + 10 + 2);
}

#[test]
fn a_file_on_the_way_is_an_error() {
    let place = Place::new();
    let archive = Archive::default().file("a", b"").file("a/b", b"").finish();
    assert!(matches!(place.unpack(&archive), Err(Error::Entry { .. })));
    let archive = Archive::default().symlink("a", "a").file("a/b", b"").finish();
    assert!(place.unpack(&archive).is_err());
}

#[test]
fn holes_take_no_space() {
    let place = Place::new();
    let mut file = ::tar::Header::new_ustar();
    file.set_path("sparse").unwrap();
    file.set_size(3);
    file.set_mode(0o600);
    file.set_cksum();
    let archive = Archive::default()
        .pax(&[("GNU.sparse.size", b"1073741824"), ("GNU.sparse.map", b"1048576,3")])
        .header(&file, b"abc")
        .finish();
    assert_eq!(place.unpack(&archive).unwrap(), 1 << 30);
    let stat = place.stat("sparse");
    assert_eq!(stat.size(), 1 << 30);
    assert!(stat.blocks() < 1000);
    let mut content = [0; 5];
    let sparse = fs::File::open(place.root().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&sparse, &mut content, 1_048_575).unwrap();
    assert_eq!(&content, b"\0abc\0");
}

#[test]
fn a_directory_without_an_entry_is_as_below() {
    if !is_root("a_directory_without_an_entry_is_as_below") {
        return;
    }
    let below = tempfile::tempdir().unwrap();
    let tmp = below.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(&tmp, Some(5), Some(6)).unwrap();
    lsetxattr(&tmp, "trusted.mark", b"1", XattrFlags::empty()).unwrap();
    let place = Place::new();
    let archive = Archive::default().file("tmp/new/x", b"").finish();
    place.unpack_on(&archive, &[opened(below.path())]).unwrap();
    let stat = place.stat("tmp");
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o1777, 5, 6));
    assert_eq!(place.stat("tmp/new").mode() & 0o7777, 0o755);
    let mut value = [0; 4];
    assert_eq!(lgetxattr(place.root().join("tmp"), "trusted.mark", &mut value[..]), Ok(1));
}

#[test]
fn overlayfs_bookkeeping_is_not_the_archives_to_write() {
    let place = Place::new();
    let archive = Archive::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.kept", b"1"),
        ])
        .directory("d/")
        .finish();
    place.unpack(&archive).unwrap();
    let mut names = [0; 256];
    let length = llistxattr(place.root().join("d"), &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.kept\0");
}

#[test]
fn nonsense_is_refused() {
    let place = Place::new();
    for path in [".wh.", "a/.wh..", ".wh..."] {
        let archive = Archive::default().directory("a/").file(path, b"").finish();
        let is_refused = matches!(place.unpack(&archive), Err(Error::Whiteout { .. }));
        assert!(is_refused, "{path}");
    }
    let archive = Archive::default().entry("x", b'Z', "", b"").finish();
    assert!(matches!(place.unpack(&archive), Err(Error::Unhandled { flag: b'Z' })));
    let archive = Archive::default().file("./", b"x").finish();
    assert!(matches!(place.unpack(&archive), Err(Error::Outside { .. })));
    let whole = Archive::default().file("x", &[7; 4000]).finish();
    let truncated = place.unpack(&whole[..2000]);
    assert!(matches!(truncated, Err(Error::Archive(tar::Error::Truncated))));
}

#[test]
fn bytes_after_the_end_are_read_too() {
    struct Counted<'a>(&'a [u8], &'a mut usize);
    impl Read for Counted<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(buffer)?;
            *self.1 += count;
            Ok(count)
        }
    }
    let mut archive = Archive::default().file("x", b"1").finish();
    archive.extend([9; 3000]);
    let place = Place::new();
    fs::create_dir(place.root()).unwrap();
    let spare = tempfile::tempdir().unwrap();
    let mut count = 0;
    let source = Counted(&archive, &mut count);
    unpack(source, &opened(&place.root()), &opened(spare.path()), &[]).unwrap();
    assert_eq!(count, archive.len());
}
