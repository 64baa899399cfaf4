//! Published ports: which there are to be, where they are, and who listens.

mod host;
mod host_network;
mod listening;
mod splice;
mod tcp;
mod udp;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::mpsc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::AbortHandle,
};
use wire::docker::{container::Empty, host_config::PortBinding};

pub(crate) use host::HostPorts;
pub(crate) use host_network::follow as follow_host_network;

use super::endpoint::Sandbox;
use crate::error::{Context, Error, Result, errno_text};

/// The ports that are given out where none is asked for, when the kernel does not say.
const DYNAMIC: (u16, u16) = (32768, 60999);

/// Threads that carry what comes.
const THREADS: usize = 2;
/// How long a listener may take to end; the runtime only has to come by.
const PATIENCE: Duration = Duration::from_secs(5);

/// What ports of this machine are of: listeners carry these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The number in an IP header.
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What ports of containers are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    Tcp,
    Udp,
    Sctp,
}

impl Transport {
    /// The number in an IP header.
    pub(super) fn number(self) -> u8 {
        self.carried().map_or(132, Protocol::number)
    }

    /// `None` of what no listener carries.
    pub(super) fn carried(self) -> Option<Protocol> {
        match self {
            Self::Tcp => Some(Protocol::Tcp),
            Self::Udp => Some(Protocol::Udp),
            Self::Sctp => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.carried() {
            Some(protocol) => protocol.fmt(f),
            None => f.write_str("sctp"),
        }
    }
}

/// A port of a container that is to be published.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WantedPort {
    pub(super) container_port: u16,
    pub(super) protocol: String,
    /// As the user wrote them: an address or nothing; a port, a range, or nothing.
    pub(super) host_ip: String,
    pub(super) host_port: String,
}

/// A port of this machine that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mapping {
    pub(super) host: IpAddr,
    /// 0 where none leads there: the container's is reached by itself.
    pub(super) host_port: u16,
    pub(super) container: IpAddr,
    pub(super) container_port: u16,
    pub(super) protocol: Transport,
}

impl Mapping {
    /// Whether a port of this machine leads there.
    pub(super) fn is_of_the_host(&self) -> bool {
        self.host_port != 0
    }
}

/// A port to be opened to whoever may reach this engine's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublishedPort {
    pub(crate) host: SocketAddr,
    pub(crate) container: SocketAddr,
    pub(crate) protocol: Protocol,
}

/// Opens ports. The engine on a Linux of its own listens itself; in a machine, its host has to be told.
pub(crate) trait PortPublisher: Send + Sync {
    /// Opens a port, until what is returned is dropped. Dropping may block.
    ///
    /// # Errors
    /// As of `bind(2)`: somebody else has the port.
    fn publish(&self, port: &PublishedPort) -> io::Result<Box<dyn Published>>;

    /// Who may lead clients to published TCP ports past this machine's own ports.
    fn router(&self) -> Option<Router> {
        None
    }
}

/// A neighbour of this machine that sends to containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Router {
    /// The interface that it is behind.
    pub(crate) interface: &'static str,
    pub(crate) address: IpAddr,
}

/// An open port.
pub(crate) trait Published: Send {}

/// Listens on this machine, and carries what comes to the container.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// Its own, so that a listener ends even when all threads of the engine's wait for just that.
    runtime: Option<Runtime>,
}

impl Listeners {
    /// # Errors
    /// No thread could be started.
    pub(crate) fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("ports")
            .enable_all()
            .build()
            .context(|| "start the threads that carry published ports".to_owned())?;
        Ok(Self { runtime: Some(runtime) })
    }
}

