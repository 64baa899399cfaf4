//! `attach`: a client on a process's standard streams.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{
    Container, Containers,
    detach_keys::{DetachKeys, Watcher},
    logs::{self, LogFile, LogQuery, PastEnd},
    multiplex,
    streams::{Hub, Pieces},
};
use crate::error::{Error, Result};

/// How much of a client's input is read at once, in bytes.
const INPUT: usize = 32 * 1024;

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) struct AttachRequest {
    /// What was logged before, first.
    pub(crate) logs: bool,
    /// What comes from now on.
    pub(crate) stream: bool,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    /// Standard output and error are told apart by headers, unless they are a terminal's.
    pub(crate) multiplexed: bool,
    pub(crate) detach_keys: DetachKeys,
}

/// A client that was promised everything from the moment of its request on.
#[derive(Debug)]
pub(crate) struct Attachment {
    containers: Containers,
    container: Arc<Container>,
    session: Session,
    past: Option<(Arc<LogFile>, PastEnd)>,
    request: AttachRequest,
}

impl Containers {
    /// A container that a client can attach to now.
    ///
    /// # Errors
    /// No such container; one that is paused or waits for a restart, in Docker's words.
    pub(crate) fn check_attach(&self, name: &str) -> Result<Arc<Container>> {
        let container = self.get(name)?;
        let state = container.state();
        if state.is_paused() {
            return Err(Error::conflict(format!(
                "container {name} is paused, unpause the container before attach"
            )));
        }
        if state.is_restarting() {
            return Err(Error::conflict(format!(
                "container {name} is restarting, wait until the container is running"
            )));
        }
        Ok(container)
    }

    /// Attaches a client to a container, which may not have been started yet.
    ///
    /// # Errors
    /// As [`Containers::check_attach`]; logs that cannot be read.
    pub(crate) fn attach(&self, name: &str, request: AttachRequest) -> Result<Attachment> {
        let container = self.check_attach(name)?;
        let record = container.record();
        let hub = container.hub();
        let (pieces, end) = hub.attach(request.stdout, request.stderr);
        let past = match (request.logs, &container.log, end) {
            (false, ..) => None,
            (true, Some(log), Some(end)) => Some((log.clone(), end)),
            (true, ..) => return Err(logs::unreadable()),
        };
        let session = Session {
            hub,
            pieces,
            multiplexed: request.multiplexed && !record.config.tty,
            terminal: record.config.tty,
            input: (request.stdin && record.config.open_stdin).then_some(Input {
                ends_process_input: record.config.stdin_once,
                detach_keys: record.config.tty.then(|| request.detach_keys.clone()),
            }),
        };
        // Before the client is answered: it may start the container next, and events tell their order.
        self.emit(&container, "attach", &[]);
        Ok(Attachment { containers: self.clone(), container, session, past, request })
    }
}

/// How long the answer's head is on its way alone before output that was there already follows it. docker-py
/// depends on its coming alone, as it does from Docker.
const HEAD_START: Duration = Duration::from_millis(5);

impl Attachment {
    /// Whether the client gets bytes without headers.
    pub(crate) fn is_raw(&self) -> bool {
        !self.session.multiplexed
    }

    /// Serves the client until the output ends or the client leaves.
    pub(crate) async fn run(self, connection: impl AsyncRead + AsyncWrite + Send) {
        let (input, mut output) = tokio::io::split(connection);
        if let Some((log, end)) = self.past {
            // Clients that read the answer's head through a buffer lose what arrives together with it.
            tokio::time::sleep(HEAD_START).await;
            let query = LogQuery {
                stdout: self.request.stdout,
                stderr: self.request.stderr,
                multiplexed: self.session.multiplexed,
                ..LogQuery::default()
            };
            let mut past = std::pin::pin!(logs::replay(log, query, end));
            while let Some(piece) = past.next().await {
                let Ok(piece) = piece else { break };
                if output.write_all(&piece).await.is_err() {
                    return;
                }
            }
        }
        if !self.request.stream {
            // An error means that the client has gone.
            let _ = output.shutdown().await;
        } else if self.session.run(input, output).await == Left::Detached {
            self.containers.emit(&self.container, "detach", &[]);
        }
    }
}

/// A client's connection to a process.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) hub: Arc<Hub>,
    pub(super) pieces: Pieces,
    pub(super) multiplexed: bool,
    pub(super) terminal: bool,
    /// `None` when what the client sends is of no interest.
    pub(super) input: Option<Input>,
}

/// What becomes of a client's input.
#[derive(Debug)]
pub(super) struct Input {
    /// Its end is the end of the process's input, unless that is a terminal.
    pub(super) ends_process_input: bool,
    pub(super) detach_keys: Option<DetachKeys>,
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The output ended, or nobody reads it.
    Ended,
    /// The client typed its detach keys.
    Detached,
}

impl Session {
    pub(super) async fn run(
        self,
        input: impl AsyncRead + Send + Unpin,
        mut output: impl AsyncWrite + Send + Unpin,
    ) -> Left {
        let Self { hub, mut pieces, multiplexed, terminal, input: wanted } = self;
        let left = {
            let writing = async {
                while let Some(piece) = pieces.next().await {
                    if multiplexed {
                        let header = multiplex::header(piece.source, piece.bytes.len());
                        write_both(&mut output, &header, piece.bytes).await?;
                    } else {
                        output.write_all(&piece.bytes).await?;
                    }
                    output.flush().await?;
                }
                std::io::Result::Ok(())
            };
            tokio::pin!(writing);
            let reading = read_input(input, &hub, wanted, terminal);
            tokio::select! {
                // An error means that the client has gone.
                _ = &mut writing => Left::Ended,
                gone = reading => match gone {
                    Gone::OutputWanted => {
                        let _ = writing.await;
                        Left::Ended
                    }
                    Gone::Entirely => Left::Ended,
                    Gone::Detached => Left::Detached,
                },
            }
        };
        // An error means that the client does not need to be told.
        let _ = output.shutdown().await;
        left
    }
}

