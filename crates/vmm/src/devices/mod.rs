//! What the guest finds in its machine, and the ways in which a guest reaches it.

pub mod transport;
pub mod virtio;
