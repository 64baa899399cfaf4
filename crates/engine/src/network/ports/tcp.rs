//! Published TCP ports: each connection is carried to the container, and each direction ends by itself.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_vsock::{VsockListener, VsockStream};

use super::splice;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// Bytes on their way in each direction of a connection from a machine's host.
const BUFFER: usize = 64 << 10;
/// After how long accepting is tried again, when there are no files left for it.
const PAUSE: Duration = Duration::from_millis(50);

/// Opens a port. The caller is in a runtime.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = super::socket(address, rustix::net::SocketType::STREAM)?;
    rustix::net::listen(&socket, BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Where connections come from.
pub(super) trait Accept: Send {
    type Client: Carry + Send + 'static;

    fn next(&mut self) -> impl Future<Output = io::Result<Self::Client>> + Send;
}

impl Accept for TcpListener {
    type Client = TcpStream;

    async fn next(&mut self) -> io::Result<TcpStream> {
        let (client, _) = self.accept().await?;
        let _ = client.set_nodelay(true);
        Ok(client)
    }
}

impl Accept for VsockListener {
    type Client = VsockStream;

    async fn next(&mut self) -> io::Result<VsockStream> {
        Ok(self.accept().await?.0)
    }
}

/// A connection that can be carried on to a container.
pub(super) trait Carry {
    /// Carries both directions, each to its own end.
    fn carry(self, server: TcpStream) -> impl Future<Output = io::Result<()>> + Send;
}

impl Carry for TcpStream {
    async fn carry(mut self, mut server: TcpStream) -> io::Result<()> {
        splice::both(&mut self, &mut server).await
    }
}

impl Carry for VsockStream {
    async fn carry(mut self, mut server: TcpStream) -> io::Result<()> {
        copy_bidirectional_with_sizes(&mut self, &mut server, BUFFER, BUFFER).await.map(drop)
    }
}

/// Carries what comes to `container`, until it is dropped.
pub(super) async fn serve(mut listener: impl Accept, container: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.next() => match accepted {
                Ok(client) => {
                    connections.spawn(carry(client, container));
                }
                Err(error) => {
                    tracing::debug!("accept for {container}: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn carry(client: impl Carry, container: SocketAddr) {
    // A connection that cannot be carried ends, as it would with nobody there.
    let Ok(server) = TcpStream::connect(container).await else { return };
    let _ = server.set_nodelay(true);
    let _ = client.carry(server).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_direction_that_ends_leaves_the_other_open() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = TcpListener::bind(any).await.unwrap();
        let listener = listen(any).unwrap();
        let port = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener, server.local_addr().unwrap()));
        let mut client = TcpStream::connect(port).await.unwrap();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut end, _) = server.accept().await.unwrap();
        let mut question = String::new();
        end.read_to_string(&mut question).await.unwrap();
        // Its direction has ended, ours has not.
        end.write_all(b"answer").await.unwrap();
        drop(end);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        serving.abort();
    }
}
