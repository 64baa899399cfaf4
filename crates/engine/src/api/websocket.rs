use std::{
    future::{Future, ready},
    io,
};

use axum::{
    body::{Body, Bytes},
    extract::ws::{Message, WebSocket, WebSocketUpgrade},
    http::Response,
};
use futures_util::{SinkExt, StreamExt};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::hijack::Connection;

/// The largest message taken from a client, in bytes. A larger one ends the session.
const MAX_MESSAGE: usize = 1 << 20;
/// How much is read from a client, or gathered for one, at once, in bytes.
const BUFFER: usize = 16 * 1024;

/// Answers a request for a websocket (RFC 6455) and runs `session` on it, as on a plain connection.
///
/// What the session writes goes out as binary messages, cut as it was written. What the client sends is
/// taken as bytes, whether it calls them text or not. Closing a websocket closes both its directions, so
/// that the session sees an error when the client leaves, never the mere end of its input.
pub(super) fn serve<F, S>(mut upgrade: WebSocketUpgrade, session: F) -> Response<Body>
where
    F: FnOnce(Box<dyn Connection>) -> S + Send + 'static,
    S: Future<Output = ()> + Send + 'static,
{
    // Of protocols within the websocket Docker knows none, and agrees to what it is asked for.
    let protocol = upgrade.requested_protocols().next().cloned();
    if let Some(protocol) = protocol {
        upgrade.set_selected_protocol(protocol);
    }
    upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_failed_upgrade(|error| tracing::debug!("a client left before its session began: {error}"))
        .on_upgrade(move |socket| session(Box::new(as_connection(socket))))
}

/// A websocket as a stream of bytes in each direction.
fn as_connection(socket: WebSocket) -> impl Connection {
    let (sink, stream) = socket.split();
    let input = stream.filter_map(|message| {
        ready(match message {
            Ok(Message::Ping(_) | Message::Pong(_)) => None,
            Ok(Message::Close(_)) => Some(Err(io::ErrorKind::ConnectionAborted.into())),
            Ok(data) => Some(Ok(data.into_data())),
            Err(error) => Some(Err(io::Error::other(error))),
        })
    });
    let output = sink
        .sink_map_err(io::Error::other)
        .with(|bytes: Bytes| ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    tokio::io::join(StreamReader::new(input), SinkWriter::new(CopyToBytes::new(output)))
}
