//! A request and its answer.

use std::{collections::BTreeMap, io, path::Path, path::PathBuf, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt};
use http_body_util::{BodyDataStream, BodyExt, Full, combinators::BoxBody};
use hyper::{
    Method, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http1,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use crate::error::{Error, Result};

/// The largest body that is held in memory, either way: what is longer goes through a stream or a file.
pub(crate) const MAX_BODY: usize = 16 << 20;
/// For the engine to accept a connection. It accepts at once or is gone; a machine's accepts while it boots.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// `EngineRequest` in `ui/src/backend/backend.ts`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    method: Verb,
    /// With its query, without a version.
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// One of both at most: text, or bytes in base64, which JSON has none of.
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    body_base64: Option<String>,
    /// Ask for a connection.
    #[serde(default)]
    pub(crate) upgrade: bool,
    /// What the body is made of, if it goes to a file or comes from one and is not the file itself.
    #[serde(default)]
    pub(crate) file: Option<Wrapping>,
}

/// What a file is in on the way between engine and host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Wrapping {
    /// The file alone in an archive, as `/containers/{id}/archive` gives and takes it.
    Tar,
    /// Docker's frames of output (`/containers/{id}/logs` without a terminal).
    Frames,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Verb {
    Get,
    Head,
    Post,
    Put,
    Delete,
}

/// The beginning of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case; the values of a field that comes several times are joined with `, `.
    pub(crate) headers: BTreeMap<String, String>,
}

/// An answer whose body has come whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Bytes,
}

/// The engine behind a socket.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    socket: PathBuf,
}

impl Request {
    /// A request of the shell's own.
    pub(crate) fn get(path: impl Into<String>) -> Request {
        Request {
            method: Verb::Get,
            path: path.into(),
            headers: BTreeMap::new(),
            body: None,
            body_base64: None,
            upgrade: false,
            file: None,
        }
    }

    #[cfg(test)]
    pub(crate) fn from_json(json: serde_json::Value) -> Request {
        serde_json::from_value(json).unwrap()
    }

    /// What it asks for, for messages.
    pub(crate) fn line(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} {path}", self.method().as_str())
    }

    fn method(&self) -> Method {
        match self.method {
            Verb::Get => Method::GET,
            Verb::Head => Method::HEAD,
            Verb::Post => Method::POST,
            Verb::Put => Method::PUT,
            Verb::Delete => Method::DELETE,
        }
    }

    /// The request with the body that it carries itself.
    pub(crate) fn with_own_body(mut self) -> Result<hyper::Request<Body>> {
        let body = match (self.body.take(), self.body_base64.take()) {
            (None, None) => return self.build(None, "application/json"),
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => Bytes::from(BASE64.decode(text).map_err(|error| {
                Error::host(format!("the body of {} is no base64: {error}", self.line()))
            })?),
            (Some(_), Some(_)) => return Err(Error::host(format!("{} has two bodies", self.line()))),
        };
        if body.len() > MAX_BODY {
            return Err(Error::host(format!(
                "a body of {} bytes is too long for {}: {MAX_BODY} at most; send a file",
                body.len(),
                self.line()
            )));
        }
        let body = Full::new(body).map_err(|never| match never {}).boxed();
        self.build(Some(body), "application/json")
    }

    /// The request with a body from elsewhere.
    pub(crate) fn with_body(self, body: Body) -> Result<hyper::Request<Body>> {
        if self.body.is_some() || self.body_base64.is_some() {
            return Err(Error::host(format!("{} has two bodies", self.line())));
        }
        self.build(Some(body), "application/x-tar")
    }

    fn build(self, body: Option<Body>, kind: &str) -> Result<hyper::Request<Body>> {
        let refused = |what: &str| Error::host(format!("{} cannot be asked: {what}", self.line()));
        if !self.path.starts_with('/') || self.path.starts_with("//") {
            return Err(refused("its path does not begin with one /"));
        }
        let uri: Uri = self.path.parse().map_err(|error| refused(&format!("its path is none: {error}")))?;
        let mut request = hyper::Request::new(match body {
            Some(body) => body,
            None => http_body_util::Empty::new().map_err(|never| match never {}).boxed(),
        });
        let with_body = hyper::body::Body::size_hint(request.body()).exact() != Some(0);
        *request.method_mut() = self.method();
        *request.uri_mut() = uri;
        let fields = request.headers_mut();
        for (name, value) in &self.headers {
            let name: HeaderName =
                name.parse().map_err(|_| refused(&format!("{name:?} is no name of a header field")))?;
            if is_of_the_connection(&name) {
                return Err(refused(&format!("the header field {name} is the connection's own")));
            }
            let value = HeaderValue::from_str(value)
                .map_err(|_| refused(&format!("the header field {name} has control characters")))?;
            fields.insert(name, value);
        }
        fields.insert(header::HOST, HeaderValue::from_static("docker"));
        if with_body && !fields.contains_key(header::CONTENT_TYPE) {
            let kind = HeaderValue::from_str(kind).map_err(|_| refused("its content type is none"))?;
            fields.insert(header::CONTENT_TYPE, kind);
        }
        if self.upgrade {
            fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            fields.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        }
        Ok(request)
    }
}

