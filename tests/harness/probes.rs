//! What system calls do to files, seen by a program in a container: there are no commands for most of it. A probe is done by
//! the harness's own binary in a folder, and says what was otherwise than on ext4.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result, ensure};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags, copy_file_range,
    fallocate, fcntl_lock, flock, linkat, open, openat, renameat_with,
};
use rustix::io::Errno;

use crate::ensure_eq;
use crate::probes::Locked::{Busy, Free};
use crate::roles::LISTENING;

/// What a probe prints in the end.
pub const PASSED: &str = "passed";
/// What `hold` and `await` print once they have both locks.
pub const HELD: &str = "held";
/// What `await` prints before.
pub const WAITING: &str = "waiting";
/// What `try` prints of two locks that somebody else has, and of two that nobody has.
pub const BUSY: &str = "flock busy, fcntl busy";
/// See [`BUSY`].
pub const FREE: &str = "flock free, fcntl free";

type Probe = fn(&Path) -> Result<()>;

const PROBES: &[(&str, Probe)] = &[
    ("nameless", nameless),
    ("exchange", exchange),
    ("holes", holes),
    ("allocation", allocation),
    ("copies", copies),
    ("names", names),
    ("loops", loops),
    ("hard-links", hard_links),
    ("removed", removed),
    ("mapped", mapped),
    ("attributes", attributes),
    ("no-acls", no_acls),
    ("append", append),
    ("serve", serve),
    ("call", call),
    ("hold", hold),
    ("try", try_locks),
    ("await", await_locks),
];

/// Does the probe of a name in a folder.
pub(crate) fn probe(args: &[OsString]) -> Result<ExitStatus> {
    let [name, folder] = args else { anyhow::bail!("not a probe and a folder: {args:?}") };
    let (_, probe) = PROBES.iter().find(|(known, _)| name == known).context("no such probe")?;
    probe(Path::new(folder))?;
    say(PASSED)?;
    Ok(ExitStatus::default())
}

fn say(line: &str) -> Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("writing to standard output")
}

fn create(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    file.with_context(|| format!("making {}", path.display()))
}

/// `O_TMPFILE`: a file that is nowhere until it is linked.
fn nameless(folder: &Path) -> Result<()> {
    let before = fs::read_dir(folder)?.count();
    let make = |flags| {
        let flags = OFlags::TMPFILE | OFlags::RDWR | flags;
        open(folder, flags, Mode::from_raw_mode(0o640)).map(File::from).context("opening without a name")
    };
    let mut file = make(OFlags::empty())?;
    file.write_all(b"words")?;
    ensure_eq!(
        (file.metadata()?.nlink(), file.metadata()?.mode() & 0o777, file.metadata()?.len()),
        (0, 0o640, 5)
    );
    ensure_eq!(fs::read_dir(folder)?.count(), before);
    let give = |file: &File, name: &str| {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
        linkat(CWD, path, CWD, folder.join(name), AtFlags::SYMLINK_FOLLOW)
    };
    give(&file, "named").context("giving it a name")?;
    ensure_eq!(file.metadata()?.nlink(), 1);
    ensure_eq!(fs::metadata(folder.join("named"))?.ino(), file.metadata()?.ino());
    file.write_all(b" more")?;
    ensure_eq!(fs::read_to_string(folder.join("named"))?, "words more");
    ensure_eq!(give(&file, "named"), Err(Errno::EXIST));
    // One that never gets a name, and one that may not.
    let (unnamed, excluded) = (make(OFlags::empty())?, make(OFlags::EXCL)?);
    unnamed.set_len(1 << 20)?;
    drop(unnamed);
    ensure_eq!(give(&excluded, "excluded"), Err(Errno::NOENT));
    ensure_eq!(fs::read_dir(folder)?.count(), before + 1);
    Ok(())
}

