//! Docker's API as a client: HTTP/1.1 over the engine's socket, one connection per request.
//!
//! Nothing here knows an endpoint. A request is checked only for what could break out of it: its
//! method, its path, its header fields.

/// Calls that can be taken back.
pub(crate) mod calls;
/// A request and its answer.
pub(crate) mod exchange;
/// Bodies from and to files of the host.
pub(crate) mod files;
/// Docker's frames of output.
pub(crate) mod frames;
/// Answers in pieces, and connections.
pub(crate) mod stream;

#[cfg(test)]
pub(crate) mod testing;
