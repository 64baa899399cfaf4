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
pub mod config;
pub mod devices;
pub mod emulator;
pub mod hypervisor;
pub mod memory;
mod sys;
mod vm;

pub use builder::Error;
pub use config::{Accel, ConfigError, Disk, FsConfig, NetConfig, VmConfig, VsockConfig};
pub use devices::virtio::net;
pub use devices::virtio::vsock::{OnConnection, Vsock};
pub use emulator::{POWER_OFF_PORT, POWER_OFF_VALUE};
pub use hypervisor::{Accelerator, Choice, KvmUnusable, ProbeError, probe};
pub use vm::{DeviceFailure, ExitReason, Vm, VmInfo};
