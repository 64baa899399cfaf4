//! A raw disk image: a sparse file, or a block device, that one machine at a time may write.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};
use rustix::io::Errno;

use crate::memory::GuestBuffer;
use crate::sys;

/// Bytes in a sector, the unit of all addresses of a virtio disk whatever its block size.
pub const SECTOR: u64 = 512;

/// Zeroes that are written where a file system cannot zero a range by itself.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Why an image cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot open disk image {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("disk image {} is in use by another machine", path.display())]
    Locked { path: PathBuf },
    #[error("cannot lock disk image {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("disk image {} is smaller than one sector ({bytes} bytes)", path.display())]
    TooSmall { path: PathBuf, bytes: u64 },
    #[error("sector {sector} + {bytes} bytes is no range of whole sectors on a disk of {sectors}")]
    OutOfRange { sector: u64, bytes: u64, sectors: u64 },
    #[error("the disk is read-only")]
    ReadOnly,
    #[error("cannot {what} {bytes} bytes at sector {sector}")]
    Io { what: &'static str, sector: u64, bytes: u64, source: io::Error },
}

/// An open, locked image.
///
/// The lock is on the open file (flock(2)): shared for read-only use, exclusive for the rest, gone with the process
/// however it ends.
pub struct Image {
    file: File,
    path: PathBuf,
    sectors: u64,
    read_only: bool,
}

impl Image {
    /// Opens and locks an image. Its size is taken now; a trailing part of a sector is out of reach.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, ImageError> {
        let path = path.to_path_buf();
        let opened = OpenOptions::new().read(true).write(!read_only).open(&path);
        let mut file = match opened {
            Ok(file) => file,
            Err(source) => return Err(ImageError::Open { path, source }),
        };
        let lock = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        match flock(&file, lock) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(ImageError::Locked { path }),
            Err(error) => return Err(ImageError::Lock { path, source: error.into() }),
        }
        // Not the metadata's length, which is 0 for a block device.
        let bytes = match file.seek(SeekFrom::End(0)) {
            Ok(bytes) => bytes,
            Err(source) => return Err(ImageError::Open { path, source }),
        };
        if bytes < SECTOR {
            return Err(ImageError::TooSmall { path, bytes });
        }
        Ok(Image { file, path, sectors: bytes / SECTOR, read_only })
    }

    /// Where the image lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in sectors.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether the guest may change it.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Fills `data` from `sector` on.
    pub fn read(&self, sector: u64, data: &GuestBuffer<'_>) -> Result<(), ImageError> {
        let (offset, bytes) = self.range(sector, data.len())?;
        sys::read_exact_at(self.file.as_fd(), data, offset).map_err(io_error("read", sector, bytes))
    }

    /// Writes `data` from `sector` on.
    pub fn write(&self, sector: u64, data: &GuestBuffer<'_>) -> Result<(), ImageError> {
        let (offset, bytes) = self.writable_range(sector, data.len())?;
        sys::write_all_at(self.file.as_fd(), data, offset).map_err(io_error("write", sector, bytes))
    }

    /// Returns once all earlier writes are on stable storage.
    pub fn flush(&self) -> Result<(), ImageError> {
        // A read-only disk may be flushed: there is nothing to do.
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data().map_err(io_error("flush", 0, 0))
    }

    /// Gives the blocks of `sectors` back to the host where it can take them; what they read as is undefined.
    pub fn discard(&self, sector: u64, sectors: u64) -> Result<(), ImageError> {
        let (offset, bytes) = self.sector_range(sector, sectors)?;
        match punch_hole(&self.file, offset, bytes) {
            // Discarding is advice.
            Err(Errno::OPNOTSUPP) => Ok(()),
            result => result.map_err(|error| io_error("discard", sector, bytes)(error.into())),
        }
    }

    /// Makes `sectors` read as zeroes; `unmap` allows to give their blocks back to the host.
    pub fn zero(&self, sector: u64, sectors: u64, unmap: bool) -> Result<(), ImageError> {
        let (offset, bytes) = self.sector_range(sector, sectors)?;
        if bytes == 0 {
            return Ok(());
        }
        let zeroed = if unmap {
            punch_hole(&self.file, offset, bytes)
        } else {
            fallocate(&self.file, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, offset, bytes)
        };
        let result = match zeroed {
            Err(Errno::OPNOTSUPP) => write_zeroes(&self.file, offset, bytes),
            result => result.map_err(io::Error::from),
        };
        result.map_err(io_error("zero", sector, bytes))
    }

    /// Byte offset and length of a transfer, if it is whole sectors inside the disk.
    fn range(&self, sector: u64, len: usize) -> Result<(u64, u64), ImageError> {
        let bytes = u64::try_from(len).unwrap_or(u64::MAX);
        let out_of_range = ImageError::OutOfRange { sector, bytes, sectors: self.sectors };
        let Some(end) = sector.checked_add(bytes / SECTOR) else {
            return Err(out_of_range);
        };
        if !bytes.is_multiple_of(SECTOR) || end > self.sectors {
            return Err(out_of_range);
        }
        // `end` is at most the file's size in sectors, so the product fits.
        Ok((sector * SECTOR, bytes))
    }

    fn writable_range(&self, sector: u64, len: usize) -> Result<(u64, u64), ImageError> {
        if self.read_only { Err(ImageError::ReadOnly) } else { self.range(sector, len) }
    }

    fn sector_range(&self, sector: u64, sectors: u64) -> Result<(u64, u64), ImageError> {
        let len =
            sectors.checked_mul(SECTOR).and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX);
        self.writable_range(sector, len)
    }
}

