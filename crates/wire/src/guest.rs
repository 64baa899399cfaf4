//! Requests to the guest's PID 1, one a vsock stream to [`crate::vsock::CONTROL_PORT`].
//!
//! The host opens a stream and sends one `Request` line; PID 1 answers with one `Response` line
//! (for `Request::WaitReady` and `Request::PowerOff`: several, the last of which ends the
//! exchange). `Request::Shell`, once answered with `Response::Done`, goes on as [`crate::frame`]s.

use serde::{Deserialize, Serialize};

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answered at once by [`Response::State`].
    State,
    /// Answered by [`Response::State`] at every change until the engine is ready or has failed.
    WaitReady,
    /// Sets the guest's clock: at boot, and after the host slept.
    SetClock { unix_nanos: u64 },
    /// Stops the containers with their stop signals, ends the engine, unmounts, and powers off.
    /// Answered by [`Response::State`] at every change and, once everything is stored and unmounted, by
    /// [`Response::Done`]; then the VM ends.
    PowerOff {
        /// How long containers have, in seconds, beyond which they are killed.
        timeout_seconds: u32,
    },
    /// Runs a program as root in the VM itself, outside any container.
    Shell(Shell),
}

/// A program to run in the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shell {
    /// Program and arguments; empty for the VM's login shell.
    pub argv: Vec<String>,
    /// The size of the client's window when the program is to have a terminal.
    pub tty: Option<Window>,
    /// `TERM` of the client.
    pub term: Option<String>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub rows: u16,
    pub columns: u16,
}

/// What PID 1 answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// Where the guest stands.
    State(State),
    /// The request was carried out.
    Done,
    /// It was not; why, for the user.
    Failed { message: String },
}

/// Where the guest stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub stage: Stage,
    /// Version of the agent, as in its package.
    pub agent_version: String,
    /// Release of the kernel (`uname -r`).
    pub kernel: String,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// How often the engine was started again after it crashed.
    pub engine_restarts: u32,
    /// How busy the guest is; in answers to [`Request::State`] alone, once the data disk is mounted.
    #[serde(default)]
    pub figures: Option<Figures>,
}

/// How busy the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Milliseconds for which CPUs were busy since the guest started, all together.
    pub cpu_busy_ms: u64,
    pub memory_total_bytes: u64,
    /// What programs could still have, with caches given up.
    pub memory_available_bytes: u64,
    /// Of the data disk's file system.
    pub disk_total_bytes: u64,
    pub disk_free_bytes: u64,
}

/// The guest's life, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// The data disk is being checked, formatted or grown.
    PreparingDisk,
    /// The engine process runs but does not answer yet.
    StartingEngine,
    /// The engine answers on [`crate::vsock::DOCKER_PORT`].
    Ready,
    /// Something is wrong that starting again does not mend; the VM stays up for `coracle shell`.
    Failed { message: String },
    /// Containers are being stopped.
    StoppingContainers,
    /// File systems are being unmounted.
    Unmounting,
}
