//! The vsock address plan. Ports are fixed: both ends are built from one source tree.

/// The guest's context id. Each machine has a device of its own, so machines can share it.
pub const GUEST_CID: u32 = 3;
/// The host's context id, fixed by the virtio specification (5.10.4).
pub const HOST_CID: u32 = 2;

/// Guest port of PID 1: [`crate::guest`] requests.
pub const CONTROL_PORT: u32 = 1024;
/// Guest port of the engine: the Docker Engine API, HTTP/1.1.
pub const DOCKER_PORT: u32 = 2375;
/// Host port of the machine process: [`crate::ports`].
pub const HOST_PORTS_PORT: u32 = 1025;
/// Host port of the machine process: [`crate::settings`].
pub const SETTINGS_PORT: u32 = 1026;
/// Host port of the machine process: the user's ssh-agent, by its own protocol.
pub const SSH_AGENT_PORT: u32 = 1027;
