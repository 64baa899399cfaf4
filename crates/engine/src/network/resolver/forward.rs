//! Questions that other servers answer: they are sent on as they came, and so are the answers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{net, time::timeout};

use super::{MESSAGE, PORT, Transport, read_message, write_message};
use crate::{blocking, error::Context as _, network::sandbox};

/// How long a server may take, as in Docker.
const PATIENCE: Duration = Duration::from_secs(4);
/// How many servers are asked.
const MAX_SERVERS: usize = 3;
const MACHINE: &str = "/etc/resolv.conf";

/// Who is asked.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The container's own servers, asked from its namespace; if there are none, this machine's are asked,
    /// from this machine's.
    own: Vec<IpAddr>,
    namespace: PathBuf,
}

impl Upstream {
    pub(super) fn new(servers: &[String], namespace: PathBuf) -> Self {
        Self { own: servers.iter().filter_map(|server| server.parse().ok()).collect(), namespace }
    }

    /// The answer of the first server that has one; that nothing could be answered, if all say so.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let own = !self.own.is_empty();
        let servers = if own { self.own.clone() } else { machine_servers().await };
        let mut refusal = None;
        for server in servers.into_iter().take(MAX_SERVERS) {
            let address = SocketAddr::new(server, PORT);
            let asked = match transport {
                Transport::Udp => timeout(PATIENCE, self.by_udp(address, question, own)).await,
                Transport::Tcp => timeout(PATIENCE, self.by_tcp(address, question, own)).await,
            };
            match asked {
                Ok(Ok(answer)) if is_refusal(&answer) => refusal = Some(answer),
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!("ask {address}: {error}"),
                Err(_) => tracing::debug!("ask {address}: no answer"),
            }
        }
        refusal
    }

    async fn by_udp(&self, server: SocketAddr, question: &[u8], inside: bool) -> io::Result<Vec<u8>> {
        let any: IpAddr =
            if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = self
            .place(inside, move || {
                let socket = std::net::UdpSocket::bind((any, 0))?;
                // From here on only that server is heard.
                socket.connect(server)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .await?;
        let socket = net::UdpSocket::from_std(socket)?;
        socket.send(question).await?;
        let mut buffer = vec![0; MESSAGE];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if buffer.get(..2) == question.get(..2) && length > 2 {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    async fn by_tcp(&self, server: SocketAddr, question: &[u8], inside: bool) -> io::Result<Vec<u8>> {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let socket = self
            .place(inside, move || {
                let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                Ok(socket_with(family, SocketType::STREAM, flags, None)?)
            })
            .await?;
        let socket = net::TcpSocket::from_std_stream(socket.into());
        let mut connection = socket.connect(server).await?;
        write_message(&mut connection, question).await?;
        read_message(&mut connection).await
    }

    /// Makes a socket here or in the container's namespace, to which it belongs for ever.
    async fn place<T: Send + 'static>(
        &self,
        inside: bool,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if !inside {
            return make();
        }
        let namespace = self.namespace.clone();
        let made = blocking(move || sandbox::enter(&namespace, make)).await;
        made.map_err(io::Error::other)
    }
}

/// SERVFAIL, NOTIMP and REFUSED: another server may know more.
fn is_refusal(answer: &[u8]) -> bool {
    answer.get(3).is_none_or(|byte| matches!(byte & 0xf, 2 | 4 | 5))
}

/// This machine's servers as they are now.
async fn machine_servers() -> Vec<IpAddr> {
    let read = blocking(|| std::fs::read_to_string(MACHINE).context(|| format!("read {MACHINE}")));
    parse_servers(&read.await.unwrap_or_default())
}

/// The servers that a `resolv.conf` names.
fn parse_servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_from_a_resolv_conf() {
        let text =
            "# nameserver 9.9.9.9\nsearch lan\nnameserver 10.0.0.1\n nameserver\tfd00::1\nnameserver x\n";
        let servers: Vec<String> = parse_servers(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(servers, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn refusals_let_another_server_be_asked() {
        assert!(is_refusal(&[0, 0, 0x81, 0x82]) && is_refusal(&[0, 0, 0x81, 0x85]) && is_refusal(&[]));
        assert!(!is_refusal(&[0, 0, 0x81, 0x80]) && !is_refusal(&[0, 0, 0x81, 0x83]));
    }
}
