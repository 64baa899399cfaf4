//! Published UDP ports: whoever sends gets a socket of its own to the container, until both are silent.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UdpSocket,
    task::JoinSet,
    time::timeout,
};
use wire::ports::Datagram;

/// After how long of silence a sender is forgotten, as in Docker.
const SILENCE: Duration = Duration::from_secs(90);
/// How many senders are remembered; what others send is lost, as datagrams may be.
const MAX_SENDERS: usize = 1024;
/// The largest datagram.
const DATAGRAM: usize = 65_535;

type Senders = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

/// Opens a port. The caller is in a runtime.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(super::socket(address, rustix::net::SocketType::DGRAM)?.into())
}

/// Carries what comes to `container`, and its answers back, until it is dropped.
pub(super) async fn serve(port: UdpSocket, container: SocketAddr) {
    let port = Arc::new(port);
    let mut carrier = Carrier::new(Way::Port(port.clone()), container);
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            received = port.recv_from(&mut buffer) => {
                // An error tells of a datagram sent before that nobody took.
                let Ok((length, sender)) = received else { continue };
                carrier.carry(&buffer[..length], sender).await;
            }
            Some(_) = carrier.returning.join_next() => {}
        }
    }
}

/// The same for a port of the host's, whose datagrams come on a stream; until that ends.
pub(super) async fn serve_stream(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    container: SocketAddr,
) {
    let (mut from, to) = tokio::io::split(stream);
    let to: Box<dyn AsyncWrite + Send + Unpin> = Box::new(to);
    let mut carrier = Carrier::new(Way::Stream(Arc::new(tokio::sync::Mutex::new(to))), container);
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(datagram) = read(&mut from, &mut buffer).await {
        carrier.carry(&buffer[..usize::from(datagram.length)], datagram.peer).await;
        while carrier.returning.try_join_next().is_some() {}
    }
}

/// Reads a datagram with its head.
async fn read(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut head = [0; Datagram::HEAD];
    from.read_exact(&mut head).await?;
    let datagram = Datagram::decode(&head);
    from.read_exact(&mut buffer[..usize::from(datagram.length)]).await?;
    Ok(datagram)
}

/// Where answers go.
#[derive(Clone)]
enum Way {
    Port(Arc<UdpSocket>),
    Stream(Arc<tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>>),
}

impl Way {
    async fn give(&self, bytes: &[u8], peer: SocketAddr) -> io::Result<()> {
        match self {
            Self::Port(port) => port.send_to(bytes, peer).await.map(drop),
            Self::Stream(stream) => {
                let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
                let mut all = Datagram { length, peer }.encode().to_vec();
                all.extend(bytes);
                stream.lock().await.write_all(&all).await
            }
        }
    }
}

/// Who sends to a port, and what returns to them.
struct Carrier {
    way: Way,
    container: SocketAddr,
    senders: Senders,
    returning: JoinSet<()>,
}

impl Carrier {
    fn new(way: Way, container: SocketAddr) -> Self {
        Self { way, container, senders: Senders::default(), returning: JoinSet::new() }
    }

    async fn carry(&mut self, bytes: &[u8], sender: SocketAddr) {
        let socket = match get(&self.senders, sender) {
            Some(socket) => socket,
            None => {
                let Some(socket) = open(&self.senders, sender, self.container).await else { return };
                self.returning.spawn(give_back(
                    self.way.clone(),
                    socket.clone(),
                    self.senders.clone(),
                    sender,
                ));
                socket
            }
        };
        let _ = socket.send(bytes).await;
    }
}

fn get(senders: &Senders, sender: SocketAddr) -> Option<Arc<UdpSocket>> {
    senders.lock().unwrap_or_else(PoisonError::into_inner).get(&sender).cloned()
}

async fn open(senders: &Senders, sender: SocketAddr, container: SocketAddr) -> Option<Arc<UdpSocket>> {
    if senders.lock().unwrap_or_else(PoisonError::into_inner).len() >= MAX_SENDERS {
        return None;
    }
    let any: IpAddr =
        if container.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(container).await.ok()?;
    let socket = Arc::new(socket);
    senders.lock().unwrap_or_else(PoisonError::into_inner).insert(sender, socket.clone());
    Some(socket)
}

/// Carries answers until there are none for a while.
async fn give_back(way: Way, socket: Arc<UdpSocket>, senders: Senders, sender: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(received) = timeout(SILENCE, socket.recv(&mut buffer)).await {
        // Nobody listens in the container yet, or any more.
        let Ok(length) = received else { continue };
        let _ = way.give(&buffer[..length], sender).await;
    }
    senders.lock().unwrap_or_else(PoisonError::into_inner).remove(&sender);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_streams_datagrams_are_answered_on_it() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = UdpSocket::bind(any).await.unwrap();
        let (mut ours, theirs) = tokio::io::duplex(1 << 20);
        let serving = tokio::spawn(serve_stream(theirs, server.local_addr().unwrap()));
        let peers: [SocketAddr; 2] = [([192, 0, 2, 1], 53).into(), (std::net::Ipv6Addr::LOCALHOST, 9).into()];
        let mut buffer = [0; 16];
        for peer in peers {
            ours.write_all(&Datagram { length: 4, peer }.encode()).await.unwrap();
            ours.write_all(b"word").await.unwrap();
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], b"word");
            server.send_to(b"answer", from).await.unwrap();
            let answer = read(&mut ours, &mut buffer).await.unwrap();
            assert_eq!((answer.peer, &buffer[..usize::from(answer.length)]), (peer, &b"answer"[..]));
        }
        drop(ours);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn answers_come_back_to_who_asked() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = UdpSocket::bind(any).await.unwrap();
        let port = bind(any).unwrap();
        let address = port.local_addr().unwrap();
        let serving = tokio::spawn(serve(port, server.local_addr().unwrap()));
        let clients = [UdpSocket::bind(any).await.unwrap(), UdpSocket::bind(any).await.unwrap()];
        let mut buffer = [0; 16];
        for (number, client) in clients.iter().enumerate() {
            client.send_to(format!("{number}").as_bytes(), address).await.unwrap();
            let (length, from) = server.recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], format!("{number}").as_bytes());
            server.send_to(&buffer[..length], from).await.unwrap();
            let (length, from) = client.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], from), (format!("{number}").as_bytes(), address));
        }
        serving.abort();
    }
}
