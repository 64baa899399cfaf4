//! What containers see as their root: read-only layers unpacked once, a writable directory per
//! container, and overlayfs on top.
//!
//! On disk, under the data root: `layers/<hex>/{fs/,layer.json}` by chain ID (OCI image specification,
//! "Layer ChainID"), and `containers-fs/<container>/{upper/,work/,snapshot.json}`. What is being made or
//! removed lies in `layers/.tmp` and `containers-fs/.tmp` and is swept when the engine starts.
//!
//! A layer that an image record refers to was synced before the record was written. One that nothing
//! refers to may be torn by a power cut, and is removed at start.

/// Writing tar archives of trees that others may be changing.
mod archive;
/// Compression found by its magic number.
mod compression;
/// What a container changed.
mod diff;
/// SHA-256 digests.
mod digest;
/// Several tasks, one piece of work.
mod keyed;
/// The unpacked read-only layers.
mod layers;
/// Archives on their way to a client.
mod outgoing;
/// Containers' writable layers.
mod overlay;
/// Reading tar archives that may be hostile.
mod tar;
/// Archives for tests.
#[cfg(test)]
pub(crate) mod testing;
/// Removing and measuring trees that a container or an archive shaped.
mod tree;
/// Applying a layer's archive to a directory, and copying one into a container.
mod unpack;
/// Mounts that only their holder sees.
mod view;
/// Going through trees that others may be changing.
mod walk;

pub use digest::{Digest, DigestError};
pub use layers::{Blob, Layer, LayerId, Layers};
pub use overlay::Snapshots;

pub(crate) use archive::ArchiveWriter;
pub(crate) use compression::{Compression, decompress};

pub(crate) use digest::Sha256;
pub(crate) use keyed::Keyed;
pub(crate) use layers::{Hold, NewLayer};
pub(crate) use outgoing::{ArchiveStream, Outgoing};
pub(crate) use overlay::RootView;
pub(crate) use tar::{
    Entry as TarEntry, Error as TarError, Kind as TarKind, Piece as TarPiece, Reader as TarReader,
};
pub(crate) use tree::{Room, disk_usage, remove_tree, sweep};
pub(crate) use unpack::{CopyInto, Error as UnpackError, copy_into};
pub(crate) use view::bind;
