//! A small HTTP/1.1 client, for what the `docker` command line cannot show: exact status codes, headers, half-closed
//! hijacked connections.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tungstenite::WebSocket;

use crate::namespace::Namespace;
use crate::wait;

/// How long one read or write may block.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Who answers.
#[derive(Clone)]
pub enum Server {
    Unix(PathBuf),
    /// A TCP port inside a namespace.
    Tcp(Arc<Namespace>, SocketAddr),
}

/// A connection, whichever kind of socket it is.
#[derive(Debug)]
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Ends our direction and leaves the other open.
    pub fn half_close(&self) -> Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
        }
        .context("half-closing a connection")
    }

    fn limit(&self, timeout: Duration) -> Result<()> {
        let timeout = Some(wait::remaining(timeout));
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(timeout).and_then(|()| stream.set_write_timeout(timeout))
            }
        }
        .context("setting a socket's time-out")
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A request that is to be sent; each gets a connection of its own.
pub struct Request<'a> {
    server: &'a Server,
    method: &'a str,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Duration,
}

impl Server {
    pub fn request<'a>(&'a self, method: &'a str, target: impl Into<String>) -> Request<'a> {
        let (headers, body) = (Vec::new(), Vec::new());
        Request { server: self, method, target: target.into(), headers, body, timeout: TIMEOUT }
    }

    pub fn get(&self, target: impl Into<String>) -> Request<'_> {
        self.request("GET", target)
    }

    pub fn post(&self, target: impl Into<String>) -> Request<'_> {
        self.request("POST", target)
    }

    pub fn delete(&self, target: impl Into<String>) -> Request<'_> {
        self.request("DELETE", target)
    }

    fn connect(&self) -> Result<Stream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path)
                .map(Stream::Unix)
                .with_context(|| format!("connecting to {}", path.display())),
            Self::Tcp(namespace, address) => namespace.connect(*address).map(Stream::Tcp),
        }
    }
}

impl Request<'_> {
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// How long each read may block.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it and reads the whole answer.
    pub fn send(self) -> Result<Response> {
        let what = format!("{} {}", self.method, self.target);
        let head_only = self.method == "HEAD";
        let mut open = self.header("Connection", "close").open().with_context(|| what.clone())?;
        let mut body = Vec::new();
        if !head_only {
            open.read_to_end(&mut body).with_context(|| format!("reading the answer to {what}"))?;
        }
        Ok(Response { what, status: open.status, headers: open.headers, body })
    }

    /// Sends it and reads the head of the answer; the body is left to be read piece by piece.
    pub fn open(self) -> Result<Open> {
        let mut stream = self.server.connect()?;
        stream.limit(self.timeout)?;
        let host = match self.server {
            Server::Unix(_) => "docker".to_owned(),
            Server::Tcp(_, address) => address.to_string(),
        };
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || matches!(self.method, "POST" | "PUT") {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).context("sending a request")?;
        // A server may refuse a body halfway and close; its answer says more than our broken pipe.
        let sent = stream.write_all(&self.body);
        let mut reader = BufReader::new(stream);
        let (status, headers) = read_head(&mut reader).or_else(|error| match sent {
            Ok(()) => Err(error),
            Err(sending) => Err(sending).context("sending a request's body"),
        })?;
        let field = |name: &str| find(&headers, name);
        let left = if field("Transfer-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            Left::Chunk(0)
        } else if let Some(length) = field("Content-Length") {
            Left::Bytes(length.parse().context("Content-Length is no number")?)
        } else {
            Left::UntilEnd
        };
        Ok(Open { status, headers, reader, left, timeout: self.timeout })
    }

    /// Asks for a websocket.
    pub fn websocket(self) -> Result<WebSocket<Stream>> {
        let stream = self.server.connect()?;
        stream.limit(self.timeout)?;
        let uri = format!("ws://docker{}", self.target);
        tungstenite::client(uri.as_str(), stream)
            .map(|(socket, _)| socket)
            .map_err(|error| anyhow::anyhow!("asking for a websocket at {}: {error}", self.target))
    }

    /// Asks for the connection itself, as `docker attach` and `docker exec` do.
    pub fn hijack(self) -> Result<Open> {
        let open = self.header("Connection", "Upgrade").header("Upgrade", "tcp").open()?;
        if open.status != 101 {
            let status = open.status;
            let mut open = open;
            let mut body = String::new();
            let _ = open.read_to_string(&mut body);
            bail!("expected 101 to a request to upgrade, got {status}: {body}");
        }
        Ok(open)
    }
}