/// renameat2(2).
fn exchange(folder: &Path) -> Result<()> {
    let path = |name: &str| folder.join(name);
    fs::write(path("a"), "a")?;
    fs::write(path("b"), "b")?;
    fs::create_dir_all(path("d/inside"))?;
    let rename = |from: &str, to: &str, flags| renameat_with(CWD, path(from), CWD, path(to), flags);
    rename("a", "b", RenameFlags::EXCHANGE)?;
    ensure_eq!((fs::read_to_string(path("a"))?, fs::read_to_string(path("b"))?), ("b".into(), "a".into()));
    // A file and a folder with something in it.
    rename("a", "d", RenameFlags::EXCHANGE)?;
    ensure!(path("a/inside").is_dir() && path("d").is_file());
    ensure_eq!(rename("b", "d", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    ensure_eq!(rename("b", "none", RenameFlags::EXCHANGE), Err(Errno::NOENT));
    ensure_eq!(rename("b", "c", RenameFlags::NOREPLACE | RenameFlags::EXCHANGE), Err(Errno::INVAL));
    rename("b", "c", RenameFlags::NOREPLACE)?;
    // Into itself, over a folder with something in it, a folder over a file.
    ensure_eq!(rename("a", "a/inside/a", RenameFlags::empty()), Err(Errno::INVAL));
    fs::create_dir_all(path("e/f"))?;
    ensure_eq!(rename("e", "a", RenameFlags::empty()), Err(Errno::NOTEMPTY));
    ensure_eq!(rename("e", "c", RenameFlags::empty()), Err(Errno::NOTDIR));
    ensure_eq!(rename("c", "e", RenameFlags::empty()), Err(Errno::ISDIR));
    Ok(())
}

/// Where a file has data (lseek(2)).
fn holes(folder: &Path) -> Result<()> {
    const MIB: u64 = 1 << 20;
    let file = create(&folder.join("sparse"))?;
    file.write_all_at(&[1; 4096], 0)?;
    file.write_all_at(&[2; 4096], MIB)?;
    file.set_len(4 * MIB)?;
    file.sync_all()?;
    ensure!(file.metadata()?.blocks() * 512 < MIB, "{} blocks", file.metadata()?.blocks());
    let seek = |to| rustix::fs::seek(&file, to);
    use rustix::fs::SeekFrom::{Data, Hole};
    ensure_eq!((seek(Data(0)), seek(Hole(0)), seek(Data(4096))), (Ok(0), Ok(4096), Ok(MIB)));
    ensure_eq!(
        (seek(Data(MIB + 7)), seek(Hole(MIB)), seek(Hole(2 * MIB))),
        (Ok(MIB + 7), Ok(MIB + 4096), Ok(2 * MIB))
    );
    ensure_eq!(
        (seek(Data(2 * MIB)), seek(Hole(4 * MIB)), seek(Data(5 * MIB))),
        (Err(Errno::NXIO), Err(Errno::NXIO), Err(Errno::NXIO))
    );
    let mut read = [9; 8];
    file.read_exact_at(&mut read, MIB - 4)?;
    ensure_eq!(read, [0, 0, 0, 0, 2, 2, 2, 2]);
    Ok(())
}

/// fallocate(2).
fn allocation(folder: &Path) -> Result<()> {
    const SIZE: u64 = 256 << 10;
    let file = create(&folder.join("allocated"))?;
    let bytes = || file.metadata().map(|data| data.blocks() * 512);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, SIZE)?;
    ensure_eq!(file.metadata()?.len(), 0);
    ensure!(bytes()? >= SIZE, "{} bytes", bytes()?);
    fallocate(&file, FallocateFlags::empty(), 0, SIZE)?;
    ensure_eq!(file.metadata()?.len(), SIZE);
    file.write_all_at(&vec![7; usize::try_from(SIZE)?], 0)?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 64 << 10, 64 << 10)?;
    ensure!(bytes()? <= SIZE - (64 << 10), "{} bytes", bytes()?);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 192 << 10, 128 << 10)?;
    ensure_eq!(file.metadata()?.len(), 320 << 10);
    let mut text = Vec::new();
    create_reader(folder, "allocated")?.read_to_end(&mut text)?;
    let runs: Vec<(u8, usize)> = text.chunk_by(|a, b| a == b).map(|run| (run[0], run.len() >> 10)).collect();
    ensure_eq!(runs, [(7, 64), (0, 64), (7, 64), (0, 128)]);
    ensure_eq!(fallocate(&file, FallocateFlags::empty(), 0, 0), Err(Errno::INVAL));
    ensure_eq!(fallocate(&file, FallocateFlags::PUNCH_HOLE, 0, 1), Err(Errno::OPNOTSUPP));
    let read_only = create_reader(folder, "allocated")?;
    ensure_eq!(fallocate(&read_only, FallocateFlags::empty(), 0, 1), Err(Errno::BADF));
    Ok(())
}

