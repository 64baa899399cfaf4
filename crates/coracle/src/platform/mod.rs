//! What differs between host systems.

#[cfg(target_os = "linux")]
mod linux;
mod programs;
mod signals;

#[cfg(target_os = "linux")]
pub(crate) use linux::{ClockWatch, memory_bytes};
pub(crate) use programs::{in_path, is_executable};
pub(crate) use signals::Signals;
