//! Host sockets that lead into the guest.

/// `docker.sock`.
pub(crate) mod docker;
/// Published ports.
pub(crate) mod ports;