fn create_reader(folder: &Path, name: &str) -> Result<File> {
    File::open(folder.join(name)).with_context(|| format!("opening {name}"))
}

/// copy_file_range(2).
fn copies(folder: &Path) -> Result<()> {
    fs::write(folder.join("from"), "0123456789".repeat(1000))?;
    let (from, to) = (create_reader(folder, "from")?, create(&folder.join("to"))?);
    let copy = |mut at: u64, mut behind: u64, length| {
        copy_file_range(&from, Some(&mut at), &to, Some(&mut behind), length)
    };
    let mut done = 0;
    while done < 9000 {
        let copied = copy(5 + done, 100 + done, usize::try_from(9000 - done)?)?;
        ensure!(copied > 0, "nothing more than {done} bytes is copied");
        done += u64::try_from(copied)?;
    }
    let text = fs::read(folder.join("to"))?;
    ensure_eq!((text.len(), &text[98..104]), (9100, &b"\0\x005678"[..]));
    ensure_eq!(copy(10_000, 0, 5), Ok(0));
    ensure_eq!(copy_file_range(&to, None, &from, None, 5), Err(Errno::BADF));
    // A file into itself.
    let (mut at, mut behind) = (0, 50);
    ensure_eq!(copy_file_range(&to, Some(&mut at), &to, Some(&mut behind), 100), Err(Errno::INVAL));
    Ok(())
}

/// Names at their limits and beyond, of bytes that are no text.
fn names(folder: &Path) -> Result<()> {
    let (longest, longer) = ("x".repeat(255), "x".repeat(256));
    fs::write(folder.join(&longest), "longest")?;
    let error = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    let too_long = Some(libc::ENAMETOOLONG);
    ensure_eq!(error(fs::write(folder.join(&longer), "")), too_long);
    ensure_eq!(error(fs::metadata(folder.join(&longer)).map(drop)), too_long);
    ensure_eq!(error(fs::create_dir(folder.join(&longer))), too_long);
    ensure_eq!(error(symlink("a", folder.join(&longer))), too_long);
    ensure_eq!(error(fs::rename(folder.join(&longest), folder.join(&longer))), too_long);
    ensure_eq!(error(fs::remove_file(folder.join(&longer))), too_long);
    ensure_eq!(error(symlink("x".repeat(4096), folder.join("link"))), too_long);
    symlink("x".repeat(4095), folder.join("link"))?;
    ensure_eq!(fs::read_link(folder.join("link"))?.as_os_str().len(), 4095);
    // Every byte that a name may have.
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    fs::write(folder.join(OsStr::from_bytes(&bytes)), "bytes")?;
    let listed = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    ensure!(listed.iter().any(|name| name.as_bytes() == bytes), "the name comes back otherwise");
    // Names that only a file system without letters' cases or Unicode's forms takes for the same.
    for name in ["case", "CASE", "\u{e9}", "e\u{301}"] {
        fs::write(folder.join(name), name)?;
    }
    ensure_eq!(fs::read_to_string(folder.join("case"))?, "case");
    ensure_eq!(fs::read_to_string(folder.join("\u{e9}"))?, "\u{e9}");
    Ok(())
}

