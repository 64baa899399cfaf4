use std::io::{self, BufReader, Cursor, Read};

/// How much memory an xz stream may ask for, in KiB: `xz -9` needs 65 MiB.
const XZ_MEMORY: u32 = 128 << 10;
/// Bytes read at once from a compressed stream.
const BUFFER: usize = 256 << 10;

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Compression {
    /// Longest magic number looked for.
    pub(crate) const MAGIC: usize = 6;

    /// By the first [`Self::MAGIC`] bytes of a stream, or all of a shorter one.
    pub(crate) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // RFC 8878 §3.1.2: a skippable frame may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// The media type of a layer packed like this (OCI image specification, "layer"); `None` where the
    /// specification has none.
    pub(crate) fn layer_media_type(self) -> Option<&'static str> {
        match self {
            Self::None => Some("application/vnd.oci.image.layer.v1.tar"),
            Self::Gzip => Some("application/vnd.oci.image.layer.v1.tar+gzip"),
            Self::Zstd => Some("application/vnd.oci.image.layer.v1.tar+zstd"),
            Self::Bzip2 | Self::Xz => None,
        }
    }
}

/// `source` unpacked, whatever it is packed with, and what that was.
///
/// # Errors
/// `source` cannot be read.
pub(crate) fn decompress<'a, R: Read + Send + 'a>(
    mut source: R,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    // One read may give fewer bytes than a magic number has.
    let mut start = Vec::with_capacity(Compression::MAGIC);
    source.by_ref().take(Compression::MAGIC as u64).read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let source = BufReader::with_capacity(BUFFER, Cursor::new(start).chain(source));
    let plain: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(source)?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY)),
    };
    Ok((compression, plain))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Gives one byte at a time, as a slow client may.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(1);
            (&mut self.0).take(1).read(&mut buffer[..count])
        }
    }

    fn unpacked(bytes: &[u8]) -> (Compression, Vec<u8>) {
        let (compression, mut plain) = decompress(Drip(bytes)).unwrap();
        let mut content = Vec::new();
        plain.read_to_end(&mut content).unwrap();
        (compression, content)
    }

    #[test]
    fn every_kind_is_told_apart_and_unpacked() {
        let content = b"layers and layers of it".repeat(50);
        assert_eq!(unpacked(&content), (Compression::None, content.clone()));

        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&content).unwrap();
        assert_eq!(unpacked(&gzip.finish().unwrap()), (Compression::Gzip, content.clone()));

        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        assert_eq!(unpacked(&zstd), (Compression::Zstd, content.clone()));

        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&content).unwrap();
        assert_eq!(unpacked(&bzip2.finish().unwrap()), (Compression::Bzip2, content));
    }

    #[test]
    fn xz_is_unpacked() {
        // printf 'boat\n' | xz -9 | xxd -p
        let packed = [
            0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01,
            0x1c, 0x00, 0x00, 0x00, 0x10, 0xcf, 0x58, 0xcc, 0x01, 0x00, 0x04, 0x62, 0x6f, 0x61, 0x74, 0x0a,
            0x00, 0x00, 0x00, 0x00, 0x56, 0x07, 0x93, 0xfb, 0xb8, 0x59, 0x55, 0x6f, 0x00, 0x01, 0x1d, 0x05,
            0xb8, 0x2d, 0x80, 0xaf, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
        ];
        let (compression, mut plain) = decompress(&packed[..]).unwrap();
        assert_eq!(compression, Compression::Xz);
        let mut content = Vec::new();
        plain.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"boat\n");
    }

    #[test]
    fn less_than_a_magic_number_is_plain() {
        assert_eq!(unpacked(b""), (Compression::None, Vec::new()));
        assert_eq!(unpacked(b"BZ"), (Compression::None, b"BZ".to_vec()));
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[7; 5000]).unwrap();
        let packed = gzip.finish().unwrap();
        let (_, mut plain) = decompress(&packed[..packed.len() - 4]).unwrap();
        assert!(plain.read_to_end(&mut Vec::new()).is_err());
    }
}
