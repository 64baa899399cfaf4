//! What a descriptor chain asks of a disk (section 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};

use super::image::ImageError;
use crate::devices::virtio::Chain;
use crate::memory::GuestBuffer;

/// type, reserved, sector
const HEADER_BYTES: usize = 16;

/// sector, num_sectors, flags
const RANGE_BYTES: usize = 16;

/// Ranges in one discard or zeroing request.
pub(super) const MAX_RANGES: u32 = 64;

/// VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
const FLAG_UNMAP: u32 = 1;

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unserved {
    #[error("requests of kind {kind}, or with such flags, are not supported")]
    Unsupported { kind: u32 },
    #[error("the request is malformed")]
    Malformed,
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A request, its reserved field dropped.
pub(super) struct Request<'m> {
    pub(super) operation: Operation<'m>,
    pub(super) sector: u64,
}

pub(super) enum Operation<'m> {
    /// Fill the writable part from the disk.
    Read,
    Write {
        data: GuestBuffer<'m>,
    },
    Flush,
    GetId,
    Discard {
        ranges: Vec<ZeroRange>,
    },
    WriteZeroes {
        ranges: Vec<ZeroRange>,
    },
}

/// Sectors whose content is to go.
pub(super) struct ZeroRange {
    pub(super) sector: u64,
    pub(super) sectors: u32,
    /// Whether their blocks may be given back to the host.
    pub(super) unmap: bool,
}

/// Divides the writable part of a chain into data and the status byte, which is its last. `None` if it is empty.
pub(super) fn split_status<'m>(chain: &Chain<'m>) -> Option<(GuestBuffer<'m>, GuestBuffer<'m>)> {
    let data = chain.writable.len().checked_sub(1)?;
    Some((chain.writable.part(0, data), chain.writable.part(data, 1)))
}

impl<'m> Request<'m> {
    /// Reads a request from the readable part of its chain.
    pub(super) fn parse(readable: &GuestBuffer<'m>) -> Result<Self, Unserved> {
        let mut header = [0; HEADER_BYTES];
        if readable.copy_to(&mut header) < HEADER_BYTES {
            return Err(Unserved::Malformed);
        }
        let [k0, k1, k2, k3, _, _, _, _, sector @ ..] = header;
        let kind = u32::from_le_bytes([k0, k1, k2, k3]);
        let payload = readable.part(HEADER_BYTES, usize::MAX);
        let operation = match kind {
            VIRTIO_BLK_T_IN => Operation::Read,
            VIRTIO_BLK_T_OUT => Operation::Write { data: payload },
            VIRTIO_BLK_T_FLUSH => Operation::Flush,
            VIRTIO_BLK_T_GET_ID => Operation::GetId,
            VIRTIO_BLK_T_DISCARD => Operation::Discard { ranges: parse_ranges(kind, &payload, 0)? },
            VIRTIO_BLK_T_WRITE_ZEROES => {
                Operation::WriteZeroes { ranges: parse_ranges(kind, &payload, FLAG_UNMAP)? }
            }
            kind => return Err(Unserved::Unsupported { kind }),
        };
        Ok(Request { operation, sector: u64::from_le_bytes(sector) })
    }
}

fn parse_ranges(kind: u32, payload: &GuestBuffer<'_>, known_flags: u32) -> Result<Vec<ZeroRange>, Unserved> {
    let count = payload.len() / RANGE_BYTES;
    if count == 0
        || !payload.len().is_multiple_of(RANGE_BYTES)
        || u32::try_from(count).is_ok_and(|n| n > MAX_RANGES)
    {
        return Err(Unserved::Malformed);
    }
    (0..count)
        .map(|index| {
            let mut bytes = [0; RANGE_BYTES];
            payload.part(index * RANGE_BYTES, RANGE_BYTES).copy_to(&mut bytes);
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = bytes;
            let flags = u32::from_le_bytes(flags);
            if flags & !known_flags != 0 {
                return Err(Unserved::Unsupported { kind });
            }
            Ok(ZeroRange {
                sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
                sectors: u32::from_le_bytes([n0, n1, n2, n3]),
                unmap: flags & FLAG_UNMAP != 0,
            })
        })
        .collect()
}