/// Links that lead to themselves.
fn loops(folder: &Path) -> Result<()> {
    symlink("b", folder.join("a"))?;
    symlink("a", folder.join("b"))?;
    symlink("self/x", folder.join("self"))?;
    for name in ["a", "b", "self", "a/inside"] {
        let error = fs::metadata(folder.join(name)).err().and_then(|error| error.raw_os_error());
        ensure_eq!(error, Some(libc::ELOOP), "{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE;
        ensure_eq!(open(folder.join(name), flags, Mode::RWXU).err(), Some(Errno::LOOP), "{name}");
    }
    ensure_eq!(open(folder.join("a"), OFlags::NOFOLLOW, Mode::empty()).err(), Some(Errno::LOOP));
    // As many as a path may have, and one more.
    fs::write(folder.join("0"), "found")?;
    for number in 1..=41 {
        symlink((number - 1).to_string(), folder.join(number.to_string()))?;
    }
    ensure_eq!(fs::read_to_string(folder.join("40"))?, "found");
    let error = fs::read(folder.join("41")).err().and_then(|error| error.raw_os_error());
    ensure_eq!(error, Some(libc::ELOOP));
    Ok(())
}

/// link(2).
fn hard_links(folder: &Path) -> Result<()> {
    const MANY: u64 = 1000;
    let path = |name: &str| folder.join(name);
    fs::write(path("first"), "words")?;
    for number in 1..MANY {
        fs::hard_link(path("first"), path(&format!("link-{number}")))?;
    }
    let (first, last) = (fs::metadata(path("first"))?, fs::metadata(path("link-999"))?);
    ensure_eq!((first.ino(), first.nlink(), last.nlink()), (last.ino(), MANY, MANY));
    fs::remove_file(path("first"))?;
    ensure_eq!(
        (fs::read_to_string(path("link-1"))?, fs::metadata(path("link-2"))?.nlink()),
        ("words".into(), MANY - 1)
    );
    let error = |result: std::io::Result<()>| result.err().and_then(|error| error.raw_os_error());
    fs::create_dir(path("folder"))?;
    ensure_eq!(error(fs::hard_link(path("folder"), path("f"))), Some(libc::EPERM));
    ensure_eq!(error(fs::hard_link(path("link-1"), path("link-2"))), Some(libc::EEXIST));
    // Of a link itself.
    symlink("nowhere", path("symbolic"))?;
    fs::hard_link(path("symbolic"), path("second"))?;
    ensure_eq!(fs::symlink_metadata(path("second"))?.nlink(), 2);
    // A name that is the same file already: nothing happens (rename(2)).
    fs::rename(path("link-1"), path("link-2"))?;
    ensure!(path("link-1").exists());
    Ok(())
}

/// Files and folders that are open and have no name any more.
fn removed(folder: &Path) -> Result<()> {
    let mut file = create(&folder.join("file"))?;
    file.write_all(b"words")?;
    fs::remove_file(folder.join("file"))?;
    fs::write(folder.join("file"), "another")?;
    ensure_eq!(file.metadata()?.nlink(), 0);
    file.write_all(b" more")?;
    file.set_len(8)?;
    file.seek(SeekFrom::Start(0))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    ensure_eq!(text, "words mo");
    rustix::fs::fchmod(&file, Mode::RUSR)?;
    ensure_eq!(file.metadata()?.mode() & 0o777, 0o400);
    file.sync_all()?;
    // Replaced by a rename, and read on.
    let old = create_reader(folder, "file")?;
    fs::write(folder.join("draft"), "third")?;
    fs::rename(folder.join("draft"), folder.join("file"))?;
    ensure_eq!(
        (std::io::read_to_string(old)?, fs::read_to_string(folder.join("file"))?),
        ("another".into(), "third".into())
    );
    // A folder that somebody is in.
    fs::create_dir(folder.join("folder"))?;
    let open_folder = File::open(folder.join("folder"))?;
    fs::remove_dir(folder.join("folder"))?;
    let flags = OFlags::CREATE | OFlags::WRONLY;
    ensure_eq!(openat(open_folder.as_fd(), "inside", flags, Mode::RWXU).err(), Some(Errno::NOENT));
    ensure_eq!(open_folder.metadata()?.nlink(), 0);
    Ok(())
}

/// mmap(2).
fn mapped(folder: &Path) -> Result<()> {
    use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
    const LENGTH: usize = 8192;
    let file = create(&folder.join("mapped"))?;
    file.write_all_at(&[b'.'; LENGTH], 0)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping, at an address that the kernel chooses.
    let at = unsafe { mmap(std::ptr::null_mut(), LENGTH, protection, MapFlags::SHARED, &file, 0) }?;
    // SAFETY: the mapping has `LENGTH` bytes until it is unmapped, and nobody else has it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), LENGTH) };
    ensure_eq!(bytes[0], b'.');
    bytes[4094..4098].copy_from_slice(b"both");
    // SAFETY: the mapping that was just made.
    unsafe { msync(at, LENGTH, MsyncFlags::SYNC) }?;
    let mut read = [0; 6];
    create_reader(folder, "mapped")?.read_exact_at(&mut read, 4093)?;
    ensure_eq!(&read, b".both.");
    // And what is written reaches the mapping.
    file.write_all_at(b"other", 100)?;
    ensure_eq!(&bytes[99..106], b".other.");
    // SAFETY: `bytes` is not used from here on.
    unsafe { munmap(at, LENGTH) }?;
    Ok(())
}

/// xattr(7), the part that users have.
fn attributes(folder: &Path) -> Result<()> {
    use rustix::fs::{getxattr, listxattr, removexattr, setxattr};
    let path = folder.join("file");
    fs::write(&path, "")?;
    let set = |value: &[u8], flags| setxattr(&path, c"user.mine", value, flags);
    ensure_eq!(set(b"value", XattrFlags::REPLACE), Err(Errno::NODATA));
    set(b"value", XattrFlags::CREATE)?;
    ensure_eq!(set(b"value", XattrFlags::CREATE), Err(Errno::EXIST));
    set(b"other", XattrFlags::REPLACE)?;
    let mut value = [0; 16];
    ensure_eq!(getxattr(&path, c"user.mine", &mut value[..]), Ok(5));
    ensure_eq!(&value[..5], b"other");
    ensure_eq!(getxattr(&path, c"user.mine", &mut value[..3]), Err(Errno::RANGE));
    // SAFETY: both names end, and no value is written where there is no room for one.
    let length =
        unsafe { libc::getxattr(c_path(&path)?.as_ptr(), c"user.mine".as_ptr(), std::ptr::null_mut(), 0) };
    ensure_eq!(length, 5, "the length alone");
    ensure_eq!(getxattr(&path, c"user.none", &mut value[..]), Err(Errno::NODATA));
    let mut names = [0; 256];
    let length = listxattr(&path, &mut names[..])?;
    ensure_eq!(&names[..length], b"user.mine\0");
    set(b"", XattrFlags::empty())?;
    ensure_eq!(getxattr(&path, c"user.mine", &mut value[..]), Ok(0));
    // A name may have 255 bytes, and more than 64 KiB are no value.
    let longest = format!("user.{}", "n".repeat(250));
    setxattr(&path, &longest, b"v", XattrFlags::empty())?;
    ensure_eq!(setxattr(&path, format!("{longest}n"), b"v", XattrFlags::empty()), Err(Errno::RANGE));
    ensure_eq!(set(&[0; (64 << 10) + 1], XattrFlags::empty()), Err(Errno::TOOBIG));
    removexattr(&path, c"user.mine")?;
    ensure_eq!(removexattr(&path, c"user.mine"), Err(Errno::NODATA));
    // Links have none (nor pipes and devices).
    symlink("file", folder.join("link"))?;
    ensure_eq!(
        rustix::fs::lsetxattr(folder.join("link"), c"user.a", b"v", XattrFlags::empty()),
        Err(Errno::PERM)
    );
    Ok(())
}

fn c_path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Access control lists of a file system that has none (acl(5)): who asks is told so, for files and for folders.
fn no_acls(folder: &Path) -> Result<()> {
    use rustix::fs::{getxattr, listxattr, removexattr, setxattr};
    let path = folder.join("file");
    fs::write(&path, "")?;
    // Version 2; the owner, user 999, the group, the mask, others.
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 6, 999), (4, 4, u32::MAX), (16, 6, u32::MAX), (32, 4, u32::MAX)]
    {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    let mut value = [0; 64];
    for name in [c"system.posix_acl_access", c"system.posix_acl_default"] {
        for path in [&path, folder] {
            ensure_eq!(setxattr(path, name, &list, XattrFlags::empty()), Err(Errno::OPNOTSUPP), "{name:?}");
            ensure_eq!(getxattr(path, name, &mut value[..]), Err(Errno::OPNOTSUPP), "{name:?}");
            ensure_eq!(removexattr(path, name), Err(Errno::OPNOTSUPP), "{name:?}");
        }
    }
    ensure_eq!(listxattr(&path, &mut value[..]), Ok(0));
    Ok(())
}