impl Listeners {
    fn handle(&self) -> io::Result<&Handle> {
        let runtime = self.runtime.as_ref().ok_or_else(|| io::Error::other("the engine ends"))?;
        Ok(runtime.handle())
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Ends a listener with everything that it carries.
struct Listening {
    task: AbortHandle,
    /// Closed when the task has let go of its sockets.
    ended: mpsc::Receiver<()>,
}

impl Listening {
    fn start(runtime: &Handle, serving: impl Future<Output = ()> + Send + 'static) -> Self {
        let (alive, ended) = mpsc::channel();
        let task = runtime.spawn(async move {
            let _alive = alive;
            serving.await;
        });
        Self { task: task.abort_handle(), ended }
    }
}

impl Published for Listening {}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        // The port is to be free when this returns.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

impl PortPublisher for Listeners {
    fn publish(&self, port: &PublishedPort) -> io::Result<Box<dyn Published>> {
        let runtime = self.handle()?;
        let _entered = runtime.enter();
        Ok(Box::new(match port.protocol {
            Protocol::Tcp => Listening::start(runtime, tcp::serve(tcp::listen(port.host)?, port.container)),
            Protocol::Udp => Listening::start(runtime, udp::serve(udp::bind(port.host)?, port.container)),
        }))
    }
}

/// A socket for `address` that, of IPv6, is of nothing else.
fn socket(address: SocketAddr, kind: rustix::net::SocketType) -> io::Result<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, bind, socket_with, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == rustix::net::SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// The ports that a container's configuration publishes.
///
/// # Errors
/// What is no port.
pub(super) fn wanted(
    bindings: &BTreeMap<String, Option<Vec<PortBinding>>>,
    exposed: &BTreeMap<String, Empty>,
    publish_all: bool,
) -> Result<Vec<WantedPort>> {
    let mut all = Vec::new();
    let nothing = [PortBinding::default()];
    for (port, bindings) in bindings {
        let (container_port, protocol) = split(port)?;
        let bindings = bindings.as_deref().unwrap_or_default();
        // What is exposed and bound to nothing is no port to publish, unless all are.
        let bindings = if bindings.is_empty() && publish_all { &nothing } else { bindings };
        all.extend(bindings.iter().map(|binding| WantedPort {
            container_port,
            protocol: protocol.clone(),
            host_ip: binding.host_ip.clone(),
            host_port: binding.host_port.clone(),
        }));
    }
    if publish_all {
        for port in exposed.keys() {
            let (container_port, protocol) = split(port)?;
            let has = |wanted: &WantedPort| {
                (wanted.container_port, &wanted.protocol) == (container_port, &protocol)
            };
            if !all.iter().any(has) {
                all.push(WantedPort { container_port, protocol, ..WantedPort::default() });
            }
        }
    }
    // Those that want a certain port come first, so that none is taken from them.
    all.sort_by_key(|wanted| (wanted.host_port.is_empty(), wanted.container_port, wanted.protocol.clone()));
    Ok(all)
}

/// `80/udp`; `80` is of TCP.
pub(crate) fn split(port: &str) -> Result<(u16, String)> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let number =
        number.parse().map_err(|_| Error::invalid(format!("invalid port specification: {number:?}")))?;
    Ok((number, protocol.to_lowercase()))
}

/// The host's ports that a binding allows, in order.
fn candidates(text: &str, first_dynamic: u16) -> Result<(Vec<u16>, bool)> {
    let invalid = || Error::invalid(format!("invalid port specification: {text:?}"));
    if matches!(text, "" | "0") {
        let (low, high) = dynamic_range();
        let start = first_dynamic.clamp(low, high);
        return Ok(((start..=high).chain(low..start).collect(), true));
    }
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high): (u16, u16) = (low.parse().map_err(|_| invalid())?, high.parse().map_err(|_| invalid())?);
    if low == 0 || high < low {
        return Err(invalid());
    }
    Ok(((low..=high).collect(), false))
}

fn dynamic_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(low), Some(high)) if low > 0 && low <= high => (low, high),
        _ => DYNAMIC,
    }
}

/// Ports that are open, and where, and what keeps them open.
pub(super) type Opened = (Vec<Mapping>, Vec<Box<dyn Published>>);

/// Where the ports of a container lead.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// The endpoint that is told to have failed.
    pub(super) endpoint: String,
    /// Where ports are published that name no address.
    pub(super) host_binding: Option<IpAddr>,
    pub(super) ipv4: Option<IpAddr>,
    pub(super) ipv6: Option<IpAddr>,
    /// Whether packets are routed there, of each family: no ports of this machine lead there then.
    pub(super) is_routed_v4: bool,
    pub(super) is_routed_v6: bool,
}

