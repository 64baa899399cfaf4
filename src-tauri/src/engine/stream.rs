//! Answers in pieces, and connections.
//!
//! What the engine says is gathered for a moment before it is handed on: a log of short lines would else
//! wake the window for each of them. And no more is handed on than the window has room for: it says what it has taken,
//! and until then the engine has to wait, as a slow reader of its socket lets it.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWriteExt},
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tokio_util::io::ReaderStream;

use super::exchange::{Engine, Head, Request, broken_off, pieces, whole};
use crate::error::{Error, Result};

/// How long pieces are gathered after the first, and how many bytes at most.
const GATHER: Duration = Duration::from_millis(8);
const GATHER_BYTES: usize = 256 << 10;
/// What may be under way to the window, in bytes.
const WINDOW: usize = 4 << 20;
/// What is read at once from a connection.
const READ: usize = 64 << 10;
/// Writes that wait for a connection to take them.
const WAITING_WRITES: usize = 16;

/// Where a stream's pieces go: the window, or a test.
pub(crate) trait Sink: Send + Sync + 'static {
    /// False when nobody is there any more.
    fn data(&self, bytes: Vec<u8>) -> bool;
    /// Nothing comes after it.
    fn end(&self, error: Option<Error>);
}

/// The streams that are open.
#[derive(Default)]
pub(crate) struct Streams {
    open: Arc<Mutex<HashMap<u32, Open>>>,
    last: AtomicU32,
}

struct Open {
    /// Of connections alone.
    writer: Option<mpsc::Sender<Write>>,
    under_way: Arc<UnderWay>,
    task: AbortHandle,
}

/// Bytes that were handed on to the window, and that it has not taken yet.
#[derive(Default)]
struct UnderWay {
    bytes: AtomicUsize,
    taken: Notify,
}