/// Appends lines of which none may be lost, whoever else appends at the same time.
fn append(folder: &Path) -> Result<()> {
    let mut file = OpenOptions::new().append(true).open(folder.join("log"))?;
    for number in 0..APPENDED {
        file.write_all(format!("guest {number}\n").as_bytes())?;
    }
    Ok(())
}

/// Lines that the probe `append` writes.
pub const APPENDED: usize = 2000;

/// Listens at a socket in the folder, and answers one caller.
fn serve(folder: &Path) -> Result<()> {
    let listener = UnixListener::bind(folder.join("socket")).context("listening at a socket")?;
    say(LISTENING)?;
    let (mut caller, _) = listener.accept()?;
    let mut word = [0; 4];
    caller.read_exact(&mut word)?;
    caller.write_all(&word.map(|byte| byte.to_ascii_uppercase()))?;
    Ok(())
}

/// Calls who listens there.
fn call(folder: &Path) -> Result<()> {
    let mut caller = UnixStream::connect(folder.join("socket")).context("connecting to a socket")?;
    caller.write_all(b"word")?;
    let mut word = [0; 4];
    caller.read_exact(&mut word)?;
    ensure_eq!(&word, b"WORD");
    Ok(())
}

enum Locked {
    Busy,
    Free,
}

impl std::fmt::Display for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Busy => "busy",
            Free => "free",
        })
    }
}

