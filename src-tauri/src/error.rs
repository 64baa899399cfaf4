//! Why a command of the interface failed.

use serde::Serialize;

/// What the interface is told: `BackendError` in `ui/src/backend/backend.ts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Error {
    pub(crate) kind: Kind,
    /// What failed, why, and what to do next; shown as it is.
    pub(crate) message: String,
    /// Of [`Kind::Engine`]: Docker's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    /// Of [`Kind::Setting`]: which one was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
}

/// What a page reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Nobody answers on the engine's socket, or stopped answering.
    EngineUnreachable,
    /// The engine refused, in its own words.
    Engine,
    Cancelled,
    /// Starting, stopping, or asking the machine.
    Machine,
    /// A value was refused.
    Setting,
    /// This build has no place to look for updates.
    NoUpdates,
    /// Anything of this host: files, programs, the desktop.
    Host,
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), status: None, key: None }
    }

    pub(crate) fn host(message: impl Into<String>) -> Error {
        Error::new(Kind::Host, message)
    }

    pub(crate) fn machine(message: impl Into<String>) -> Error {
        Error::new(Kind::Machine, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Error {
        Error::new(Kind::EngineUnreachable, message)
    }

    pub(crate) fn cancelled() -> Error {
        Error::new(Kind::Cancelled, "cancelled")
    }

    pub(crate) fn refused_by_engine(status: u16, message: impl Into<String>) -> Error {
        Error { status: Some(status), ..Error::new(Kind::Engine, message) }
    }

    pub(crate) fn setting(key: impl Into<String>, message: impl Into<String>) -> Error {
        Error { key: Some(key.into()), ..Error::new(Kind::Setting, message) }
    }
}

/// A chain of causes, in one line.
impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Error {
        Error::host(format!("{error:#}"))
    }
}