fn io_error(what: &'static str, sector: u64, bytes: u64) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { what, sector, bytes, source }
}

fn punch_hole(file: &File, offset: u64, bytes: u64) -> Result<(), Errno> {
    // The kernel refuses empty ranges.
    if bytes == 0 {
        return Ok(());
    }
    fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes)
}

fn write_zeroes(file: &File, mut offset: u64, mut bytes: u64) -> io::Result<()> {
    while bytes > 0 {
        let piece = &ZEROES[..usize::try_from(bytes).unwrap_or(usize::MAX).min(ZEROES.len())];
        file.write_all_at(piece, offset)?;
        let done = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        offset += done;
        bytes -= done;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image_file(bytes: u64) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(bytes).unwrap();
        file
    }

    #[test]
    fn one_writer_or_many_readers() {
        let file = image_file(4096);
        let writer = Image::open(file.path(), false).unwrap();
        for read_only in [false, true] {
            let second = Image::open(file.path(), read_only);
            assert!(matches!(second, Err(ImageError::Locked { .. })));
        }
        drop(writer);
        let _reader = Image::open(file.path(), true).unwrap();
        let _other_reader = Image::open(file.path(), true).unwrap();
        assert!(matches!(Image::open(file.path(), false), Err(ImageError::Locked { .. })));
    }

    #[test]
    fn unusable_files_are_named_in_the_error() {
        let empty = image_file(511);
        assert!(matches!(Image::open(empty.path(), true), Err(ImageError::TooSmall { bytes: 511, .. })));
        let Err(error) = Image::open(Path::new("/nonexistent/disk.raw"), true) else {
            panic!("a missing file was opened");
        };
        assert_eq!(error.to_string(), "cannot open disk image /nonexistent/disk.raw");
        assert!(Image::open(Path::new("/tmp"), false).is_err(), "a directory is no disk");
    }

    #[test]
    fn zeroes_are_written_where_ranges_cannot_be_zeroed() {
        let file = image_file(256 << 10);
        file.as_file().write_all_at(&[1; 256 << 10], 0).unwrap();
        write_zeroes(file.as_file(), 100, 200 << 10).unwrap();
        let mut seen = vec![0; 256 << 10];
        file.as_file().read_exact_at(&mut seen, 0).unwrap();
        let end = 100 + (200 << 10);
        assert!(seen[..100].iter().chain(&seen[end..]).all(|&byte| byte == 1));
        assert!(seen[100..end].iter().all(|&byte| byte == 0));
    }
}
