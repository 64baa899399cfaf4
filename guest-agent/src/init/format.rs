//! Formatting the data disk so that a crash at any instant leaves it either formatted or known to be
//! ours and empty.
//!
//! mke2fs writes the disk's parts in its own order and wipes the first sector before it starts, so an
//! interrupted run is indistinguishable from a damaged foreign disk. Therefore mke2fs formats a sparse
//! file in memory (a few megabytes for any usual disk size), and its blocks are copied: first
//! `FORMATTING` to the disk's start, then everything else, and last the first block, which holds the
//! superblock and no longer the mark.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::probe::FORMATTING;
use super::reaper::{Children, Exit};
use super::tools;
use super::waiting::PowerRequest;

/// ext4's block size, which is also the unit in which the superblock replaces the mark.
const BLOCK: u64 = 4096;

/// The journal's size in MiB. mke2fs would take 256 for a 60 GB disk; the host stores what the journal
/// has once gone round, and developers' work does not need more.
const JOURNAL_MIB: u32 = 64;

/// Formats `disk` (of `size` bytes), using a scratch file in the memory file system at `scratch`.
pub(crate) fn format(
    children: &Children,
    power: &PowerRequest,
    disk: &File,
    size: u64,
    scratch: &Path,
) -> Result<()> {
    let image = scratch.join("format.ext4");
    let made = make_image(children, power, &image, size / BLOCK * BLOCK);
    let copied = made.and_then(|image| copy(&image, disk).context("cannot write to the disk"));
    // Memory; it must not outlive this function, whatever happened.
    if let Err(error) = fs::remove_file(&image)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", image.display());
    }
    copied
}

fn make_image(children: &Children, power: &PowerRequest, at: &Path, size: u64) -> Result<File> {
    let image = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(at)
        .with_context(|| format!("cannot create {}", at.display()))?;
    image.set_len(size)?;
    let mut mkfs = tools::command("mkfs.ext4");
    mkfs.args(["-q", "-F", "-b", &BLOCK.to_string(), "-L", "coracle-data"])
        // Containers run as root, whom a reserve would not stop.
        .args(["-m", "0"])
        .args(["-J", &format!("size={JOURNAL_MIB}")])
        .args(["-O", "metadata_csum,64bit,extent,flex_bg,dir_index,resize_inode"])
        // A blank disk reads as zeroes. Saying so spares the kernel from zeroing a gigabyte of inode
        // tables in the background, and the host from storing it.
        .args(["-E", "assume_storage_prezeroed=1,nodiscard"])
        .arg(at);
    let outcome = tools::run(children, power, mkfs)?;
    if outcome.exit != Exit::Code(0) {
        bail!("mkfs.ext4 ended with {}: {}", outcome.exit, outcome.output);
    }
    Ok(image)
}

/// Copies the image's data to the disk in the order that keeps every intermediate state recognisable.
fn copy(image: &File, disk: &File) -> io::Result<()> {
    disk.write_all_at(FORMATTING, 0)?;
    disk.sync_all()?;
    let mut buffer = vec![0; 256 * 1024];
    let end = image.metadata()?.len();
    let mut at = BLOCK;
    while let Some(from) = next(image, SeekFrom::Data(at))? {
        let to = next(image, SeekFrom::Hole(from))?.unwrap_or(end);
        at = from;
        while at < to {
            let length = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
            image.read_exact_at(&mut buffer[..length], at)?;
            disk.write_all_at(&buffer[..length], at)?;
            at += length as u64;
        }
    }
    disk.sync_all()?;
    let mut first = [0; BLOCK as usize];
    image.read_exact_at(&mut first, 0)?;
    disk.write_all_at(&first, 0)?;
    disk.sync_all()
}

fn next(image: &File, position: SeekFrom) -> io::Result<Option<u64>> {
    match seek(image, position) {
        Ok(at) => Ok(Some(at)),
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::probe::{Finding, probe};
    use super::super::testing::{isolated, with_reaper};
    use super::*;

    const SIZE: u64 = 8 << 30;

    fn new_disk(dir: &Path) -> File {
        let disk = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.join("disk.raw"))
            .unwrap();
        disk.set_len(SIZE).unwrap();
        disk
    }

    #[test]
    fn a_formatted_disk_is_sound_and_small_on_the_host() {
        isolated("init::format::tests::a_formatted_disk_is_sound_and_small_on_the_host", || {
            with_reaper(|children| {
                use std::os::unix::fs::MetadataExt;
                let dir = tempfile::tempdir().unwrap();
                let disk = new_disk(dir.path());
                let power = PowerRequest::new().unwrap();
                format(children, &power, &disk, SIZE, dir.path()).unwrap();
                let Finding::Ext4(superblock) = probe(&disk, SIZE).unwrap() else { panic!("not ext4") };
                assert_eq!(superblock.bytes(), SIZE);
                assert!(!superblock.needs_check);
                let stored = disk.metadata().unwrap().blocks() * 512;
                assert!(stored < 8 << 20, "{stored} bytes stored for an empty file system");
                let mut check = tools::command("e2fsck");
                check.args(["-f", "-n"]).arg(dir.path().join("disk.raw"));
                let outcome = tools::run(children, &power, check).unwrap();
                assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.output);
                assert!(!dir.path().join("format.ext4").exists());
            });
        });
    }

    #[test]
    fn an_interrupted_copy_leaves_a_disk_that_may_be_formatted_again() {
        // In a process of its own because of the file size limit.
        isolated(
            "init::format::tests::an_interrupted_copy_leaves_a_disk_that_may_be_formatted_again",
            || {
                let dir = tempfile::tempdir().unwrap();
                let image = dir.path().join("image");
                File::create(&image).unwrap().set_len(SIZE).unwrap();
                let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap();
                assert!(made.success());
                let disk = new_disk(dir.path());
                let image = File::open(&image).unwrap();
                limit_file_size(SIZE / 2, || {
                    assert_eq!(copy(&image, &disk).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
                });
                let mut behind_the_mark = [0; 1];
                disk.read_exact_at(&mut behind_the_mark, BLOCK).unwrap();
                assert_ne!(behind_the_mark, [0], "the copy had begun");
                assert_eq!(probe(&disk, SIZE).unwrap(), Finding::Blank);
                copy(&image, &disk).unwrap();
                assert!(matches!(probe(&disk, SIZE).unwrap(), Finding::Ext4(_)));
            },
        );
    }

    /// Runs `body` where no file can grow beyond `bytes`, nor be written there.
    fn limit_file_size(bytes: u64, body: impl FnOnce()) {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let before = getrlimit(Resource::Fsize);
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        setrlimit(Resource::Fsize, Rlimit { current: Some(bytes), maximum: before.maximum }).unwrap();
        body();
        setrlimit(Resource::Fsize, before).unwrap();
    }
}