impl UnderWay {
    /// Adds so many, as soon as there is room for them.
    async fn add(&self, bytes: usize) {
        // One piece alone always goes, however long.
        let is_full = |now: usize| now > 0 && now + bytes > WINDOW;
        while is_full(self.bytes.load(Ordering::Relaxed)) {
            self.taken.notified().await;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was never handed on cannot be taken.
    fn taken(&self, bytes: usize) {
        let less = |now: usize| Some(now.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.taken.notify_one();
    }
}

enum Write {
    Bytes(Bytes, oneshot::Sender<Result<()>>),
    Finish(oneshot::Sender<Result<()>>),
}

/// A stream as the interface knows it.
#[derive(Debug, Serialize)]
pub(crate) struct Opened {
    pub(crate) id: u32,
    #[serde(flatten)]
    pub(crate) head: Head,
}

impl Streams {
    /// Sends a request, and hands the answer to `sink` from here on.
    ///
    /// # Errors
    /// Those of the request; a refusal of the engine's.
    pub(crate) async fn open(&self, engine: &Engine, request: Request, sink: impl Sink) -> Result<Opened> {
        let line = request.line();
        let wants_connection = request.upgrade;
        let response = engine.send(request.with_own_body()?).await?;
        if response.status().as_u16() >= 400 {
            return Err(whole(&line, response).await?.refusal());
        }
        let head = Head::of(response.status(), response.headers());
        let id = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let under_way = Arc::<UnderWay>::default();
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let connection = hyper::upgrade::on(response).await.map_err(|error| broken_off(&line, &error))?;
            let (reader, writer) = tokio::io::split(TokioIo::new(connection));
            let (writes, received) = mpsc::channel(WAITING_WRITES);
            let reading = hand_on(pieces_of_connection(line.clone(), reader), sink, Arc::clone(&under_way));
            let writing = write(line, writer, received);
            // The answer's end is the stream's, whatever could still be written.
            self.keep(id, Some(writes), under_way, async move {
                tokio::select! {
                    () = reading => {}
                    () = async { writing.await; std::future::pending().await } => {}
                }
            });
        } else if wants_connection {
            return Err(Error::host(format!("the engine answered {line} without opening a connection")));
        } else {
            let reading = hand_on(pieces(line, response), sink, Arc::clone(&under_way));
            self.keep(id, None, under_way, reading);
        }
        Ok(Opened { id, head })
    }

    /// Writes to a connection; returns when it has taken the bytes.
    pub(crate) async fn write(&self, id: u32, bytes: Vec<u8>) -> Result<()> {
        self.tell(id, |done| Write::Bytes(bytes.into(), done)).await
    }

    /// Says that nothing more is written.
    pub(crate) async fn finish(&self, id: u32) -> Result<()> {
        self.tell(id, Write::Finish).await
    }

    /// The window has taken so many bytes of what was handed on.
    pub(crate) fn taken(&self, id: u32, bytes: usize) {
        if let Some(open) = lock(&self.open).get(&id) {
            open.under_way.taken(bytes);
        }
    }

    /// Hangs up. A stream that is over is none.
    pub(crate) fn close(&self, id: u32) {
        if let Some(open) = lock(&self.open).remove(&id) {
            open.task.abort();
        }
    }

    /// Hangs up on everything: the window that listened is gone.
    pub(crate) fn close_all(&self) {
        for (_, open) in lock(&self.open).drain() {
            open.task.abort();
        }
    }

    fn keep(
        &self,
        id: u32,
        writer: Option<mpsc::Sender<Write>>,
        under_way: Arc<UnderWay>,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let streams = Arc::clone(&self.open);
        // Held until the task is listed: one that ends at once must find itself.
        let mut open = lock(&self.open);
        let task = tokio::spawn(async move {
            work.await;
            lock(&streams).remove(&id);
        });
        open.insert(id, Open { writer, under_way, task: task.abort_handle() });
    }

    async fn tell(&self, id: u32, what: impl FnOnce(oneshot::Sender<Result<()>>) -> Write) -> Result<()> {
        let over = || Error::unreachable("the connection is closed");
        let writer = match lock(&self.open).get(&id) {
            None => return Err(over()),
            Some(open) => open.writer.clone(),
        };
        let writer =
            writer.ok_or_else(|| Error::host("this stream is an answer: nothing can be written to it"))?;
        let (done, told) = oneshot::channel();
        writer.send(what(done)).await.map_err(|_| over())?;
        told.await.map_err(|_| over())?
    }
}

fn lock(open: &Mutex<HashMap<u32, Open>>) -> MutexGuard<'_, HashMap<u32, Open>> {
    // Every change is one insertion or removal.
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pieces_of_connection(
    line: String,
    reader: impl AsyncRead + Send,
) -> impl Stream<Item = Result<Bytes>> + Send {
    ReaderStream::with_capacity(reader, READ).map_err(move |error| broken_off(&line, &error))
}

/// Gathers pieces and hands them on until there are none.
async fn hand_on(
    pieces: impl Stream<Item = Result<Bytes>> + Send,
    sink: impl Sink,
    under_way: Arc<UnderWay>,
) {
    let mut pieces = std::pin::pin!(pieces);
    loop {
        let mut gathered = Vec::new();
        let mut until = None;
        let end = loop {
            let next = match until {
                None => pieces.next().await,
                Some(until) => match timeout_at(until, pieces.next()).await {
                    Ok(next) => next,
                    Err(_) => break None,
                },
            };
            match next {
                Some(Ok(piece)) => gathered.extend_from_slice(&piece),
                Some(Err(error)) => break Some(Some(error)),
                None => break Some(None),
            }
            if gathered.len() >= GATHER_BYTES {
                break None;
            }
            until.get_or_insert_with(|| Instant::now() + GATHER);
        };
        if !gathered.is_empty() {
            under_way.add(gathered.len()).await;
            if !sink.data(gathered) {
                return;
            }
        }
        if let Some(error) = end {
            return sink.end(error);
        }
    }
}

async fn write(
    line: String,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut received: mpsc::Receiver<Write>,
) {
    while let Some(write) = received.recv().await {
        let (result, done) = match write {
            Write::Bytes(bytes, done) => {
                let written = async {
                    to.write_all(&bytes).await?;
                    to.flush().await
                };
                (written.await, done)
            }
            Write::Finish(done) => (to.shutdown().await, done),
        };
        // Who does not wait for it does not want it.
        let _ = done.send(result.map_err(|error| broken_off(&line, &error)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        engine::testing::{FakeEngine, respond},
        error::Kind,
    };

    /// What a stream said.
    #[derive(Debug, PartialEq)]
    enum Said {
        Data(Vec<u8>),
        End(Option<Kind>),
    }

    struct Listener(mpsc::UnboundedSender<Said>);

    impl Sink for Listener {
        fn data(&self, bytes: Vec<u8>) -> bool {
            self.0.send(Said::Data(bytes)).is_ok()
        }

        fn end(&self, error: Option<Error>) {
            let _ = self.0.send(Said::End(error.map(|error| error.kind)));
        }
    }

    fn listener() -> (Listener, mpsc::UnboundedReceiver<Said>) {
        let (said, heard) = mpsc::unbounded_channel();
        (Listener(said), heard)
    }

    /// Everything said until the end, and the end.
    async fn until_end(heard: &mut mpsc::UnboundedReceiver<Said>) -> (Vec<u8>, Option<Kind>) {
        let mut all = Vec::new();
        loop {
            match heard.recv().await.expect("an end") {
                Said::Data(bytes) => all.extend(bytes),
                Said::End(error) => return (all, error),
            }
        }
    }

    #[tokio::test]
    async fn an_answer_comes_in_pieces_to_its_end() {
        let fake = FakeEngine::start(|_, mut stream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            for piece in ["1\r\na\r\n", "2\r\nbc\r\n", "0\r\n\r\n"] {
                stream.write_all(piece.as_bytes()).await.unwrap();
            }
        });
        let (sink, mut heard) = listener();
        let streams = Streams::default();
        let opened = streams.open(&fake.engine(), Request::get("/events"), sink).await.unwrap();
        assert_eq!(opened.head.status, 200);
        assert_eq!(until_end(&mut heard).await, (b"abc".to_vec(), None));
        assert!(heard.recv().await.is_none(), "nothing comes after the end");
        let error = streams.write(opened.id, b"x".to_vec()).await.unwrap_err();
        assert_eq!(error.kind, Kind::EngineUnreachable);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_says_so_after_what_came() {
        let fake = FakeEngine::start(|_, mut stream| async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
        });
        let (sink, mut heard) = listener();
        Streams::default().open(&fake.engine(), Request::get("/x"), sink).await.unwrap();
        assert_eq!(until_end(&mut heard).await, (b"abc".to_vec(), Some(Kind::EngineUnreachable)));
    }

    #[tokio::test]
    async fn a_refusal_opens_nothing() {
        let fake = FakeEngine::start(|_, mut stream| async move {
            respond(&mut stream, "409 Conflict", b"{\"message\":\"not running\"}").await;
        });
        let (sink, mut heard) = listener();
        let error = Streams::default().open(&fake.engine(), Request::get("/x"), sink).await.unwrap_err();
        assert_eq!((error.kind, error.status, &*error.message), (Kind::Engine, Some(409), "not running"));
        assert!(heard.recv().await.is_none());
    }

    /// Answers with a connection that sends back what it hears, then `bye` and hangs up.
    fn echo() -> FakeEngine {
        FakeEngine::start(|request, mut stream| async move {
            assert!(request.has("connection: upgrade") && request.has("upgrade: tcp"), "{}", request.head);
            stream
                .write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nhello ")
                .await
                .unwrap();
            let (mut reader, mut writer) = stream.split();
            // A client that hangs up is no failure of the test's.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.write_all(b" bye").await;
        })
    }

    fn attach() -> Request {
        Request::from_json(
            json!({"method": "POST", "path": "/containers/x/attach?stream=1", "upgrade": true}),
        )
    }

    #[tokio::test]
    async fn a_connection_carries_bytes_both_ways_to_the_end_of_each() {
        let fake = echo();
        let (sink, mut heard) = listener();
        let streams = Streams::default();
        let opened = streams.open(&fake.engine(), attach(), sink).await.unwrap();
        assert_eq!(opened.head.status, 101);
        let large = vec![7; 300_000];
        streams.write(opened.id, large.clone()).await.unwrap();
        streams.write(opened.id, b"!".to_vec()).await.unwrap();
        streams.finish(opened.id).await.unwrap();
        let expected = [&b"hello "[..], &large, b"! bye"].concat();
        assert_eq!(until_end(&mut heard).await, (expected, None));
    }

    #[tokio::test]
    async fn a_stream_that_is_closed_says_nothing_more() {
        let fake = echo();
        let (sink, mut heard) = listener();
        let streams = Streams::default();
        let opened = streams.open(&fake.engine(), attach(), sink).await.unwrap();
        assert_eq!(heard.recv().await, Some(Said::Data(b"hello ".to_vec())));
        streams.close(opened.id);
        streams.close(opened.id);
        assert!(heard.recv().await.is_none());
        assert!(streams.write(opened.id, b"x".to_vec()).await.is_err());
        let (sink, mut heard) = listener();
        streams.open(&fake.engine(), attach(), sink).await.unwrap();
        streams.close_all();
        while let Some(said) = heard.recv().await {
            assert!(matches!(said, Said::Data(_)), "{said:?}");
        }
    }

    #[tokio::test]
    async fn no_more_is_under_way_than_the_window_has_room_for() {
        let fake = FakeEngine::start(|_, mut stream| async move {
            respond(&mut stream, "200 OK", &vec![7; 3 * WINDOW]).await;
        });
        let (sink, mut heard) = listener();
        let streams = Streams::default();
        let opened = streams.open(&fake.engine(), Request::get("/x"), sink).await.unwrap();
        let (mut length, mut taken, mut waits) = (0, 0, 0);
        loop {
            match timeout_at(Instant::now() + Duration::from_millis(200), heard.recv()).await {
                Ok(Some(Said::Data(bytes))) => length += bytes.len(),
                Ok(Some(Said::End(error))) => {
                    assert_eq!((length, error), (3 * WINDOW, None));
                    break;
                }
                Ok(None) => panic!("no end came"),
                Err(_) => {
                    // Who says to have taken more than came makes no more room by it.
                    streams.taken(opened.id, usize::MAX);
                    (taken, waits) = (length, waits + 1);
                }
            }
            assert!(length <= taken + WINDOW, "{length} bytes came, and {taken} were taken");
        }
        assert!(waits >= 2, "it never waited");
    }

    #[tokio::test]
    async fn an_engine_that_opens_no_connection_is_an_error() {
        let fake =
            FakeEngine::start(|_, mut stream| async move { respond(&mut stream, "200 OK", b"x").await });
        let (sink, _heard) = listener();
        assert_eq!(
            Streams::default().open(&fake.engine(), attach(), sink).await.unwrap_err().kind,
            Kind::Host
        );
        let (sink, _heard) = listener();
        let streams = Streams::default();
        let opened = streams.open(&fake.engine(), Request::get("/x"), sink).await.unwrap();
        assert!(streams.write(opened.id, Vec::new()).await.is_err());
    }
}
