//! The machine: what it is doing, and having it start and stop.

/// Its logs.
pub(crate) mod logs;
/// How it is now.
pub(crate) mod status;
/// Hearing of changes.
pub(crate) mod watch;
