//! An engine's API as a client: one request on one connection to its socket.

use std::{
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Header fields of an answer that are read.
const MAX_FIELDS: usize = 64;
/// The longest JSON answer that is read, in bytes.
const MAX_JSON: u64 = 64 << 20;
/// The longest line that begins a chunk, in bytes.
const MAX_CHUNK_LINE: u64 = 1 << 10;

/// Where an engine listens.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    socket: PathBuf,
}

/// An answer whose body has not been read yet.
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, String)>,
    body: Body,
}

impl Engine {
    pub(crate) fn at(socket: PathBuf) -> Engine {
        Engine { socket }
    }

    /// A request without a body. `target` is a path with its query, encoded.
    ///
    /// # Errors
    /// Nobody answers; an answer that is none. One that refuses is no error.
    pub(crate) fn ask(&self, method: &str, target: &str) -> Result<Answer> {
        let (mut stream, reader) = self.connect()?;
        let told = write!(stream, "{method} {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
        told.and_then(|()| stream.flush()).with_context(|| self.broken())?;
        self.answer(reader, method == "HEAD")
    }

    /// A request with a body, as long as `write` has something to say.
    ///
    /// # Errors
    /// As [`Engine::ask`], and those of `write`, unless the engine has refused before its end.
    pub(crate) fn send(
        &self,
        method: &str,
        target: &str,
        kind: &str,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Answer> {
        let (mut stream, reader) = self.connect()?;
        write!(
            stream,
            "{method} {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Transfer-Encoding: chunked\r\n\r\n"
        )
        .with_context(|| self.broken())?;
        let mut body = BufWriter::with_capacity(64 << 10, Chunks(stream));
        let written = write(&mut body);
        let ended = match &written {
            Ok(()) => body.flush().and_then(|()| body.get_mut().end()),
            // Without its end the body is no whole one, which the engine can tell.
            Err(_) => body.get_ref().0.get_ref().shutdown(Shutdown::Write),
        };
        // What a broken buffer holds must not be written after all.
        let (_stream, _) = body.into_parts();
        let answer = self.answer(reader, false);
        match (written, answer) {
            // What could not be said, rather than what the engine makes of its half.
            (Err(error), _) if !is_broken(&error) => Err(error),
            // Why it was not heard to its end.
            (_, Ok(answer)) if answer.status >= 400 => Ok(answer),
            (Err(error), _) => Err(error),
            (Ok(()), answer) => {
                ended.with_context(|| self.broken())?;
                answer
            }
        }
    }

    fn connect(&self) -> Result<(BufWriter<UnixStream>, BufReader<UnixStream>)> {
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("no engine answers at {}", self.socket.display()))?;
        let reader = stream.try_clone().context("cannot copy a socket")?;
        Ok((BufWriter::new(stream), BufReader::new(reader)))
    }

    fn broken(&self) -> String {
        format!("the connection to the engine at {} broke off", self.socket.display())
    }

    fn answer(&self, mut reader: BufReader<UnixStream>, headless: bool) -> Result<Answer> {
        let head = read_head(&mut reader).with_context(|| self.broken())?;
        let (status, fields) = parse_head(&head)
            .with_context(|| format!("what answers at {} is no engine", self.socket.display()))?;
        let field = |name: &str| find(&fields, name);
        let left = if headless || matches!(status, 204 | 304) {
            Left::Bytes(0)
        } else if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            Left::Chunks { of_this: 0, first: true }
        } else if let Some(length) = field("content-length") {
            Left::Bytes(length.parse().context("the engine's answer has an odd length")?)
        } else {
            Left::UntilTheEnd
        };
        Ok(Answer { status, fields, body: Body { reader, left } })
    }
}

impl Answer {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        find(&self.fields, name)
    }

    /// The body as it comes. One that is cut short ends with an error.
    pub(crate) fn body(self) -> Body {
        self.body
    }

    /// The body as JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(self) -> Result<T> {
        let mut bytes = Vec::new();
        self.body.take(MAX_JSON).read_to_end(&mut bytes).context("the engine's answer broke off")?;
        serde_json::from_slice(&bytes).context("the engine's answer is not what was asked for")
    }

    /// The answer, if it is none that refuses.
    ///
    /// # Errors
    /// What the engine said.
    pub(crate) fn accepted(self) -> Result<Answer> {
        if self.status < 400 {
            return Ok(self);
        }
        let status = self.status;
        match self.json::<serde_json::Value>() {
            Ok(json) if json["message"].is_string() => {
                bail!("{}", json["message"].as_str().unwrap_or_default())
            }
            _ => bail!("the engine answered with status {status}"),
        }
    }
}

/// Whether the other side did not want to hear more.
fn is_broken(error: &anyhow::Error) -> bool {
    let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    error
        .chain()
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| kinds.contains(&error.kind()))
}

fn find<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.as_str())
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let room = (MAX_HEAD - head.len()) as u64;
        if reader.by_ref().take(room).read_until(b'\n', &mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn parse_head(head: &[u8]) -> Result<(u16, Vec<(String, String)>)> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    if !response.parse(head).context("an odd answer")?.is_complete() {
        bail!("an answer without an end");
    }
    let status = response.code.context("an answer without a status")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = response.headers.iter().map(|field| (field.name.to_owned(), text(field.value)));
    Ok((status, fields.collect()))
}

