//! The host's ssh-agent, as a socket that containers can mount.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use wire::settings::SSH_AGENT_SOCKET;
use wire::vsock::{HOST_CID, SSH_AGENT_PORT};

use super::stream::Stream;

/// Connections at a time, as many as the host takes.
const MAX_CONNECTIONS: usize = 64;

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
            let _ = carry(client, &host);
            let _ = host.finish();
        });
        let carried = carry(&host, client);
        // What the client still has to say would be said to nobody.
        let _ = client.end();
        carried
    })
}

/// Carries bytes one way until there are no more.
fn carry(mut from: &Stream, mut to: &Stream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
