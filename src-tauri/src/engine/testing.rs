//! An engine for tests: accepts on a Unix socket, reads a request, and does what it is told.

use std::future::Future;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::exchange::Engine;

pub(crate) struct FakeEngine {
    folder: tempfile::TempDir,
}

/// A request as it came.
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn has(&self, field: &str) -> bool {
        self.head.lines().any(|line| line.eq_ignore_ascii_case(field))
    }
}

impl FakeEngine {
    /// Serves every connection by `serve`, each in a task of its own.
    pub(crate) fn start<F, Served>(serve: F) -> FakeEngine
    where
        F: Fn(Received, UnixStream) -> Served + Send + Sync + Clone + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        FakeEngine::start_unread(move |mut stream| {
            let serve = serve.clone();
            async move {
                let received = read(&mut stream).await;
                serve(received, stream).await;
            }
        })
    }

    /// The same with connections of which nothing was read.
    pub(crate) fn start_unread<F, Served>(serve: F) -> FakeEngine
    where
        F: Fn(UnixStream) -> Served + Send + Sync + 'static,
        Served: Future<Output = ()> + Send + 'static,
    {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        FakeEngine { folder }
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::at(self.folder.path().join("docker.sock"))
    }
}

/// Reads a request with a body of a known length, or in chunks to their end (whose frames stay in it).
async fn read(stream: &mut UnixStream) -> Received {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            panic!("no request: {bytes:?}");
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut body = bytes[end..].to_vec();
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    if let Some(length) = length {
        while body.len() < length {
            assert_ne!(stream.read_buf(&mut body).await.unwrap(), 0, "a body that is cut off");
        }
    } else if lower.contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            if stream.read_buf(&mut body).await.unwrap() == 0 {
                break;
            }
        }
    }
    Received { head, body }
}

/// `status` may have header fields after it.
pub(crate) async fn respond(stream: &mut UnixStream, status: &str, body: &[u8]) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
}
