//! What the interface asks: one function per member of `Backend` in `ui/src/backend/backend.ts`. Each takes its
//! arguments, calls one thing, and hands the result back; none knows an endpoint of Docker's.
//!
//! What JSON cannot carry well crosses as bytes:
//!
//! * An answer of the engine is one buffer: the length of the head (four bytes, the highest first), the head
//!   (`{status, headers}`) as JSON, the body.
//! * A stream's channel carries buffers, and at the end one `{end: true, error?}`.
//! * `call` is a number that the interface chose, by which `engine_cancel` takes a call back.

/// The app itself: files, links, messages, its end.
pub(crate) mod desktop;
/// Docker's API.
pub(crate) mod engine;
/// The machine, its settings and its logs.
pub(crate) mod machine;
/// Updates of the app.
pub(crate) mod update;
