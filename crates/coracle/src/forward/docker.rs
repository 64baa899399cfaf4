//! `docker.sock`: every connection to it becomes a stream to the engine.
//!
//! Nothing of the stream passes through here: an accepted socket is handed to the VM's socket device,
//! which carries its bytes, half-closes and back-pressure. So HTTP upgrades need no care.

use std::{io, os::unix::net::UnixListener, thread, time::Duration};

use wire::vsock::DOCKER_PORT;

use crate::machine::process::Machine;

/// After the process ran out of descriptors or memory, which only time mends.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Lets clients in once the engine is ready, until the process ends. Those that come before wait in
/// the kernel's queue of the socket, whose length is its bound; when it is full, connecting blocks.
pub(crate) fn serve(listener: &UnixListener, machine: &Machine) {
    machine.board.wait_until(|view| view.docker_open);
    let Some(vm) = machine.vm.get() else { return };
    loop {
        match listener.accept() {
            Ok((stream, _)) => vm.connect_stream(DOCKER_PORT, stream.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!("cannot accept on the docker socket: {error}");
                thread::sleep(BACK_OFF);
            }
        }
    }
}
