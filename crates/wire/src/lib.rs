//! Bytes that cross a process or machine boundary: the shapes, and nothing that acts on them.
//!
//! Who speaks what:
//! * clients ↔ engine: [`docker`], the Docker Engine API's JSON;
//! * `coracle` and the app ↔ machine process: [`app`], over `control.sock`;
//! * machine process ↔ guest's PID 1: [`guest`], over a vsock stream;
//! * guest's engine ↔ machine process: [`ports`], over a vsock stream;
//! * guest's PID 1 ↔ machine process: [`settings`], over a vsock stream;
//! * [`vsock`] says which port carries what, [`mod@line`] and [`frame`] how JSON and byte streams are cut.

/// Requests to a machine process on its control socket.
pub mod app;
/// The Docker Engine API's types.
pub mod docker;
/// Multiplexed bytes of an interactive session: standard streams, window size, exit code.
pub mod frame;
/// Requests to the guest's PID 1.
pub mod guest;
/// One JSON value a line, bounded.
pub mod line;
/// Addresses of a machine's network.
pub mod network;
/// Ports that the guest's engine has the host open.
pub mod ports;
/// What the host's user has chosen for the guest.
pub mod settings;
/// Addresses inside and outside the guest.
pub mod vsock;
