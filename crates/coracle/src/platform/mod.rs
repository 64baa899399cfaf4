//! What differs between host systems.

#[cfg(target_os = "linux")]
mod linux;
mod signals;

#[cfg(target_os = "linux")]
pub(crate) use linux::{ClockWatch, memory_bytes};
pub(crate) use signals::Signals;
