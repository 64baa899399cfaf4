//! The block device (section 5.2): one queue of requests on a raw disk image.
//!
//! The device is a write-back cache as far as the guest is concerned: a write is done when the host's page cache has
//! it, and survives a crash of the host only after a flush. A crash of this process or of the guest loses nothing that
//! was written.
//!
//! * `image`: the file: exclusive, sparse, bounds-checked.
//! * `request`: what a descriptor chain asks for.

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

pub use self::image::{Image, ImageError};
use self::request::{Operation, Request, Unserved, ZeroRange};
use crate::devices::virtio::{Chain, DeviceError, Progress, QUEUE_SIZE, VirtQueue, VirtioDevice};
use crate::memory::GuestBuffer;

pub mod image;
mod request;

/// Segments in one request: 1 MiB in pages.
const MAX_SEGMENTS: u32 = 256;

/// Length of the serial number that VIRTIO_BLK_T_GET_ID returns.
pub const ID_BYTES: usize = 20;

/// Requests served before the guest hears of them and other descriptors of the event loop have their turn.
const BATCH: usize = 32;

/// The longest range of one discard or zeroing segment, in sectors: 2 GiB.
const MAX_RANGE_SECTORS: u32 = 1 << 22;

/// Length of `struct virtio_blk_config` up to and including `write_zeroes_may_unmap` and its padding.
const CONFIG_BYTES: usize = 60;

/// A disk.
pub struct Blk {
    image: Image,
    id: [u8; ID_BYTES],
    config: [u8; CONFIG_BYTES],
    name: String,
    failures: u64,
}

impl Blk {
    /// The device type of section 5.
    pub const ID: u32 = VIRTIO_ID_BLOCK;

    /// The `index`-th disk of the machine. The guest reads `id` as its serial number, cut to [`ID_BYTES`].
    pub fn new(index: usize, image: Image, id: &str) -> Self {
        let mut padded = [0; ID_BYTES];
        for (target, byte) in padded.iter_mut().zip(id.bytes()) {
            *target = byte;
        }
        let config = config(&image);
        Blk { image, id: padded, config, name: format!("blk{index}"), failures: 0 }
    }

    /// Serves one request; returns how many bytes of the chain were written to, status included.
    fn serve(&mut self, chain: &Chain<'_>) -> u32 {
        let Some((data, status)) = request::split_status(chain) else {
            // No room for a status: there is nothing to tell the driver.
            return 0;
        };
        let (written, code) = match self.execute(&chain.readable, &data) {
            Ok(written) => (written, VIRTIO_BLK_S_OK),
            Err(Unserved::Unsupported { kind }) => {
                tracing::debug!(device = %self.name, kind, "request of an unknown kind");
                (0, VIRTIO_BLK_S_UNSUPP)
            }
            Err(error) => {
                self.report(&error);
                (0, VIRTIO_BLK_S_IOERR)
            }
        };
        status.copy_from(&[u8::try_from(code).unwrap_or(u8::MAX)]);
        // The driver may read the whole writable part, so it counts as written up to the status byte.
        let len = if code == VIRTIO_BLK_S_OK { written } else { data.len() };
        u32::try_from(len).unwrap_or(u32::MAX - 1) + 1
    }

    /// Does what the request asks; returns how many bytes of `data` were filled.
    fn execute(&mut self, readable: &GuestBuffer<'_>, data: &GuestBuffer<'_>) -> Result<usize, Unserved> {
        let Request { operation, sector } = Request::parse(readable)?;
        match operation {
            Operation::Read => {
                self.image.read(sector, data)?;
                Ok(data.len())
            }
            Operation::Write { data } => {
                self.image.write(sector, &data)?;
                Ok(0)
            }
            Operation::Flush => {
                self.image.flush()?;
                Ok(0)
            }
            Operation::GetId => Ok(data.copy_from(&self.id)),
            Operation::Discard { ranges } => {
                for ZeroRange { sector, sectors, .. } in ranges {
                    self.image.discard(sector, within_limit(sectors)?)?;
                }
                Ok(0)
            }
            Operation::WriteZeroes { ranges } => {
                for ZeroRange { sector, sectors, unmap } in ranges {
                    self.image.zero(sector, within_limit(sectors)?, unmap)?;
                }
                Ok(0)
            }
        }
    }

    /// Logs a failed request, ever more rarely: a guest can make as many as it likes.
    fn report(&mut self, error: &Unserved) {
        self.failures += 1;
        if self.failures.is_power_of_two() {
            tracing::warn!(
                device = %self.name,
                image = %self.image.path().display(),
                failures = self.failures,
                error = error as &dyn std::error::Error,
                "disk request failed"
            );
        }
    }
}

fn within_limit(sectors: u32) -> Result<u64, Unserved> {
    if sectors > MAX_RANGE_SECTORS { Err(Unserved::Malformed) } else { Ok(sectors.into()) }
}

