//! Asking the engine whether it serves: a real request over its own socket.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use super::waiting::{PowerRequest, wait_readable};

/// HTTP/1.0, so that the engine closes the connection and the answer ends.
const REQUEST: &[u8] = b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n";

/// More than any answer to a ping has.
const MAX_ANSWER: usize = 16 * 1024;

/// How the engine answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Serves,
    /// It speaks, but not as it should; its status line.
    Refuses(String),
}

/// Sends the request and waits for the answer. `None` when `give_up` or the power-off came first.
///
/// # Errors
/// `TimedOut` at the deadline; others when the engine hangs up.
pub(crate) fn ping(
    socket: &Path,
    give_up: impl AsFd,
    power: &PowerRequest,
    deadline: Instant,
) -> io::Result<Option<Answer>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        if let Some(judged) = judge(&answer) {
            return Ok(Some(judged));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let [readable, gone, stop] =
            wait_readable([stream.as_fd(), give_up.as_fd(), power.as_fd()], Some(left))?;
        if gone || stop {
            return Ok(None);
        }
        if !readable && left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if readable {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => answer.extend_from_slice(&buffer[..length]),
            }
        }
    }
}

/// Judges by the status line, once it is complete. RFC 9112, section 4.
fn judge(answer: &[u8]) -> Option<Answer> {
    let end = match answer.iter().position(|&byte| byte == b'\n') {
        Some(end) => end,
        None if answer.len() > MAX_ANSWER => answer.len(),
        None => return None,
    };
    let line = String::from_utf8_lossy(answer.get(..end).unwrap_or(answer));
    let mut words = line.split_ascii_whitespace();
    let http = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    if http && words.next() == Some("200") {
        Some(Answer::Serves)
    } else {
        Some(Answer::Refuses(line.trim().chars().take(200).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn only_a_complete_status_line_is_judged() {
        assert_eq!(judge(b""), None);
        assert_eq!(judge(b"HTTP/1.0 20"), None);
        assert_eq!(judge(b"HTTP/1.0 200 OK\r\nApi-Version: 1.51\r\n"), Some(Answer::Serves));
        assert_eq!(judge(b"HTTP/1.1 200 OK\n"), Some(Answer::Serves));
        assert_eq!(
            judge(b"HTTP/1.1 503 Service Unavailable\r\n"),
            Some(Answer::Refuses("HTTP/1.1 503 Service Unavailable".into()))
        );
        assert_eq!(judge(b"\r\n"), Some(Answer::Refuses(String::new())));
        assert!(matches!(judge(&[0xff; MAX_ANSWER + 1]), Some(Answer::Refuses(text)) if text.len() < 1000));
    }

    #[test]
    fn a_served_ping_is_answered_and_a_silent_engine_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let power = PowerRequest::new().unwrap();
        let never = PowerRequest::new().unwrap();
        let far = Instant::now() + std::time::Duration::from_secs(600);
        let listener = UnixListener::bind(&socket).unwrap();
        let late = ping(&socket, &never, &power, Instant::now()).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        listener.accept().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; REQUEST.len()];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nOK").unwrap();
            (listener, request)
        });
        assert_eq!(ping(&socket, &never, &power, far).unwrap(), Some(Answer::Serves));
        let (_listener, request) = server.join().unwrap();
        assert_eq!(request, REQUEST);
        power.request(std::time::Duration::ZERO).unwrap();
        assert_eq!(ping(&socket, &never, &power, far).unwrap(), None);
    }
}