/// Fields that say where a message ends or whom it is for.
fn is_of_the_connection(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
}

impl Engine {
    pub(crate) fn at(socket: PathBuf) -> Engine {
        Engine { socket }
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(&self, request: hyper::Request<Body>) -> Result<Response<Incoming>> {
        let connected = tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(&self.socket)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(not_connected(&self.socket, &error)),
            Err(_) => {
                return Err(Error::unreachable(format!(
                    "the engine does not accept on {}; see the machine's log",
                    self.socket.display()
                )));
            }
        };
        let line = format!("{} {}", request.method(), request.uri().path());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken_off(&line, &error))?;
        // Ends with the answer's body, or when that is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!("a connection to the engine ended: {error}");
            }
        });
        sender.send_request(request).await.map_err(|error| broken_off(&line, &error))
    }

    /// A request answered whole, whatever its status.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer> {
        let line = request.line();
        let response = self.send(request.with_own_body()?).await?;
        whole(&line, response).await
    }
}

/// An answer's body. Trailers carry nothing that is wanted.
pub(crate) fn pieces(line: String, response: Response<Incoming>) -> impl Stream<Item = Result<Bytes>> + Send {
    BodyDataStream::new(response.into_body()).map_err(move |error| broken_off(&line, &error))
}

/// Reads an answer to its end.
pub(crate) async fn whole(line: &str, response: Response<Incoming>) -> Result<Answer> {
    let head = Head::of(response.status(), response.headers());
    let mut incoming = response.into_body();
    let mut body = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| broken_off(line, &error))?;
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > MAX_BODY {
            return Err(Error::host(format!(
                "the answer to {line} is longer than {MAX_BODY} bytes; read it as a stream or into a file"
            )));
        }
        body.extend_from_slice(&data);
    }
    Ok(Answer { head, body: body.freeze() })
}

impl Head {
    pub(crate) fn of(status: StatusCode, fields: &HeaderMap) -> Head {
        let mut headers: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in fields {
            let value = String::from_utf8_lossy(value.as_bytes());
            headers
                .entry(name.as_str().to_owned())
                .and_modify(|all| {
                    all.push_str(", ");
                    all.push_str(&value);
                })
                .or_insert_with(|| value.into_owned());
        }
        Head { status: status.as_u16(), headers }
    }
}

impl Answer {
    /// The answer, unless it refuses.
    pub(crate) fn accepted(self) -> Result<Answer> {
        if self.head.status < 400 { Ok(self) } else { Err(self.refusal()) }
    }

    /// What Docker says in `{"message": …}`, or the text as it came.
    pub(crate) fn refusal(&self) -> Error {
        #[derive(Deserialize)]
        struct Refusal {
            message: String,
        }
        let status = self.head.status;
        let message = match serde_json::from_slice::<Refusal>(&self.body) {
            Ok(refusal) => refusal.message,
            Err(_) if self.body.is_empty() => format!("the engine answered with status {status}"),
            Err(_) => String::from_utf8_lossy(&self.body).trim().to_owned(),
        };
        Error::refused_by_engine(status, message)
    }

    /// For the interface: the length of the head (four bytes, the highest first), the head as JSON, the body.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let head = serde_json::to_vec(&self.head)
            .map_err(|error| Error::host(format!("an answer's head is no JSON: {error}")))?;
        let length =
            u32::try_from(head.len()).map_err(|_| Error::host("an answer's head is longer than 4 GiB"))?;
        let mut whole = Vec::with_capacity(4 + head.len() + self.body.len());
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(&head);
        whole.extend_from_slice(&self.body);
        Ok(whole)
    }
}

fn not_connected(socket: &Path, error: &io::Error) -> Error {
    let socket = socket.display();
    Error::unreachable(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "the engine is not running; start the machine".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("{socket} belongs to another user; set CORACLE_HOME to a directory of yours")
        }
        _ => format!("cannot connect to {socket}: {error}"),
    })
}

