//! The answer of `GET /containers/{id}/stats`: what a container has used at one moment. Unlike elsewhere
//! in the API, names are in snake case, and what a machine does not count is left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{NEVER, container::Empty};

/// One sample. That of a container that does not run has its name and id only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// With a leading slash; a sample taken at once does not say whose it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// When it was taken, RFC 3339.
    pub read: String,
    /// When the one before was taken.
    pub preread: String,
    pub pids_stats: Pids,
    pub blkio_stats: Blkio,
    /// Windows only, as is `storage_stats`.
    pub num_procs: u32,
    pub storage_stats: Empty,
    pub cpu_stats: Cpu,
    /// Those of the sample before, so that a client can tell what happened since.
    pub precpu_stats: Cpu,
    pub memory_stats: Memory,
    /// By interface. Left out when the container has none of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Network>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            name: String::new(),
            id: String::new(),
            read: NEVER.to_owned(),
            preread: NEVER.to_owned(),
            pids_stats: Pids::default(),
            blkio_stats: Blkio::default(),
            num_procs: 0,
            storage_stats: Empty {},
            cpu_stats: Cpu::default(),
            precpu_stats: Cpu::default(),
            memory_stats: Memory::default(),
            networks: BTreeMap::new(),
        }
    }
}

/// Processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Block I/O. `None` is what the kernel's interface does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Blkio {
    pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
    pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
    pub io_queue_recursive: Option<Vec<BlkioEntry>>,
    pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
    pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
    pub io_merged_recursive: Option<Vec<BlkioEntry>>,
    pub io_time_recursive: Option<Vec<BlkioEntry>>,
    pub sectors_recursive: Option<Vec<BlkioEntry>>,
}

/// A count of one device and one kind of operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `read`, `write`, `sync` …
    pub op: String,
    pub value: u64,
}

/// Time on CPUs, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    pub cpu_usage: CpuUsage,
    /// Of the whole machine, busy or idle, all CPUs together.
    #[serde(skip_serializing_if = "is_zero")]
    pub system_cpu_usage: u64,
    #[serde(skip_serializing_if = "is_zero_32")]
    pub online_cpus: u32,
    pub throttling_data: Throttling,
}

/// A container's own time on CPUs, nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    pub total_usage: u64,
    /// By CPU; control groups of version 1 only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_usage: Vec<u64>,
    pub usage_in_kernelmode: u64,
    pub usage_in_usermode: u64,
}

/// How often a CPU quota was used up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Throttling {
    pub periods: u64,
    pub throttled_periods: u64,
    /// Nanoseconds.
    pub throttled_time: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_usage: u64,
    /// The kernel's own counts, under its names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stats: BTreeMap<String, u64>,
    /// How often the limit was hit.
    #[serde(skip_serializing_if = "is_zero")]
    pub failcnt: u64,
    /// The container's limit, or the machine's memory.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// One interface's counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero_32(number: &u32) -> bool {
    *number == 0
}
