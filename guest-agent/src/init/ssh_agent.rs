//! The host's ssh-agent, as a socket that containers can mount.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use wire::settings::SSH_AGENT_SOCKET;
use wire::vsock::{HOST_CID, SSH_AGENT_PORT};

use super::stream::Stream;

/// Connections at a time, as many as the host takes.
const MAX_CONNECTIONS: usize = 64;

/// After PID 1 ran out of descriptors or memory, which only time mends.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Leads connections to the host from now on.
pub(super) fn serve() -> Result<()> {
    let path = Path::new(SSH_AGENT_SOCKET);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot make the socket {SSH_AGENT_SOCKET}"))?;
    // Who may use it is decided by which containers have it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
    thread::Builder::new().name("ssh-agent".to_owned()).spawn(move || accept(&listener))?;
    Ok(())
}

fn accept(listener: &UnixListener) {
    let open = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        let client = match client {
            Ok(client) => Stream::from(OwnedFd::from(client)),
            Err(error) => {
                tracing::warn!("cannot accept at {SSH_AGENT_SOCKET}: {error}");
                thread::sleep(BACK_OFF);
                continue;
            }
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let counted = Arc::clone(&open);
        let serving = thread::Builder::new().name("ssh-agent".to_owned()).spawn(move || {
            if let Err(error) = lead(&client) {
                tracing::warn!("a connection to the host's ssh-agent: {error}");
            }
            counted.fetch_sub(1, Ordering::Relaxed);
        });
        if serving.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn lead(client: &Stream) -> io::Result<()> {
    let host = Stream::connect(HOST_CID, SSH_AGENT_PORT)?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(&mut &*client, &mut &host);
            let _ = host.finish();
        });
        let carried = io::copy(&mut &host, &mut &*client);
        // What the client still has to say would be said to nobody.
        let _ = client.end();
        carried.map(drop)
    })
}