/// The configuration space of section 5.2.4.
fn config(image: &Image) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &image.sectors().to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes()); // seg_max
    put(20, &512_u32.to_le_bytes()); // blk_size
    put(24, &[3, 0]); // topology: 2^3 logical blocks in a physical one, aligned
    put(26, &8_u16.to_le_bytes()); // topology: min_io_size, in logical blocks
    put(32, &[1]); // writeback
    put(34, &1_u16.to_le_bytes()); // num_queues
    put(36, &MAX_RANGE_SECTORS.to_le_bytes()); // max_discard_sectors
    put(40, &request::MAX_RANGES.to_le_bytes()); // max_discard_seg
    put(44, &8_u32.to_le_bytes()); // discard_sector_alignment
    put(48, &MAX_RANGE_SECTORS.to_le_bytes()); // max_write_zeroes_sectors
    put(52, &request::MAX_RANGES.to_le_bytes()); // max_write_zeroes_seg
    put(56, &[1]); // write_zeroes_may_unmap
    config
}

impl VirtioDevice for Blk {
    fn name(&self) -> &str {
        &self.name
    }

    fn features(&self) -> u64 {
        let mut bits =
            vec![VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_FLUSH];
        if self.image.read_only() {
            bits.push(VIRTIO_BLK_F_RO);
        } else {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        bits.into_iter().fold(0, |features, bit| features | 1 << bit)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn process(&mut self, queues: &mut [VirtQueue<'_>]) -> Result<Progress, DeviceError> {
        let [queue] = queues else {
            return Ok(Progress::Idle);
        };
        queue.drain(BATCH, |queue| {
            let Some(chain) = queue.pop()? else {
                return Ok(false);
            };
            let written = self.serve(&chain);
            queue.push_used(chain.head, written)?;
            Ok(true)
        })
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::os::unix::fs::MetadataExt as _;

    use virtio_bindings::virtio_blk::{
        VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_WRITE_ZEROES,
    };

    use super::image::SECTOR;
    use super::*;
    use crate::devices::virtio::queue::testing::{Driver, READ, WRITE, memory};
    use crate::memory::GuestMemory;

    const HEADER: u64 = 0x10_0000;
    const DATA: u64 = 0x20_0000;
    const STATUS: u64 = 0x30_0000;
    const DISK_BYTES: u64 = 1 << 20;

    struct Bench<'m> {
        driver: Driver<'m>,
        blk: Blk,
        file: std::fs::File,
        _file_on_disk: tempfile::NamedTempFile,
    }

    impl<'m> Bench<'m> {
        fn new(memory: &'m GuestMemory, read_only: bool) -> Self {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(DISK_BYTES).unwrap();
            let image = Image::open(file.path(), read_only).unwrap();
            Bench {
                driver: Driver::new(memory, 0x1000, 16),
                blk: Blk::new(0, image, "serial-7"),
                file: file.reopen().unwrap(),
                _file_on_disk: file,
            }
        }

        /// Sends one request; returns its status and the used length.
        fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
            self.driver.write(HEADER, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
            self.driver.write(STATUS, &[0xaa]);
            let mut chain = vec![(HEADER, 16, READ)];
            chain.extend(data);
            chain.push((STATUS, 1, WRITE));
            self.driver.add_chain(&chain);
            self.blk.process(&mut [self.driver.as_queue(0)]).unwrap();
            let used = self.driver.take_used();
            assert_eq!(used.len(), 1);
            (self.driver.read(STATUS, 1)[0], used[0].1)
        }

        fn ranges(&mut self, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
            let bytes: Vec<u8> = ranges
                .iter()
                .flat_map(|(sector, count, flags)| {
                    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
                })
                .collect();
            self.driver.write(DATA, &bytes);
            self.request(kind, 0, &[(DATA, u32::try_from(bytes.len()).unwrap(), READ)]).0
        }
    }

    #[test]
    fn what_is_written_is_read_back_through_scattered_buffers() {
        let memory = memory();
        let mut bench = Bench::new(&memory, false);
        let pattern: Vec<u8> = (0..1024_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        bench.driver.write(DATA, &pattern);
        // The pieces need not be whole sectors, only their sum.
        let status = bench.request(VIRTIO_BLK_T_OUT, 3, &[(DATA, 100, READ), (DATA + 100, 924, READ)]);
        assert_eq!(status, (0, 1));
        let mut on_disk = vec![0; 1024];
        bench.file.read_exact_at(&mut on_disk, 3 * 512).unwrap();
        assert_eq!(on_disk, pattern);
        let status =
            bench.request(VIRTIO_BLK_T_IN, 3, &[(DATA + 4096, 1000, WRITE), (DATA + 8192, 24, WRITE)]);
        assert_eq!(status, (0, 1025));
        assert_eq!(
            [bench.driver.read(DATA + 4096, 1000), bench.driver.read(DATA + 8192, 24)].concat(),
            pattern
        );
        assert_eq!(bench.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (0, 1));
    }

    #[test]
    fn the_last_sector_is_inside_and_everything_beyond_is_refused() {
        let memory = memory();
        let mut bench = Bench::new(&memory, false);
        let last = DISK_BYTES / 512 - 1;
        for (kind, flags) in [(VIRTIO_BLK_T_OUT, READ), (VIRTIO_BLK_T_IN, WRITE)] {
            assert_eq!(bench.request(kind, last, &[(DATA, 512, flags)]).0, 0);
            for (sector, len) in
                [(last, 1024), (last + 1, 512), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511)]
            {
                assert_eq!(bench.request(kind, sector, &[(DATA, len, flags)]).0, 1, "{sector}+{len}");
            }
        }
        assert_eq!(bench.file.metadata().unwrap().len(), DISK_BYTES, "the image never grows");
    }

    #[test]
    fn a_read_only_disk_refuses_to_change() {
        let memory = memory();
        let mut bench = Bench::new(&memory, true);
        assert_ne!(bench.blk.features() & (1 << VIRTIO_BLK_F_RO), 0);
        assert_eq!(bench.blk.features() & (1 << VIRTIO_BLK_F_DISCARD), 0);
        bench.driver.write(DATA, &[7; 512]);
        assert_eq!(bench.request(VIRTIO_BLK_T_OUT, 0, &[(DATA, 512, READ)]).0, 1);
        assert_eq!(bench.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)]), 1);
        assert_eq!(bench.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)]), 1);
        assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[(DATA, 512, WRITE)]).0, 0);
        assert_eq!(bench.driver.read(DATA, 512), [0; 512]);
    }

    #[test]
    fn discard_frees_blocks_and_zeroing_zeroes() {
        let memory = memory();
        let mut bench = Bench::new(&memory, false);
        bench.file.write_all_at(&vec![9; usize::try_from(DISK_BYTES).unwrap()], 0).unwrap();
        bench.file.sync_all().unwrap();
        let full = bench.file.metadata().unwrap().blocks();
        assert_eq!(bench.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 512, 0), (1024, 512, 0)]), 0);
        assert!(bench.file.metadata().unwrap().blocks() <= full - 1000);
        assert_eq!(bench.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(600, 3, 0), (700, 8, 1)]), 0);
        let mut seen = [0; 512];
        for (sector, value) in
            [(0, 0), (511, 0), (512, 9), (599, 9), (600, 0), (602, 0), (603, 9), (700, 0), (708, 9)]
        {
            bench.file.read_exact_at(&mut seen, sector * 512).unwrap();
            assert_eq!(seen, [value; 512], "sector {sector}");
        }
        assert_eq!(bench.file.metadata().unwrap().len(), DISK_BYTES);
        for (sector, count, flags) in [(2048, 1, 0), (0, 2049, 0), (u64::MAX, 1, 0), (0, u32::MAX, 0)] {
            assert_eq!(bench.ranges(VIRTIO_BLK_T_DISCARD, &[(sector, count, flags)]), 1, "{sector}+{count}");
        }
        assert_eq!(bench.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 8, 1)]), 2, "unmap is no flag of discard");
        assert_eq!(bench.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 2)]), 2, "an unknown flag");
    }

    #[test]
    fn the_serial_number_is_padded_with_zeroes() {
        let memory = memory();
        let mut bench = Bench::new(&memory, false);
        assert_eq!(bench.request(VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20, WRITE)]), (0, 21));
        assert_eq!(bench.driver.read(DATA, 20), b"serial-7\0\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn nonsense_gets_an_error_status_or_none() {
        let memory = memory();
        let mut bench = Bench::new(&memory, false);
        assert_eq!(bench.request(99, 0, &[]).0, 2);
        // Discards without a range, with half a range, with more ranges than allowed.
        for len in [0, 15, 17, 16 * 65] {
            assert_eq!(bench.request(VIRTIO_BLK_T_DISCARD, 0, &[(DATA, len, READ)]).0, 1, "{len}");
        }
        // Headers cut short, and chains without a status byte.
        bench.driver.add_chain(&[(HEADER, 15, READ), (STATUS, 1, WRITE)]);
        bench.driver.add_chain(&[(HEADER, 16, READ)]);
        bench.driver.add_chain(&[(STATUS, 1, WRITE)]);
        bench.blk.process(&mut [bench.driver.as_queue(0)]).unwrap();
        let lengths: Vec<u32> = bench.driver.take_used().into_iter().map(|(_, len)| len).collect();
        assert_eq!(lengths, [1, 0, 1]);
        assert_eq!(bench.driver.read(STATUS, 1), [1]);
    }

    #[test]
    fn many_requests_make_one_interrupt() {
        let memory = memory();
        let mut bench = Bench::new(&memory, false);
        bench.driver.write(HEADER, &[0; 16]);
        for _ in 0..5 {
            bench.driver.add_chain(&[(HEADER, 16, READ), (DATA, 512, WRITE), (STATUS, 1, WRITE)]);
        }
        bench.blk.process(&mut [bench.driver.as_queue(0)]).unwrap();
        assert_eq!(bench.driver.take_used().len(), 5);
        assert_eq!(bench.driver.interrupts.0.get(), 1);
    }

    #[test]
    fn the_configuration_tells_the_size_in_sectors() {
        let memory = memory();
        let bench = Bench::new(&memory, false);
        assert_eq!(bench.blk.config()[..8], (DISK_BYTES / SECTOR).to_le_bytes());
        assert_eq!(bench.blk.config()[12..16], 256_u32.to_le_bytes());
    }
}
