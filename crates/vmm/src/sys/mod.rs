//! System calls that the standard library and rustix do not offer in the form needed here.

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
