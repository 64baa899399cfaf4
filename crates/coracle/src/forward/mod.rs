//! Host sockets that lead into the guest, and the guest's that lead to the host.

/// `docker.sock`.
pub(crate) mod docker;
/// Published ports.
pub(crate) mod ports;
/// Two sockets as one.
pub(crate) mod relay;
/// The user's choices, as far as the guest has to know them.
pub(crate) mod settings;
/// The host's ssh-agent.
pub(crate) mod ssh_agent;
