//! Runs a virtual machine.
//!
//! This crate owns the machine: its board, its memory, its devices, the threads that serve them, and whatever runs its
//! CPUs. It knows nothing of what runs inside: no Docker, no agent, no port numbers. It uses threads and event loops;
//! an async caller hands it sockets and callbacks.
//!
//! A machine is described by a [`VmConfig`], started with [`Vm::start`], reached through [`Vm::vsock`], and its end is
//! told by [`Vm::wait`].
#![deny(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod builder;
/// What a machine is made of.
pub mod config;
/// The guest's devices and the ways to reach them.
pub mod devices;
/// QEMU as a CPU.
pub mod emulator;
/// Means of running CPUs, and which one a machine gets.
pub mod hypervisor;
/// Guest memory.
pub mod memory;
mod sys;
mod vm;

pub use builder::Error;
pub use config::{Accel, ConfigError, Disk, VmConfig, VsockConfig};
pub use devices::virtio::vsock::{OnConnection, Vsock};
pub use emulator::{POWER_OFF_PORT, POWER_OFF_VALUE};
pub use hypervisor::{Accelerator, Choice, KvmUnusable, ProbeError, probe};
pub use vm::{DeviceFailure, ExitReason, Vm, VmInfo};
