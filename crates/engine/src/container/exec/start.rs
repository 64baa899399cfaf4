//! `POST /exec/{id}/start`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use wire::docker::exec::ExecStartRequest;

use super::{Containers, Exec, Progress, What};
use crate::{
    container::{
        Container,
        attach::{Input, Left, Session},
        multiplex,
        streams::{Pieces, Source},
    },
    error::{Error, Result},
    runtime::{self, ExitWatch, Stdio, Streams},
};

/// How long output may come after the end of an exec.
const LAST_OUTPUT: Duration = Duration::from_secs(2);
/// How long a resize waits for an exec that is being started.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How an exec is started.
pub(crate) enum ExecStart {
    /// It runs by itself.
    Detached,
    /// A client is to be served.
    Attached(ExecAttachment),
}

/// An exec that is started once its client can be served.
pub(crate) struct ExecAttachment {
    containers: Containers,
    exec: Arc<Exec>,
    /// Whether the client takes output as it is, without headers.
    raw: bool,
    size: Option<(u16, u16)>,
    pieces: Pieces,
}

/// Rows and columns as the runtime takes them; nobody has more.
pub(super) fn terminal_size([rows, columns]: [u32; 2]) -> (u16, u16) {
    let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    (number(rows), number(columns))
}

impl Containers {
    /// Starts an exec that was created; one that a client attaches to starts with
    /// [`ExecAttachment::run`].
    ///
    /// # Errors
    /// An exec that has run or runs already, a container that cannot run it now, a command that cannot
    /// be run (only detached: an attached client is told on its connection), in Docker's words.
    pub(crate) async fn start_exec(&self, id: &str, request: &ExecStartRequest) -> Result<ExecStart> {
        let exec = self.active_exec(id)?;
        {
            let mut progress = exec.progress();
            match *progress {
                Progress::Created => *progress = Progress::Starting,
                Progress::Starting | Progress::Running { .. } => {
                    return Err(Error::conflict(format!("exec command {id} is already running")));
                }
                Progress::Ended { .. } => {
                    return Err(Error::conflict(format!("exec command {id} has already run")));
                }
            }
        }
        let action = format!("exec_start: {}", exec.what.line());
        self.emit(&exec.container, &action, &[("execID", id)]);
        let size = request.console_size.map(terminal_size).or(exec.what.size);
        if request.detach {
            self.launch_exec(&exec, size).await?;
            return Ok(ExecStart::Detached);
        }
        let (pieces, _) = exec.hub.attach(exec.what.stdout, exec.what.stderr);
        Ok(ExecStart::Attached(ExecAttachment {
            containers: self.clone(),
            exec,
            raw: request.tty,
            size,
            pieces,
        }))
    }

    async fn launch_exec(&self, exec: &Arc<Exec>, size: Option<(u16, u16)>) -> Result<()> {
        let what = &exec.what;
        let stdio = Stdio { terminal: what.terminal.then(|| size.unwrap_or_default()), stdin: what.stdin };
        let started = async {
            let process = self.exec_process(&exec.container, what).await?;
            let running = self.0.runtime.exec(&exec.container.id, &exec.id, &process, stdio).await?;
            self.serve_exec(exec, running.pid, running.streams, running.exit)
        };
        let started = started.await;
        if let Err(error) = &started {
            let exit_code = runtime::start_exit_code(error);
            *exec.progress() = Progress::Ended { exit_code, pid: 0, at: Instant::now() };
            exec.container.exec_ids().remove(&exec.id);
            exec.hub.close();
        }
        started
    }

    /// Serves an exec's streams and waits for its end.
    fn serve_exec(&self, exec: &Arc<Exec>, pid: u32, streams: Streams, exit: ExitWatch) -> Result<()> {
        *exec.progress() = Progress::Running { pid };
        let (containers, exec) = (self.clone(), exec.clone());
        let begun = exec.hub.begin(streams);
        tokio::spawn(async move {
            let exit = exit.wait().await;
            // Clients ask for the exit code when their connection ends: it must be there by then.
            *exec.progress() = Progress::Ended { exit_code: exit.code, pid, at: Instant::now() };
            exec.container.exec_ids().remove(&exec.id);
            exec.hub.end();
            let _ = tokio::time::timeout(LAST_OUTPUT, exec.hub.closed()).await;
            containers.0.runtime.release(&exec.container.id, Some(&exec.id));
            let code = exit.code.to_string();
            let attributes = [("execID", exec.id.as_str()), ("exitCode", code.as_str())];
            containers.emit(&exec.container, "exec_die", &attributes);
        });
        begun.map_err(|error| Error::system("serve the streams of an exec").because(error))
    }