/// Writes a header and what it is for, at once where the connection can.
async fn write_both(
    output: &mut (impl AsyncWrite + Unpin),
    header: &[u8],
    bytes: Bytes,
) -> std::io::Result<()> {
    output.write_all_buf(&mut bytes::Buf::chain(header, bytes)).await
}

/// What a client's input said at its end.
enum Gone {
    OutputWanted,
    Entirely,
    Detached,
}

async fn read_input(
    mut input: impl AsyncRead + Unpin,
    hub: &Arc<Hub>,
    wanted: Option<Input>,
    terminal: bool,
) -> Gone {
    let mut watcher = None;
    if let Some(wanted) = &wanted
        && let Some(keys) = &wanted.detach_keys
    {
        watcher = Some(Watcher::new(keys.clone()));
    }
    let mut buffer = Vec::with_capacity(0);
    loop {
        buffer.clear();
        buffer.reserve(INPUT);
        let read = match (&mut input).take(INPUT as u64).read_buf(&mut buffer).await {
            Ok(read) => read,
            // Reset: the client's other half is gone, too.
            Err(_) => {
                if wanted.is_some_and(|wanted| wanted.ends_process_input) && !terminal {
                    hub.close_stdin();
                }
                return Gone::Entirely;
            }
        };
        let Some(wanted) = &wanted else {
            if read == 0 {
                return Gone::OutputWanted;
            }
            continue;
        };
        if read == 0 {
            if wanted.ends_process_input && !terminal {
                hub.close_stdin();
                return Gone::OutputWanted;
            }
            // As in Docker: a client that stops typing leaves, and the process keeps its input.
            return Gone::Entirely;
        }
        let mut detached = false;
        let passed = match &mut watcher {
            None => hub.write_stdin(&buffer[..read]).await,
            Some(watcher) => {
                let (passed, found) = watcher.take(&buffer[..read]);
                detached = found;
                hub.write_stdin(&passed).await
            }
        };
        if detached {
            return Gone::Detached;
        }
        if passed.is_err() {
            // The process closed its input; what is typed now goes nowhere.
            return drain(input).await;
        }
    }
}

/// Reads what nobody takes, so that the client's end is seen.
async fn drain(mut input: impl AsyncRead + Unpin) -> Gone {
    match tokio::io::copy(&mut input, &mut tokio::io::sink()).await {
        Ok(_) => Gone::OutputWanted,
        Err(_) => Gone::Entirely,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{container::streams::Source, runtime::Streams};

    /// A session on a process that says `output` and ends.
    async fn session(terminal: bool, output: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let hub = Hub::new(None);
        let (pieces, _) = hub.attach(true, true);
        let (reader, mut writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&reader, true).unwrap();
        hub.begin(Streams { stdout: Some(reader.into()), ..Streams::default() }).unwrap();
        writer.write_all(output).unwrap();
        drop(writer);
        hub.end();
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (input, output) = tokio::io::split(ours);
        let session = Session { hub, pieces, multiplexed: !terminal, terminal, input: None };
        assert_eq!(session.run(input, output).await, Left::Ended);
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn output_is_multiplexed_unless_it_is_a_terminals() {
        let mut expected = multiplex::header(Source::Stdout, 5).to_vec();
        expected.extend_from_slice(b"hello");
        assert_eq!(session(false, b"hello").await, expected);
        assert_eq!(session(true, b"hello").await, b"hello");
    }

    #[tokio::test]
    async fn the_end_of_input_is_passed_on_only_where_it_is_wanted() {
        for (ends, terminal) in [(true, false), (false, false), (true, true)] {
            let hub = Hub::new(None);
            let (pieces, _) = hub.attach(true, true);
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let (input, output) = tokio::io::split(ours);
            let wanted = Input { ends_process_input: ends, detach_keys: None };
            let session =
                Session { hub: hub.clone(), pieces, multiplexed: !terminal, terminal, input: Some(wanted) };
            let running = tokio::spawn(session.run(input, output));
            theirs.shutdown().await.unwrap();
            if ends && !terminal {
                // The client stays for the output.
                while hub.write_stdin(b"x").await.is_ok() {}
                assert!(!running.is_finished());
                hub.close();
            }
            assert_eq!(running.await.unwrap(), Left::Ended);
        }
    }

    #[tokio::test]
    async fn detach_keys_end_the_session_and_leave_the_process_alone() {
        let hub = Hub::new(None);
        let (pieces, _) = hub.attach(true, true);
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let (input, output) = tokio::io::split(ours);
        let wanted = Input { ends_process_input: true, detach_keys: Some(DetachKeys::default()) };
        let session =
            Session { hub: hub.clone(), pieces, multiplexed: false, terminal: true, input: Some(wanted) };
        theirs.write_all(b"\x10\x11").await.unwrap();
        assert_eq!(session.run(input, output).await, Left::Detached);
        assert!(!hub.is_closed());
    }
}