fn read_head(reader: &mut impl BufRead) -> Result<(u16, Vec<(String, String)>)> {
    let mut line = String::new();
    let mut next = |line: &mut String| -> Result<()> {
        line.clear();
        let read = reader.read_line(line).context("reading the head of an answer")?;
        ensure!(read > 0, "the connection ended before the answer did");
        line.truncate(line.trim_end().len());
        Ok(())
    };
    next(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no HTTP status line: {line:?}"))?;
    let mut headers = Vec::new();
    loop {
        next(&mut line)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').with_context(|| format!("no HTTP header: {line:?}"))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// What is left of a body.
enum Left {
    Bytes(u64),
    /// Bytes left of the current chunk; 0 before the next chunk's size line.
    Chunk(u64),
    UntilEnd,
    Over,
}

/// An answer whose body is still to be read, or a hijacked connection.
pub struct Open {
    pub status: u16,
    headers: Vec<(String, String)>,
    reader: BufReader<Stream>,
    left: Left,
    timeout: Duration,
}

impl Open {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The next line of the body; `None` at its end.
    pub fn line(&mut self) -> Result<Option<String>> {
        self.reader.get_ref().limit(self.timeout)?;
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            if self.read(&mut byte).context("reading a line of an answer")? == 0 {
                break;
            }
            if byte == *b"\n" {
                return Ok(Some(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned()));
            }
            line.extend_from_slice(&byte);
        }
        Ok((!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned()))
    }

    /// Writes to a hijacked connection.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.get_mut().write_all(bytes).context("writing to a hijacked connection")
    }

    /// Ends our direction of a hijacked connection.
    pub fn half_close(&self) -> Result<()> {
        self.reader.get_ref().half_close()
    }

    /// Reads Docker's multiplexed stream to its end and takes it apart into standard output and standard error.
    pub fn demultiplex(&mut self) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut whole = Vec::new();
        self.read_to_end(&mut whole).context("reading a multiplexed stream")?;
        demultiplex(&whole)
    }
}

/// Takes Docker's multiplexed stream apart: frames of a stream number, three zeros, and a big-endian length.
pub fn demultiplex(mut bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<8>().context("a frame's head is cut off")?;
        let [stream, 0, 0, 0, a, b, c, d] = *head else {
            bail!("no frame of a multiplexed stream: {head:?}")
        };
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
        let (frame, rest) = rest.split_at_checked(length).context("a frame is cut off")?;
        match stream {
            1 => out.extend_from_slice(frame),
            2 => err.extend_from_slice(frame),
            other => bail!("a frame of stream {other}"),
        }
        bytes = rest;
    }
    Ok((out, err))
}

impl Read for Open {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let limit = match &mut self.left {
            // Whatever the connection does from here on is none of the answer.
            Left::Over | Left::Bytes(0) => return Ok(0),
            Left::UntilEnd => u64::MAX,
            Left::Bytes(left) => *left,
            Left::Chunk(left) => {
                if *left == 0 {
                    let mut line = String::new();
                    self.reader.read_line(&mut line)?;
                    *left = u64::from_str_radix(line.trim(), 16)
                        .map_err(|_| std::io::Error::other(format!("no chunk size: {line:?}")))?;
                    if *left == 0 {
                        self.reader.read_line(&mut line)?;
                        self.left = Left::Over;
                        return Ok(0);
                    }
                }
                *left
            }
        };
        let room = buffer.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        let read = self.reader.read(&mut buffer[..room])?;
        let taken = read as u64;
        match &mut self.left {
            Left::Bytes(left) if read == 0 && *left > 0 => {
                return Err(std::io::Error::other(format!("the body ended {left} bytes too soon")));
            }
            Left::Bytes(left) => *left -= taken,
            Left::Chunk(_) if read == 0 => {
                return Err(std::io::Error::other("the body ended within a chunk"));
            }
            Left::Chunk(left) => {
                *left -= taken;
                if *left == 0 {
                    self.reader.read_line(&mut String::new())?;
                }
            }
            _ => {}
        }
        Ok(read)
    }
}

/// A whole answer.
pub struct Response {
    what: String,
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.what, self.status, String::from_utf8_lossy(&self.body).trim())
    }
}

impl Response {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Fails, showing the answer, unless it has this status.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "expected status {status} of {self}");
        Ok(self)
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {self}"))
    }

    /// The `message` of an error in Docker's form; fails if there is anything beside it.
    pub fn message(&self) -> Result<String> {
        let json = self.json()?;
        let fields = json.as_object().with_context(|| format!("no JSON object: {self}"))?;
        ensure!(fields.len() == 1, "expected `message` alone in {self}");
        let kind = self.header("Content-Type").unwrap_or_default();
        ensure!(kind == "application/json", "content type {kind:?} of {self}");
        Ok(fields
            .get("message")
            .and_then(Value::as_str)
            .with_context(|| format!("no message in {self}"))?
            .to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiplexed_streams_come_apart() {
        let mut bytes =
            vec![1, 0, 0, 0, 0, 0, 0, 2, b'a', b'b', 2, 0, 0, 0, 0, 0, 0, 1, b'x', 1, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(demultiplex(&bytes).unwrap(), (b"ab".to_vec(), b"x".to_vec()));
        bytes.push(1);
        assert!(demultiplex(&bytes).is_err());
        assert!(demultiplex(&[9, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
