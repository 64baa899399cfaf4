//! `control.sock`: how `coracle` and the app talk to a machine process ([`wire::app`]).

/// The side of the command.
pub(crate) mod client;
/// The side of the machine process.
pub(crate) mod server;
