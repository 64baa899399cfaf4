//! The resolver that containers in networks of the user's find at 127.0.0.11.
//!
//! Its sockets are in the container's namespace, on ports that the kernel chooses; rules there lead port 53 to
//! them, so that the container's own programs may have that port at any address. What is no container's name is
//! forwarded as it came.

mod answer;
mod forward;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net,
    runtime::Handle,
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{names::Names, netlink::Socket, nft};
use answer::{Answer, failed};
use forward::Upstream;

/// Where containers find it, as in Docker.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
/// How many questions of one container are open at once; who asks more is told that it failed.
const MAX_OPEN: usize = 256;
/// How many TCP connections of one container are open at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a TCP connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// The largest message.
const MESSAGE: usize = 65_535;

/// Sockets in a container's namespace, before anyone serves them.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens them in the namespace of this thread, where loopback is up, and leads port 53 to them.
    pub(super) fn open() -> io::Result<Self> {
        let any = (ADDRESS, 0);
        let (udp, tcp) = (UdpSocket::bind(any)?, TcpListener::bind(any)?);
        let (udp_port, tcp_port) = (udp.local_addr()?.port(), tcp.local_addr()?.port());
        nft::resolver(&mut Socket::netfilter()?, IpAddr::V4(ADDRESS), PORT, udp_port, tcp_port)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self { udp, tcp })
    }
}

/// The resolver of one container; dropping it ends it.
pub(super) struct Resolver(AbortHandle);

impl Drop for Resolver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a container's questions are answered from.
struct Context {
    container: String,
    names: Arc<Names>,
    upstream: Upstream,
    open: Semaphore,
}

/// How a question came, and is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    /// Serves a container. `servers` are asked instead of this machine's, from the container's `namespace`.
    pub(super) fn start(
        runtime: &Handle,
        sockets: Sockets,
        container: String,
        names: Arc<Names>,
        servers: &[String],
        namespace: PathBuf,
    ) -> io::Result<Self> {
        let _entered = runtime.enter();
        let udp = net::UdpSocket::from_std(sockets.udp)?;
        let tcp = net::TcpListener::from_std(sockets.tcp)?;
        let upstream = Upstream::new(servers, namespace);
        let context = Arc::new(Context { container, names, upstream, open: Semaphore::new(MAX_OPEN) });
        let serving = runtime.spawn(async move {
            tokio::join!(serve_udp(udp, context.clone()), serve_tcp(tcp, context));
        });
        Ok(Self(serving.abort_handle()))
    }
}

async fn serve_udp(socket: net::UdpSocket, context: Arc<Context>) {
    let socket = Arc::new(socket);
    let mut open = JoinSet::new();
    let mut buffer = vec![0; MESSAGE];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                // An error tells of an answer that nobody waited for.
                let Ok((length, from)) = received else { continue };
                let question = buffer[..length].to_vec();
                let (context, socket) = (context.clone(), socket.clone());
                if open.len() >= MAX_OPEN {
                    continue;
                }
                open.spawn(async move { answer_udp(&context, &socket, question, from).await });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn answer_udp(context: &Context, socket: &net::UdpSocket, question: Vec<u8>, from: SocketAddr) {
    if let Some(answer) = context.answer(&question, Transport::Udp).await {
        let _ = socket.send_to(&answer, from).await;
    }
}

async fn serve_tcp(listener: net::TcpListener, context: Arc<Context>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                Ok((connection, _)) => {
                    let context = context.clone();
                    open.spawn(async move { converse(&context, connection).await });
                }
                Err(error) => {
                    tracing::debug!("accept a question: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

/// Answers the questions of a connection, one after another.
async fn converse(context: &Context, mut connection: net::TcpStream) -> Option<()> {
    loop {
        let question = timeout(SILENCE, read_message(&mut connection)).await.ok()?.ok()?;
        let answer = context.answer(&question, Transport::Tcp).await?;
        timeout(SILENCE, write_message(&mut connection, &answer)).await.ok()?.ok()?;
    }
}

/// A message with its length before it (RFC 1035, 4.2.2).
async fn read_message(connection: &mut net::TcpStream) -> io::Result<Vec<u8>> {
    let length = connection.read_u16().await?;
    let mut message = vec![0; length.into()];
    connection.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(connection: &mut net::TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    connection.write_all(&bytes).await
}

impl Context {
    /// The answer to a question; `None` to what is no question.
    async fn answer(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match answer::answer(question, &self.container, &self.names)? {
            Answer::Own(answer) => Some(answer),
            Answer::Forward => match self.open.try_acquire() {
                Ok(_open) => Some(match self.upstream.ask(question, transport).await {
                    Some(answer) => answer,
                    None => failed(question)?,
                }),
                Err(_) => failed(question),
            },
        }
    }
}