/// An answer that ended before its end.
pub(crate) fn broken_off(line: &str, error: &dyn std::error::Error) -> Error {
    let mut words = format!("the engine hung up on {line}");
    let mut cause = Some(error);
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    Error::unreachable(words)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        engine::testing::{FakeEngine, respond},
        error::Kind,
    };

    #[tokio::test]
    async fn a_request_arrives_as_asked_and_its_answer_comes_back() {
        let fake = FakeEngine::start(|request, mut stream| async move {
            assert!(
                request.head.starts_with("POST /containers/create?name=a%20b HTTP/1.1\r\n"),
                "{}",
                request.head
            );
            assert!(request.has("host: docker") && request.has("content-type: application/json"));
            assert_eq!(request.body, b"{\"Image\":\"x\"}");
            respond(&mut stream, "201 Created\r\nX-A: 1\r\nX-A: 2", b"{\"Id\":\"1\"}").await;
        });
        let request = Request::from_json(json!({
            "method": "POST", "path": "/containers/create?name=a%20b", "body": "{\"Image\":\"x\"}"
        }));
        let answer = fake.engine().ask(request).await.unwrap();
        assert_eq!((answer.head.status, &*answer.body), (201, &b"{\"Id\":\"1\"}"[..]));
        assert_eq!(answer.head.headers["x-a"], "1, 2");
        let encoded = answer.encode().unwrap();
        let length = u32::from_be_bytes(encoded[..4].try_into().unwrap());
        let (head, body) = encoded[4..].split_at(usize::try_from(length).unwrap());
        assert_eq!(serde_json::from_slice::<serde_json::Value>(head).unwrap()["status"], 201);
        assert_eq!(body, b"{\"Id\":\"1\"}");
    }

    #[tokio::test]
    async fn bytes_are_sent_as_they_are_with_their_own_type() {
        let fake = FakeEngine::start(|request, mut stream| async move {
            assert_eq!(request.body, [0, 255, 10]);
            assert!(request.has("content-type: application/x-tar"));
            respond(&mut stream, "200 OK", b"").await;
        });
        let request = Request::from_json(json!({
            "method": "PUT", "path": "/x", "body_base64": "AP8K", "headers": {"Content-Type": "application/x-tar"}
        }));
        fake.engine().ask(request).await.unwrap().accepted().unwrap();
    }

    #[tokio::test]
    async fn a_refusal_has_dockers_status_and_words() {
        for (body, words) in [
            (&b"{\"message\":\"No such container: x\"}"[..], "No such container: x"),
            (b"page not found\n", "page not found"),
            (b"", "status 404"),
        ] {
            let fake = FakeEngine::start(move |_, mut stream| async move {
                respond(&mut stream, "404 Not Found", body).await;
            });
            let answer = fake.engine().ask(Request::get("/x")).await.unwrap();
            let error = answer.accepted().unwrap_err();
            assert_eq!((error.kind, error.status), (Kind::Engine, Some(404)));
            assert!(error.message.contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn without_an_engine_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let ask = || async { Engine::at(socket.clone()).ask(Request::get("/_ping")).await.unwrap_err() };
        let missing = ask().await;
        // A socket whose owner was killed.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        for error in [missing, ask().await] {
            assert_eq!(error.kind, Kind::EngineUnreachable);
            assert!(error.message.contains("start the machine"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_hangs_up_or_talks_nonsense_is_an_error() {
        use tokio::io::AsyncWriteExt;
        for answer in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
            b"hello\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let fake = FakeEngine::start(move |_, mut stream| async move {
                let _ = stream.write_all(answer).await;
            });
            let error = fake.engine().ask(Request::get("/x")).await.unwrap_err();
            assert_eq!(error.kind, Kind::EngineUnreachable);
            assert!(error.message.contains("GET /x"), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_never_ends_is_cut_off() {
        use tokio::io::AsyncWriteExt;
        let fake = FakeEngine::start(|_, mut stream| async move {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
            while stream.write_all(&chunk).await.is_ok() {}
        });
        let error = fake.engine().ask(Request::get("/logs")).await.unwrap_err();
        assert!(error.message.contains("stream"), "{error}");
    }

    #[test]
    fn what_could_break_out_of_a_request_is_refused() {
        for (path, headers) in [
            ("http://elsewhere/x", json!({})),
            ("//elsewhere/x", json!({})),
            ("", json!({})),
            ("/x y", json!({})),
            ("/x\r\nHost: y", json!({})),
            ("/x", json!({"Host": "elsewhere"})),
            ("/x", json!({"content-length": "0"})),
            ("/x", json!({"Transfer-Encoding": "chunked"})),
            ("/x", json!({"A": "b\r\nC: d"})),
            ("/x", json!({"A b": "c"})),
        ] {
            let request = Request::from_json(json!({"method": "GET", "path": path, "headers": headers}));
            assert!(request.with_own_body().is_err(), "{path:?} {headers}");
        }
        for method in ["CONNECT", "get", "PATCH", ""] {
            assert!(serde_json::from_value::<Request>(json!({"method": method, "path": "/x"})).is_err());
        }
        for body in [json!({"body_base64": "?"}), json!({"body": "x", "body_base64": "AP8K"})] {
            let mut request = json!({"method": "POST", "path": "/x"});
            request.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            assert!(Request::from_json(request).with_own_body().is_err(), "{body}");
        }
        let long = "x".repeat(MAX_BODY + 1);
        let request = Request::from_json(json!({"method": "POST", "path": "/x", "body": long}));
        assert!(request.with_own_body().unwrap_err().message.contains("file"));
    }
}
