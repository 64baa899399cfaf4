//! The host's ssh-agent: who connects to its socket in the guest ([`wire::settings::SSH_AGENT_SOCKET`]) is led to it. A socket
//! of the host in a shared folder is none in the guest, whose kernel knows only those that were made in it.

use std::{
    env,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use wire::vsock::SSH_AGENT_PORT;

use super::relay::relay;
use crate::machine::vm::Vm;

/// Connections at a time, so that a guest cannot use up the host's threads.
const MAX_CONNECTIONS: usize = 64;

/// Where the user's agent was when the machine was started.
pub(crate) fn socket() -> Option<PathBuf> {
    env::var_os("SSH_AUTH_SOCK").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Leads the guest's connections to the agent from now on.
pub(crate) fn serve(vm: &dyn Vm, agent: PathBuf) {
    let agent: Arc<Path> = agent.into();
    let open = Arc::new(AtomicUsize::new(0));
    vm.listen(
        SSH_AGENT_PORT,
        Box::new(move |guest| {
            let (agent, open) = (Arc::clone(&agent), Arc::clone(&open));
            if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                // The guest sees its connection end.
                return;
            }
            let counted = Arc::clone(&open);
            let serving = thread::Builder::new().name("ssh-agent".to_owned()).spawn(move || {
                match UnixStream::connect(&agent) {
                    Ok(agent) => relay(&guest, &agent),
                    Err(error) => {
                        tracing::warn!("cannot reach the ssh-agent at {}: {error}", agent.display())
                    }
                }
                counted.fetch_sub(1, Ordering::Relaxed);
            });
            if serving.is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
            }
        }),
    );
}