/// Everything that opening ports needs to know.
pub(super) struct Opening<'a> {
    pub(super) publisher: &'a dyn PortPublisher,
    /// What other containers have.
    pub(super) taken: Vec<Mapping>,
    pub(super) ends: Ends,
    pub(super) next_dynamic: &'a mut u16,
}

impl Opening<'_> {
    /// Opens the ports that a sandbox wants.
    ///
    /// # Errors
    /// In Docker's words. Nothing is left open then.
    pub(super) fn open(&mut self, sandbox: &Sandbox) -> Result<Opened> {
        let (mut mappings, mut open) = (Vec::new(), Vec::new());
        for wanted in &sandbox.wanted {
            let (of_one, opened) = self.open_one(wanted).map_err(|error| {
                Error::new(
                    error.kind(),
                    format!(
                        "driver failed programming external connectivity on endpoint {} ({})",
                        sandbox.name, self.ends.endpoint
                    ),
                )
                .because(error)
            })?;
            self.taken.extend(&of_one);
            mappings.extend(of_one);
            open.extend(opened);
        }
        mappings.sort_by_key(|mapping| (mapping.container_port, mapping.protocol));
        Ok((mappings, open))
    }

    fn open_one(&mut self, wanted: &WantedPort) -> Result<Opened> {
        let protocol = match wanted.protocol.as_str() {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            "sctp" => Transport::Sctp,
            other => return Err(Error::invalid(format!("invalid transport protocol: {other:?}"))),
        };
        let asked = match wanted.host_ip.trim_start_matches('[').trim_end_matches(']') {
            "" => self.ends.host_binding.filter(|address| *address != Ipv4Addr::UNSPECIFIED),
            text => {
                let invalid = || Error::invalid(format!("invalid IP address: {text}"));
                Some(text.parse().map_err(|_| invalid())?)
            }
        };
        let hosts = match asked {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let Ends { ipv4, ipv6, is_routed_v4, is_routed_v6, .. } = self.ends;
        let container = |host: &IpAddr| if host.is_ipv4() { ipv4 } else { ipv6.or(ipv4) };
        let is_routed = |host: &IpAddr| if host.is_ipv4() { is_routed_v4 } else { is_routed_v6 };
        let mapping = |host: IpAddr, host_port: u16| {
            let (container, container_port) = (container(&host)?, wanted.container_port);
            // Who is routed to has no place on this machine.
            let (host, host_port) = match (is_routed(&host), host) {
                (false, _) => (host, host_port),
                (true, IpAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED.into(), 0),
                (true, IpAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED.into(), 0),
            };
            Some(Mapping { host, host_port, container, container_port, protocol })
        };
        let (ports, dynamic) = candidates(&wanted.host_port, *self.next_dynamic)?;
        let mut failure = None;
        let only = ports.len() == 1;
        for host_port in ports {
            let mappings: Vec<Mapping> = hosts.iter().filter_map(|host| mapping(*host, host_port)).collect();
            match self.open_all(&mappings, asked.is_none()) {
                Ok(opened) => {
                    if dynamic && !opened.1.is_empty() {
                        *self.next_dynamic = host_port.checked_add(1).unwrap_or_default();
                    }
                    return Ok(opened);
                }
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.filter(|_| only).unwrap_or_else(|| Error::system("all ports are allocated")))
    }

    /// Opens ports that belong together: all or none.
    fn open_all(&self, mappings: &[Mapping], any_address: bool) -> Result<Opened> {
        let (mut made, mut open) = (Vec::new(), Vec::new());
        for mapping in mappings {
            if !mapping.is_of_the_host() {
                made.push(*mapping);
                continue;
            }
            let host = SocketAddr::new(mapping.host, mapping.host_port);
            if let Some(other) = self.taken.iter().find(|other| collide(other, mapping)) {
                let has = SocketAddr::new(other.host, other.host_port);
                return Err(Error::system(format!("Bind for {has} failed: port is already allocated")));
            }
            let container = SocketAddr::new(mapping.container, mapping.container_port);
            let Some(protocol) = mapping.protocol.carried() else {
                return Err(Error::not_implemented(format!(
                    "failed to bind host port for {host}:{container}/{}: only TCP and UDP ports are bound; where \
                     a network has the gateway mode \"routed\", the container's own port is reached",
                    mapping.protocol
                )));
            };
            let port = PublishedPort { host, container, protocol };
            match self.publisher.publish(&port) {
                Ok(opened) => {
                    made.push(*mapping);
                    open.push(opened);
                }
                // A machine without IPv6 publishes without it.
                Err(error) if any_address && host.is_ipv6() && has_no_ipv6(&error) => {}
                Err(error) => {
                    let reason = match rustix::io::Errno::from_io_error(&error) {
                        Some(rustix::io::Errno::ADDRINUSE) => "address already in use".to_owned(),
                        Some(rustix::io::Errno::ADDRNOTAVAIL) => "cannot assign requested address".to_owned(),
                        Some(errno) => errno_text(errno),
                        None => error.to_string(),
                    };
                    return Err(Error::system(format!(
                        "failed to bind host port for {host}:{container}/{}: {reason}",
                        mapping.protocol
                    )));
                }
            }
        }
        Ok((made, open))
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Whether two ports cannot both be open.
fn collide(one: &Mapping, other: &Mapping) -> bool {
    one.protocol == other.protocol
        && one.host_port == other.host_port
        && one.host.is_ipv4() == other.host.is_ipv4()
        && (one.host == other.host || one.host.is_unspecified() || other.host.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_is_dockers() {
        let binding = |ip: &str, port: &str| PortBinding { host_ip: ip.into(), host_port: port.into() };
        let bindings = BTreeMap::from([
            ("80/tcp".to_owned(), Some(vec![binding("", ""), binding("127.0.0.1", "8080")])),
            ("53/udp".to_owned(), None),
        ]);
        let exposed = BTreeMap::from([("80/tcp".to_owned(), Empty {}), ("99/tcp".to_owned(), Empty {})]);
        let shown = |publish_all| -> Vec<String> {
            let all = wanted(&bindings, &exposed, publish_all).unwrap();
            let show =
                |w: &WantedPort| format!("{}:{}:{}/{}", w.host_ip, w.host_port, w.container_port, w.protocol);
            all.iter().map(show).collect()
        };
        assert_eq!(shown(false), ["127.0.0.1:8080:80/tcp", "::80/tcp"]);
        assert_eq!(shown(true), ["127.0.0.1:8080:80/tcp", "::53/udp", "::80/tcp", "::99/tcp"]);
        assert!(split("http/tcp").is_err());
    }

    #[test]
    fn ports_are_tried_in_order() {
        assert_eq!(candidates("8080", 0).unwrap(), (vec![8080], false));
        assert_eq!(candidates("7000-7002", 0).unwrap(), (vec![7000, 7001, 7002], false));
        let (all, dynamic) = candidates("", 40_000).unwrap();
        assert!(dynamic && all[0] == 40_000 && all.last() == Some(&39_999));
        for text in ["x", "9-8", "99999", "-", "0-9"] {
            assert!(candidates(text, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn any_address_collides_with_each() {
        let mapping = |host: &str, host_port| Mapping {
            host: host.parse().unwrap(),
            host_port,
            container: host.parse().unwrap(),
            container_port: 80,
            protocol: Transport::Tcp,
        };
        assert!(collide(&mapping("0.0.0.0", 80), &mapping("127.0.0.1", 80)));
        assert!(!collide(&mapping("0.0.0.0", 80), &mapping("::", 80)));
        assert!(!collide(&mapping("127.0.0.2", 80), &mapping("127.0.0.1", 80)));
        let udp = Mapping { protocol: Transport::Udp, ..mapping("0.0.0.0", 80) };
        assert!(!collide(&mapping("0.0.0.0", 80), &udp));
    }
}
