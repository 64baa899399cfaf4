//! Ports on which containers with `--network host` listen: to their user this machine's host is the host, so they are
//! opened there, too.
//!
//! No event tells that a program begins to listen. So the kernel is asked a few times a second, as long as a container
//! runs in the machine's own network, and not at all otherwise.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    HostPorts, Published, PublishedPort,
    listening::{Listener, by_containers},
};

/// A program that has begun to listen is reached from the host after this, at the latest.
const INTERVAL: Duration = Duration::from_millis(250);
/// After how long the host is asked again for a port that it has refused.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the host's ports in step as long as the engine lives. `used` says whether a container runs in the machine's own
/// network.
pub(crate) async fn follow(host: Arc<HostPorts>, mut used: watch::Receiver<bool>) {
    let mut ports = Ports { host, open: BTreeMap::new() };
    loop {
        let some_open = !ports.open.is_empty();
        // Nobody is left who could start a container.
        let Ok(used) = used.wait_for(|used| *used || some_open).await.map(|used| *used) else { return };
        let follow = move || {
            ports.follow(used);
            Ok(ports)
        };
        ports = match crate::blocking(follow).await {
            Ok(ports) => ports,
            Err(error) => return tracing::error!("ports of the host's network: {error}"),
        };
        tokio::time::sleep(INTERVAL).await;
    }
}

struct Ports {
    host: Arc<HostPorts>,
    open: BTreeMap<Listener, Port>,
}

enum Port {
    Open(#[expect(dead_code, reason = "it is open until this is dropped")] Box<dyn Published>),
    Refused(Instant),
}

impl Ports {
    /// Opens and closes what has changed. Blocks.
    fn follow(&mut self, used: bool) {
        let listeners = match used.then(by_containers).transpose() {
            Ok(listeners) => listeners.unwrap_or_default(),
            // What is open stays so until the kernel tells.
            Err(error) => return tracing::warn!("cannot tell who listens: {error}"),
        };
        self.open.retain(|listener, _| listeners.contains(listener));
        for listener in listeners {
            let Some(container) = reached_at(listener.address) else { continue };
            let again = match self.open.get(&listener) {
                None => false,
                Some(Port::Refused(when)) if when.elapsed() > RETRY => true,
                Some(_) => continue,
            };
            let Listener { protocol, address } = listener;
            let port = PublishedPort { host: address, container, protocol };
            let opened = self.host.open_on_host(&port, None).map_or_else(
                |error| {
                    if !again {
                        tell(&listener, &error);
                    }
                    Port::Refused(Instant::now())
                },
                |open| Port::Open(Box::new(open)),
            );
            self.open.insert(listener, opened);
        }
    }
}

/// Nobody waits for an answer to whom this could be told; it is in the log.
fn tell(Listener { protocol, address }: &Listener, error: &io::Error) {
    tracing::warn!(
        "a container listens on {address}/{protocol}, which cannot be opened on the host: {error}"
    );
}

/// Where a listener of this machine is reached from within. Addresses of the machine's own are none of the host's.
fn reached_at(listener: SocketAddr) -> Option<SocketAddr> {
    let address = match listener.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address if address.is_loopback() => address,
        _ => return None,
    };
    Some(SocketAddr::new(address, listener.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_machine_are_not_the_hosts() {
        let reached = |text: &str| reached_at(text.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(reached("0.0.0.0:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(reached("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(reached("127.0.0.5:80").as_deref(), Some("127.0.0.5:80"));
        assert_eq!(reached("192.168.127.2:80"), None);
    }
}
