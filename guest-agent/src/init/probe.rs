//! What is on the data disk, and what may be done with it.
//!
//! The rule that matters: a disk is formatted only when it is provably empty or provably ours and
//! unfinished. Everything unknown is left alone and named.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// How much of the disk's start is looked at. File systems, partition tables and volume managers leave
/// their mark in the first 64 KiB; btrfs's first superblock starts right behind, so look further.
pub(crate) const START: usize = 1 << 20;
/// How much of its end: GPT's copy and some RAID superblocks are there.
pub(crate) const END: usize = 64 << 10;

/// Offset of ext4's superblock (kernel documentation, filesystems/ext4/super.rst).
pub(crate) const SUPERBLOCK_AT: usize = 1024;
const SUPERBLOCK_LEN: usize = 1024;
const EXT4_MAGIC: u16 = 0xef53;
/// `s_state`: unmounted cleanly; errors were seen.
const STATE_CLEAN: u16 = 1;
const STATE_ERRORS: u16 = 2;
/// `s_feature_incompat`: the journal holds transactions that are not in place yet.
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_64BIT: u32 = 0x80;

/// Stands at the disk's start while [`super::format`] writes the rest, in the kilobyte that ext4
/// leaves free. With it there, nothing was ever stored on the disk.
pub(crate) const FORMATTING: &[u8] = b"coracle: being formatted, holds nothing\n";

/// What may be done with a disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Empty, or our formatting was interrupted: may be formatted.
    Blank,
    Ext4(Superblock),
    /// Something else; what it looks like.
    Foreign(&'static str),
}

/// The part of ext4's superblock that decisions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    /// It was not unmounted cleanly, or errors were seen.
    pub(crate) needs_check: bool,
}

impl Superblock {
    /// The file system's size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }
}

/// Reads and judges a disk of `size` bytes.
pub(crate) fn probe(disk: &File, size: u64) -> io::Result<Finding> {
    let length = usize::try_from(size).unwrap_or(usize::MAX);
    // The common case is a disk in use; it is decided by the first blocks alone.
    let mut start = vec![0; length.min(SUPERBLOCK_AT + SUPERBLOCK_LEN)];
    disk.read_exact_at(&mut start, 0)?;
    if let Some(finding) = judge_known(&start) {
        return Ok(finding);
    }
    let mut start = vec![0; length.min(START)];
    disk.read_exact_at(&mut start, 0)?;
    let mut end = vec![0; length.min(END)];
    let end_at = size - end.len() as u64;
    disk.read_exact_at(&mut end, end_at)?;
    Ok(judge(&start, &end))
}

/// Judges by the disk's first [`START`] and last [`END`] bytes.
fn judge(start: &[u8], end: &[u8]) -> Finding {
    if let Some(finding) = judge_known(start) {
        return finding;
    }
    if start.iter().chain(end).all(|&byte| byte == 0) {
        return Finding::Blank;
    }
    Finding::Foreign(name_of(start).unwrap_or("data of an unknown kind"))
}

/// What the first blocks decide by themselves.
fn judge_known(start: &[u8]) -> Option<Finding> {
    if start.starts_with(FORMATTING) {
        return Some(Finding::Blank);
    }
    let superblock = start.get(SUPERBLOCK_AT..SUPERBLOCK_AT + SUPERBLOCK_LEN)?;
    if u16_at(superblock, 0x38)? != EXT4_MAGIC {
        return None;
    }
    let finding = parse_superblock(superblock).map(Finding::Ext4);
    Some(finding.unwrap_or(Finding::Foreign("an ext4 file system with a damaged superblock")))
}

fn parse_superblock(bytes: &[u8]) -> Option<Superblock> {
    let state = u16_at(bytes, 0x3a)?;
    let incompat = u32_at(bytes, 0x60)?;
    let high = if incompat & INCOMPAT_64BIT == 0 { 0 } else { u32_at(bytes, 0x150)? };
    let blocks = u64::from(high) << 32 | u64::from(u32_at(bytes, 0x4)?);
    // The kernel mounts blocks of 1 to 64 KiB.
    let block_size = 1024u64 << u32_at(bytes, 0x18).filter(|log| *log <= 6)?;
    Some(Superblock {
        block_size,
        blocks: Some(blocks).filter(|blocks| *blocks > 0)?,
        needs_check: state & STATE_CLEAN == 0
            || state & STATE_ERRORS != 0
            || incompat & INCOMPAT_RECOVER != 0,
    })
}