/// An answer's body.
pub(crate) struct Body {
    reader: BufReader<UnixStream>,
    left: Left,
}

/// What is yet to come of a body.
enum Left {
    Bytes(u64),
    /// RFC 9112, section 7.1.
    Chunks {
        of_this: u64,
        first: bool,
    },
    UntilTheEnd,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if let Left::Chunks { of_this: of_this @ 0, first } = &mut self.left {
            *of_this = next_chunk(&mut self.reader, *first)?;
            *first = false;
            if *of_this == 0 {
                self.left = Left::Bytes(0);
            }
        }
        let left = match &mut self.left {
            Left::UntilTheEnd => return self.reader.read(buffer),
            Left::Bytes(0) => return Ok(0),
            Left::Bytes(left) | Left::Chunks { of_this: left, .. } => left,
        };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.reader.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *left -= length as u64;
        Ok(length)
    }
}

/// The size of the next chunk; 0 for the last. What may come after that one is of no interest.
fn next_chunk(reader: &mut impl BufRead, first: bool) -> io::Result<u64> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "an odd chunk of an answer");
    let mut line = Vec::new();
    let mut next_line = |line: &mut Vec<u8>| {
        line.clear();
        reader.by_ref().take(MAX_CHUNK_LINE).read_until(b'\n', line)
    };
    // The end of the chunk before.
    if !first {
        next_line(&mut line)?;
        if line != b"\r\n" {
            return Err(if line.is_empty() { io::ErrorKind::UnexpectedEof.into() } else { odd() });
        }
    }
    next_line(&mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    match httparse::parse_chunk_size(&line) {
        Ok(httparse::Status::Complete((_, size))) => Ok(size),
        _ => Err(odd()),
    }
}

/// Writes what it is given as chunks.
struct Chunks(BufWriter<UnixStream>);

impl Chunks {
    fn end(&mut self) -> io::Result<()> {
        self.0.write_all(b"0\r\n\r\n")?;
        self.0.flush()
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An empty chunk would be the last.
        if !bytes.is_empty() {
            write!(self.0, "{:x}\r\n", bytes.len())?;
            self.0.write_all(bytes)?;
            self.0.write_all(b"\r\n")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The path of a unix address.
///
/// # Errors
/// Another kind of address.
pub(crate) fn socket_of(address: &str) -> Result<PathBuf> {
    match address.strip_prefix("unix://").map(Path::new) {
        Some(path) if path.is_absolute() => Ok(path.to_owned()),
        _ => bail!("{address:?} is no address of an engine: use unix:///absolute/path"),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// Serves one connection with `answer`; what it was asked.
    fn serve(answer: &'static [u8]) -> (tempfile::TempDir, Engine, thread::JoinHandle<Vec<u8>>) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let serving = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer).unwrap() {
                    0 => break,
                    length => asked.extend_from_slice(&buffer[..length]),
                }
            }
            stream.write_all(answer).unwrap();
            asked
        });
        (directory, Engine::at(socket), serving)
    }

    fn body(answer: &'static [u8]) -> io::Result<String> {
        let (_directory, engine, serving) = serve(answer);
        let mut text = String::new();
        let read = engine.ask("GET", "/x").unwrap().body().read_to_string(&mut text);
        serving.join().unwrap();
        read.map(|_| text)
    }

    #[test]
    fn bodies_of_every_kind_are_read() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and more").unwrap(), "hello");
        assert_eq!(body(b"HTTP/1.1 200 OK\r\n\r\nhello").unwrap(), "hello");
        let chunks =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(body(chunks).unwrap(), "hello");
        assert_eq!(body(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), "");
    }

    #[test]
    fn what_is_cut_short_or_odd_is_an_error() {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!!0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        ] {
            assert!(body(answer).is_err(), "{}", String::from_utf8_lossy(answer));
        }
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\n", b"hello\r\n\r\n", b"HTTP/1.1 x\r\n\r\n"] {
            let (_directory, engine, serving) = serve(answer);
            assert!(engine.ask("GET", "/x").is_err(), "{}", String::from_utf8_lossy(answer));
            serving.join().unwrap();
        }
    }

    #[test]
    fn what_the_engine_says_is_told() {
        let (_directory, engine, serving) =
            serve(b"HTTP/1.1 404 Not Found\r\nContent-Length: 22\r\n\r\n{\"message\":\"no such\"}\n");
        let error = engine.ask("GET", "/x").unwrap().accepted().err().unwrap();
        assert_eq!(error.to_string(), "no such");
        assert!(serving.join().unwrap().starts_with(b"GET /x HTTP/1.1\r\n"));
    }

    #[test]
    fn a_body_is_sent_in_chunks() {
        let (_directory, engine, serving) = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        let write = |to: &mut dyn Write| Ok(to.write_all(b"hello")?);
        assert_eq!(engine.send("PUT", "/x", "text/plain", write).unwrap().status, 200);
        // The head alone was waited for: the rest may have come with it or not.
        assert!(serving.join().unwrap().starts_with(b"PUT /x HTTP/1.1\r\n"));
    }

    #[test]
    fn addresses_are_sockets() {
        assert_eq!(socket_of("unix:///run/x").unwrap(), Path::new("/run/x"));
        for odd in ["tcp://1.2.3.4:5", "unix://x", "/run/x", ""] {
            assert!(socket_of(odd).is_err(), "{odd}");
        }
    }
}