fn locks(folder: &Path) -> Result<[File; 2]> {
    let open = |name: &str| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(folder.join(name))
            .with_context(|| format!("opening {name}"))
    };
    Ok([open("flock")?, open("fcntl")?])
}

fn take(folder: &Path) -> Result<[File; 2]> {
    let [first, second] = locks(folder)?;
    flock(&first, FlockOperation::LockExclusive)?;
    fcntl_lock(&second, FlockOperation::LockExclusive)?;
    Ok([first, second])
}

/// Holds a lock of each kind until standard input ends.
fn hold(folder: &Path) -> Result<()> {
    let _locks = take(folder)?;
    say(HELD)?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Waits for both, if somebody has them.
fn await_locks(folder: &Path) -> Result<()> {
    say(WAITING)?;
    let _locks = take(folder)?;
    say(HELD)
}

/// Says whether somebody has them.
fn try_locks(folder: &Path) -> Result<()> {
    let [first, second] = locks(folder)?;
    let state = |result| match result {
        Ok(()) => Ok(Free),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(Busy),
        Err(error) => Err(error),
    };
    let first = state(flock(&first, FlockOperation::NonBlockingLockExclusive))?;
    let second = state(fcntl_lock(&second, FlockOperation::NonBlockingLockExclusive))?;
    say(&format!("flock {first}, fcntl {second}"))
}