/// Names what people do put on disks, so that the message helps.
fn name_of(start: &[u8]) -> Option<&'static str> {
    const MARKS: &[(usize, &[u8], &str)] = &[
        (0, b"QFI\xfb", "a qcow2 image (the data disk must be a raw one)"),
        (0, b"XFSB", "an XFS file system"),
        (0, b"LUKS\xba\xbe", "a LUKS volume"),
        (0, b"hsqs", "a squashfs file system"),
        (512, b"EFI PART", "a GPT partition table"),
        (512, b"LABELONE", "an LVM physical volume"),
        (1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
        (4086, b"SWAPSPACE2", "swap space"),
        (0x10040, b"_BHRfS_M", "a btrfs file system"),
        (510, b"\x55\xaa", "a partition table or a FAT file system"),
    ];
    MARKS
        .iter()
        .find(|(at, mark, _)| start.get(*at..).is_some_and(|from| from.starts_with(mark)))
        .map(|(_, _, name)| *name)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blank() -> (Vec<u8>, Vec<u8>) {
        (vec![0; START], vec![0; END])
    }

    fn ext4(state: u16, incompat: u32) -> Vec<u8> {
        let mut start = vec![0; START];
        let superblock = &mut start[SUPERBLOCK_AT..];
        superblock[0x4..0x8].copy_from_slice(&0x1000u32.to_le_bytes());
        superblock[0x18..0x1c].copy_from_slice(&2u32.to_le_bytes());
        superblock[0x38..0x3a].copy_from_slice(&EXT4_MAGIC.to_le_bytes());
        superblock[0x3a..0x3c].copy_from_slice(&state.to_le_bytes());
        superblock[0x60..0x64].copy_from_slice(&incompat.to_le_bytes());
        superblock[0x150..0x154].copy_from_slice(&1u32.to_le_bytes());
        start
    }

    #[test]
    fn only_zeroes_are_blank() {
        let (start, end) = blank();
        assert_eq!(judge(&start, &end), Finding::Blank);
        for at in [0, 511, 1080, 65_536, START - 1] {
            let (mut start, end) = blank();
            start[at] = 1;
            assert_eq!(judge(&start, &end), Finding::Foreign("data of an unknown kind"), "byte {at}");
        }
        let (start, mut end) = blank();
        end[END - 1] = 1;
        assert_eq!(judge(&start, &end), Finding::Foreign("data of an unknown kind"));
    }

    #[test]
    fn an_interrupted_formatting_is_blank_whatever_else_was_written() {
        let mut start = ext4(STATE_CLEAN, 0);
        start[..FORMATTING.len()].copy_from_slice(FORMATTING);
        assert_eq!(judge(&start, &[1; END]), Finding::Blank);
    }

    #[test]
    fn ext4_needs_a_check_unless_it_was_unmounted_cleanly() {
        for (state, incompat, needs_check) in [
            (STATE_CLEAN, 0x2c2, false),
            (STATE_CLEAN, 0x2c2 | INCOMPAT_RECOVER, true),
            (STATE_CLEAN | STATE_ERRORS, 0x2c2, true),
            (0, 0x2c2, true),
        ] {
            let Finding::Ext4(superblock) = judge(&ext4(state, incompat), &[0; END]) else {
                panic!("not ext4")
            };
            assert_eq!(superblock.needs_check, needs_check, "state {state}, features {incompat:#x}");
            assert_eq!(superblock.block_size, 4096);
            assert_eq!(superblock.blocks, 0x1_0000_1000);
        }
    }

    #[test]
    fn without_the_64bit_feature_the_high_half_of_the_size_means_nothing() {
        let Finding::Ext4(superblock) = judge(&ext4(STATE_CLEAN, 0x42), &[0; END]) else {
            panic!("not ext4")
        };
        assert_eq!(superblock.blocks, 0x1000);
    }

    #[test]
    fn a_damaged_superblock_is_refused_not_formatted() {
        let mut start = ext4(STATE_CLEAN, 0);
        start[SUPERBLOCK_AT + 0x18] = 200;
        assert_eq!(
            judge(&start, &[0; END]),
            Finding::Foreign("an ext4 file system with a damaged superblock")
        );
    }

    #[test]
    fn foreign_data_is_named() {
        let (mut start, end) = blank();
        start[0x10040..0x10048].copy_from_slice(b"_BHRfS_M");
        assert_eq!(judge(&start, &end), Finding::Foreign("a btrfs file system"));
        let (mut start, end) = blank();
        start[..4].copy_from_slice(b"QFI\xfb");
        assert!(matches!(judge(&start, &end), Finding::Foreign(name) if name.contains("qcow2")));
    }

    #[test]
    fn tiny_disks_are_judged_too() {
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(512).unwrap();
        assert_eq!(probe(&disk, 512).unwrap(), Finding::Blank);
        disk.write_all_at(b"x", 511).unwrap();
        assert_eq!(probe(&disk, 512).unwrap(), Finding::Foreign("data of an unknown kind"));
    }
}
