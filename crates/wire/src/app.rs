//! Requests to a machine process on its `control.sock`: how the `coracle` command and the app talk to it.
//!
//! A client connects and sends one `Request` line. The machine process answers with `Response`
//! lines; `Progress` and `Notice` may come any number of times, and every other answer ends the exchange —
//! except that `Request::Watch` is answered by any number of `Response::Status`, and that
//! `Request::Shell`, once answered with `Response::Done`, goes on as [`crate::frame`]s, carried through to
//! the guest.
//!
//! `coracle start --json` and its like print the same `Response` lines.

use serde::{Deserialize, Serialize};

use crate::guest;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answered by [`Response::Status`].
    Status,
    /// Answered by [`Response::Status`] now and whenever the machine's state or the guest's stage changes, until the
    /// machine process ends. The guest is not asked: its account is the last that came by itself.
    Watch,
    /// Answered by [`Response::Done`] once `docker version` would succeed; progress until then.
    WaitReady,
    /// Powers the machine off cleanly; [`Response::Done`] when it is off.
    Stop {
        /// How long containers have to end, in seconds.
        timeout_seconds: u32,
    },
    /// Runs a program in the VM.
    Shell(guest::Shell),
}

/// What the machine process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Response {
    /// What is being done now, a short phrase for the user.
    Progress {
        message: String,
    },
    /// Something the user should know beyond what is being done now; does not end the exchange.
    Notice {
        message: String,
    },
    Status(Box<Status>),
    Done,
    /// What failed, why, and what to do next.
    Failed {
        message: String,
    },
}

/// A machine as its process sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    pub state: State,
    /// Path of the socket that `docker` is to use.
    pub docker_socket: String,
    pub cpus: u8,
    pub memory_mib: u64,
    /// Size of the data disk as the guest sees it, in bytes.
    pub disk_bytes: u64,
    /// What the data disk takes on the host, in bytes.
    pub disk_used_bytes: u64,
    /// How the CPUs run: `kvm` or `qemu`.
    pub accelerator: String,
    /// Why that one was chosen.
    pub accelerator_reason: String,
    /// Process ids: this process (0 of a stopped machine), and the emulator if there is one.
    pub pid: u32,
    pub emulator_pid: Option<u32>,
    /// Milliseconds since the Unix epoch.
    pub started_at_ms: u64,
    /// How long the start took until Docker answered, in milliseconds.
    pub ready_after_ms: Option<u64>,
    /// The guest's own account, once it answers.
    pub guest: Option<guest::State>,
    /// Of a stopped machine: how it ended last, if it was ever started.
    #[serde(default)]
    pub last_exit: Option<LastExit>,
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// Milliseconds since the Unix epoch; `None` when the machine process did not live to note it.
    pub at_ms: Option<u64>,
    /// Whether the guest powered itself off in order.
    pub clean: bool,
    /// Why it ended, for the user.
    pub reason: String,
}

/// A machine's life. A machine without a process is `Stopped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Starting,
    Running,
    Stopping,
    Stopped,
}
