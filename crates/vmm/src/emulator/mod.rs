//! QEMU as a CPU: another process that runs the guest's instructions, and nothing else of the machine but its board.
//!
//! * `qemu`: which machine it is told to be.
//! * `process`: how it is started, and how its end is read.
//! * `tsc`: the host's time stamp counter, which the guest sees.
//! * `console`: what it and its guest write, kept within bounds.

pub mod console;
pub(crate) mod process;
pub(crate) mod qemu;
pub(crate) mod tsc;

pub use qemu::{POWER_OFF_PORT, POWER_OFF_VALUE};
