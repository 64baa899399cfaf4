//! What differs between operating systems: sockets' details, waiting, TAP interfaces.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod tap;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "linux")]
pub use tap::{Tap, run_on_tap};
