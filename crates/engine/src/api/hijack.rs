use std::future::Future;

use axum::{
    body::Body,
    extract::Request,
    http::{Response, StatusCode, header},
};
use futures_util::TryStreamExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::{ReaderStream, StreamReader};

/// What a session reads from and writes to.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

/// How the bytes of a session are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// A terminal's bytes as they are.
    Raw,
    /// Standard output and error, told apart by eight-byte headers.
    Multiplexed,
}

impl StreamKind {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Raw => "application/vnd.docker.raw-stream",
            Self::Multiplexed => "application/vnd.docker.multiplexed-stream",
        }
    }
}

/// How many bytes may wait between a session and a client that did not upgrade.
const BUFFER: usize = 64 * 1024;

/// Takes the connection over from HTTP and runs `session` on it.
///
/// A client that asks for an upgrade (every current one does) gets `101 UPGRADED` and then the bare
/// connection: either side can close its half. Others get the session's output as the body of a 200
/// answer, and the session reads the request's body.
pub(crate) fn hijack<F, S>(mut request: Request, kind: StreamKind, session: F) -> Response<Body>
where
    F: FnOnce(Box<dyn Connection>) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind.content_type()));
    if let Some(protocol) = request.headers().get(header::UPGRADE).cloned() {
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => session(Box::new(TokioIo::new(upgraded))).await,
                Err(error) => tracing::debug!("a client left before its session began: {error}"),
            }
        });
    } else {
        let input = request.into_body().into_data_stream().map_err(std::io::Error::other);
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let (output, mut to_session) = tokio::io::split(theirs);
        tokio::spawn(async move {
            let mut input = StreamReader::new(input);
            // An error here is the client going away; the session sees the end of its input.
            let _ = tokio::io::copy(&mut input, &mut to_session).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut to_session).await;
        });
        tokio::spawn(session(Box::new(ours)));
        // Docker names the kind of stream only to clients that upgrade.
        let raw = header::HeaderValue::from_static(StreamKind::Raw.content_type());
        response.headers_mut().insert(header::CONTENT_TYPE, raw);
        *response.body_mut() = Body::from_stream(ReaderStream::new(output));
    }
    response
}