    /// Takes over an exec that an engine before this one started. What it was is not known any more.
    pub(in crate::container) fn adopt_exec(
        &self,
        container: &Arc<Container>,
        id: String,
        pid: u32,
        streams: Streams,
        exit: ExitWatch,
    ) {
        let exec = self.add_exec(container, id, What::default(), Progress::Starting);
        if let Err(error) = self.serve_exec(&exec, pid, streams, exit) {
            tracing::error!(container = container.id, "{error}");
        }
        // Its client went with the engine.
        exec.hub.close_stdin();
    }

    /// Waits until an exec has been started, or could not be.
    pub(in crate::container) async fn run_exec_quietly(
        &self,
        container: &Arc<Container>,
        what: What,
    ) -> Result<QuietExec> {
        let line = what.line();
        let exec = self.add_exec(container, crate::container::names::random_id(), what, Progress::Starting);
        self.emit(container, &format!("exec_create: {line}"), &[("execID", &exec.id)]);
        self.emit(container, &format!("exec_start: {line}"), &[("execID", &exec.id)]);
        let (pieces, _) = exec.hub.attach(true, true);
        tokio::time::timeout(START_TIMEOUT * 3, self.launch_exec(&exec, None)).await.unwrap_or_else(
            |_| Err(Error::system(format!("timed out starting health check for container {}", container.id))),
        )?;
        Ok(QuietExec { containers: self.clone(), exec, pieces })
    }
}

/// An exec of the engine's own.
pub(in crate::container) struct QuietExec {
    containers: Containers,
    exec: Arc<Exec>,
    pub(in crate::container) pieces: Pieces,
}

impl QuietExec {
    /// The exit code, once it has ended.
    pub(in crate::container) fn exit_code(&self) -> Option<i32> {
        match *self.exec.progress() {
            Progress::Ended { exit_code, .. } => Some(exit_code),
            _ => None,
        }
    }

    /// Kills it.
    pub(in crate::container) fn kill(&self) {
        let progress = *self.exec.progress();
        if let Progress::Running { pid } = progress
            && let Err(error) = self.containers.0.runtime.signal(pid, libc::SIGKILL)
        {
            tracing::debug!("kill an exec: {error}");
        }
    }
}

impl ExecAttachment {
    /// Whether the client takes output without headers.
    pub(crate) fn is_raw(&self) -> bool {
        self.raw
    }

    /// Starts the exec and serves its client until the output ends or the client leaves; the exec goes
    /// on then.
    pub(crate) async fn run(self, connection: impl AsyncRead + AsyncWrite + Send) {
        let Self { containers, exec, raw, size, pieces } = self;
        let (input, mut output) = tokio::io::split(connection);
        // A client that leaves now must not leave the exec half started.
        let launched = tokio::spawn({
            let (containers, exec) = (containers.clone(), exec.clone());
            async move { containers.launch_exec(&exec, size).await }
        });
        let launched = launched
            .await
            .unwrap_or_else(|error| Err(Error::system("a task of the engine panicked").because(error)));
        if let Err(error) = launched {
            tracing::warn!(container = exec.container.id, "exec: {error}");
            let message = format!("{error}\r\n");
            let mut bytes = Vec::new();
            if !raw {
                bytes.extend_from_slice(&multiplex::header(Source::Stdout, message.len()));
            }
            bytes.extend_from_slice(message.as_bytes());
            // An error means that the client has gone.
            let _ = output.write_all(&bytes).await;
            let _ = output.shutdown().await;
            return;
        }
        let session = Session {
            hub: exec.hub.clone(),
            pieces,
            multiplexed: !raw,
            terminal: raw,
            input: exec.what.stdin.then(|| Input {
                ends_process_input: true,
                detach_keys: exec.what.terminal.then(|| exec.what.detach_keys.clone()),
            }),
        };
        if session.run(input, output).await == Left::Detached {
            containers.emit(&exec.container, "exec_detach", &[("execID", &exec.id)]);
        }
    }
}
