//! Guest memory as the devices see it.
//!
//! The guest changes its memory while we read it, so no Rust reference is ever made to it. Devices handle [`GuestBuffer`]s:
//! bounds-checked ranges that are copied from and to, or handed to the kernel as `iovec`s.

use std::marker::PhantomData;
use std::ptr;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{GuestAddress, GuestMemory as _, GuestMemoryError, GuestMemoryMmap};

/// All memory of a guest.
///
/// The dirty bitmap is never allocated: no transport of ours offers migration. The type parameter is there because a
/// file server that runs on this memory (virtiofsd) fixes its readers and writers to this very type.
pub type GuestMemory = GuestMemoryMmap<BitmapMmapRegion>;

/// One contiguous piece of guest memory, in the layout of `struct iovec`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct GuestSlice<'m> {
    iovec: libc::iovec,
    memory: PhantomData<&'m GuestMemory>,
}

impl GuestSlice<'_> {
    fn len(&self) -> usize {
        self.iovec.iov_len
    }

    /// The part that starts `offset` bytes in and is at most `len` long; both are clamped to this slice.
    fn part(&self, offset: usize, len: usize) -> Self {
        let offset = offset.min(self.len());
        GuestSlice {
            iovec: libc::iovec {
                // Stays inside the slice (or one past its end, with length 0).
                iov_base: self.iovec.iov_base.cast::<u8>().wrapping_add(offset).cast(),
                iov_len: len.min(self.len() - offset),
            },
            memory: PhantomData,
        }
    }
}

/// A run of bytes in guest memory, scattered over any number of pieces.
///
/// Every piece was checked against the memory map when it was added, and `'m` keeps the mapping alive.
#[derive(Clone, Default)]
pub struct GuestBuffer<'m> {
    slices: Vec<GuestSlice<'m>>,
    len: usize,
}

impl<'m> GuestBuffer<'m> {
    /// Adds `len` bytes at `address`. Fails, adding nothing, if they are not all guest memory.
    pub fn push(
        &mut self,
        memory: &'m GuestMemory,
        address: GuestAddress,
        len: usize,
    ) -> Result<(), GuestMemoryError> {
        let before = self.slices.len();
        for slice in memory.get_slices(address, len) {
            match slice {
                Ok(slice) => self.slices.push(GuestSlice {
                    iovec: libc::iovec {
                        iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                        iov_len: slice.len(),
                    },
                    memory: PhantomData,
                }),
                Err(error) => {
                    self.slices.truncate(before);
                    return Err(error);
                }
            }
        }
        self.len = self.len.saturating_add(len);
        Ok(())
    }

    /// Bytes in the buffer.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the buffer holds no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces, for system calls that take an `iovec` array.
    pub fn slices(&self) -> &[GuestSlice<'m>] {
        &self.slices
    }

    /// The part that starts `offset` bytes in and is at most `len` long; both are clamped to this buffer.
    pub fn part(&self, offset: usize, len: usize) -> GuestBuffer<'m> {
        let mut part = GuestBuffer::default();
        part.extend_from(self, offset, len);
        part
    }

    /// Appends the part of `other` that starts `offset` bytes in and is at most `len` long.
    pub fn extend_from(&mut self, other: &GuestBuffer<'m>, mut offset: usize, mut len: usize) {
        for slice in &other.slices {
            if len == 0 {
                break;
            }
            if offset >= slice.len() {
                offset -= slice.len();
                continue;
            }
            let piece = slice.part(offset, len);
            offset = 0;
            len -= piece.len();
            self.len = self.len.saturating_add(piece.len());
            self.slices.push(piece);
        }
    }

    /// Copies guest bytes from the start of the buffer into `target`; returns how many there were to copy.
    pub fn copy_to(&self, target: &mut [u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let count = slice.len().min(target.len() - done);
            if count == 0 && done == target.len() {
                break;
            }
            // SAFETY: the source is `count` mapped bytes of guest memory (checked by `push`, kept alive by 'm), the
            // target is `count` bytes of an exclusive slice. They cannot overlap. The guest may change the source
            // meanwhile: we then copy a mix of old and new bytes, which are bytes all the same.
            unsafe {
                ptr::copy_nonoverlapping(
                    slice.iovec.iov_base.cast::<u8>(),
                    target.as_mut_ptr().add(done),
                    count,
                )
            };
            done += count;
        }
        done
    }

    /// Copies `source` to the start of the buffer; returns how many bytes fitted.
    pub fn copy_from(&self, source: &[u8]) -> usize {
        let mut done = 0;
        for slice in &self.slices {
            let count = slice.len().min(source.len() - done);
            if count == 0 && done == source.len() {
                break;
            }
            // SAFETY: the target is `count` mapped, writable bytes of guest memory (checked by `push`, kept alive by
            // 'm); the source is `count` bytes of a slice of ours, which guest memory never overlaps. No reference to
            // the target exists anywhere.
            unsafe {
                ptr::copy_nonoverlapping(source.as_ptr().add(done), slice.iovec.iov_base.cast::<u8>(), count)
            };
            done += count;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    /// Two adjacent regions, so that a range can span both.
    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0x1000), 0x1000), (GuestAddress(0x2000), 0x1000)]).unwrap()
    }

    #[test]
    fn a_range_over_two_regions_is_one_buffer() {
        let memory = memory();
        let mut buffer = GuestBuffer::default();
        buffer.push(&memory, GuestAddress(0x1ffc), 8).unwrap();
        assert_eq!((buffer.len(), buffer.slices().len()), (8, 2));
        assert_eq!(buffer.copy_from(b"abcdefgh__"), 8);
        let mut seen = [0; 8];
        memory.read_slice(&mut seen, GuestAddress(0x1ffc)).unwrap();
        assert_eq!(&seen, b"abcdefgh");
    }

    #[test]
    fn a_range_outside_memory_is_refused_and_adds_nothing() {
        let memory = memory();
        let mut buffer = GuestBuffer::default();
        for (address, len) in [(0x2ffc, 8), (0x0, 1), (0x3000, 1), (u64::MAX - 2, 8), (0x1000, usize::MAX)] {
            assert!(buffer.push(&memory, GuestAddress(address), len).is_err(), "{address:#x}+{len}");
        }
        assert_eq!((buffer.len(), buffer.slices().len()), (0, 0));
    }

    #[test]
    fn parts_are_clamped_and_keep_order() {
        let memory = memory();
        memory.write_slice(b"0123456789", GuestAddress(0x1000)).unwrap();
        let mut buffer = GuestBuffer::default();
        buffer.push(&memory, GuestAddress(0x1000), 4).unwrap();
        buffer.push(&memory, GuestAddress(0x1004), 0).unwrap();
        buffer.push(&memory, GuestAddress(0x1004), 6).unwrap();
        let mut seen = [0; 16];
        let part = buffer.part(2, 5);
        assert_eq!(part.len(), 5);
        assert_eq!(part.copy_to(&mut seen), 5);
        assert_eq!(&seen[..5], b"23456");
        assert_eq!(buffer.part(8, 100).len(), 2);
        assert!(buffer.part(10, 1).is_empty());
        assert_eq!(buffer.copy_to(&mut seen[..3]), 3);
        assert_eq!(&seen[..3], b"012");
    }
}
