//! Bytes of the guest that nobody has thought of: targets of `cargo xtask fuzz`.
//!
//! * `frames`: Ethernet frames, one behind the other, to a whole network.
//! * `connections`: what guest and host may do to TCP connections, in any order.
//! * `names`: DNS messages and `resolv.conf`.

mod connections;
mod frames;
mod names;
