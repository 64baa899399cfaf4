//! Published ports of an engine in a machine: its host opens them, too ([`wire::ports`]).

use std::{
    io::{self, BufReader, Read},
    net::{Shutdown, SocketAddr, SocketAddrV4},
    time::Duration,
};

use rustix::io::Errno;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};
use vsock::VsockStream;
use wire::{
    line,
    network::{CARD, GATEWAY},
    ports::{self, Open, Opened},
    vsock::HOST_CID,
};

use super::{Listeners, Listening, PortPublisher, Protocol, Published, PublishedPort, Router, tcp, udp};
use crate::error::{Result, errno_of, errno_text};

/// How long the host may take to open a port, and to close it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens ports here, for containers and for the machine itself, and has the host open them.
pub(crate) struct HostPorts {
    here: Listeners,
    /// The host's vsock port that is asked.
    port: u32,
}

impl HostPorts {
    /// # Errors
    /// No thread could be started.
    pub(crate) fn new(port: u32) -> Result<Self> {
        Ok(Self { here: Listeners::new()?, port })
    }

    fn ask(&self, wanted: &Open) -> io::Result<VsockStream> {
        let host = VsockStream::connect_with_cid_port(HOST_CID, self.port)?;
        host.set_read_timeout(Some(PATIENCE))?;
        host.set_write_timeout(Some(PATIENCE))?;
        line::write(&host, wanted)?;
        match line::read(&mut BufReader::new(&host))? {
            Some(Opened::Open) => Ok(host),
            Some(Opened::Refused { errno, hint }) if hint.is_empty() => {
                Err(io::Error::from_raw_os_error(errno))
            }
            Some(Opened::Refused { errno, hint }) => {
                let error = io::Error::from_raw_os_error(errno);
                let reason = errno_text(errno_of(&error));
                Err(io::Error::new(error.kind(), format!("{reason} on the host: {hint}")))
            }
            None => Err(io::Error::other("the host opens no more ports")),
        }
    }
}

impl HostPorts {
    /// Opens a port on the host, and not here.
    /// `container` is where its TCP clients may be led by the host's router.
    pub(super) fn open_on_host(
        &self,
        port: &PublishedPort,
        container: Option<SocketAddrV4>,
    ) -> io::Result<OnHost> {
        let runtime = self.here.handle()?;
        let _entered = runtime.enter();
        let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, libc::VMADDR_PORT_ANY))?;
        let guest_port = listener.local_addr()?.port();
        let (protocol, carrying) = match port.protocol {
            Protocol::Tcp => {
                (ports::Protocol::Tcp, Listening::start(runtime, tcp::serve(listener, port.container)))
            }
            Protocol::Udp => {
                let container = port.container;
                let serving = async move {
                    if let Ok((stream, _)) = listener.accept().await {
                        udp::serve_stream(stream, container).await;
                    }
                };
                (ports::Protocol::Udp, Listening::start(runtime, serving))
            }
        };
        let host = self.ask(&Open { address: port.host, protocol, guest_port, container })?;
        Ok(OnHost { host, _carrying: carrying })
    }
}

impl PortPublisher for HostPorts {
    fn publish(&self, port: &PublishedPort) -> io::Result<Box<dyn Published>> {
        let here = match self.here.publish(port) {
            Ok(here) => Some(here),
            // An address of the host's own.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) => None,
            Err(error) => return Err(error),
        };
        let container = match (port.protocol, port.container) {
            (Protocol::Tcp, SocketAddr::V4(container)) => Some(container),
            _ => None,
        };
        Ok(Box::new(OnBoth { _host: self.open_on_host(port, container)?, _here: here }))
    }

    fn router(&self) -> Option<Router> {
        Some(Router { interface: CARD, address: GATEWAY.into() })
    }
}

/// A port that is open on the host and here.
struct OnBoth {
    _host: OnHost,
    _here: Option<Box<dyn Published>>,
}

impl Published for OnBoth {}

/// A port that is open on the host.
pub(super) struct OnHost {
    host: VsockStream,
    _carrying: Listening,
}

impl Published for OnHost {}

impl Drop for OnHost {
    fn drop(&mut self) {
        // The host closes its direction when the port is free, or is gone.
        if self.host.shutdown(Shutdown::Write).is_ok() {
            let _ = self.host.read(&mut [0]);
        }
    }
}
