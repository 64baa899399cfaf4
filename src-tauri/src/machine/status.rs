//! How the machine is now.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::{Duration, timeout},
};
use wire::{
    app::{Request, Response, State, Status},
    line::MAX_LINE,
};

use crate::{
    error::{Error, Result},
    home::{Home, MACHINE},
    program::Program,
};

/// The machine process asks the guest in between.
const LIMIT: Duration = Duration::from_secs(20);

/// The machine's own account; of a machine without a process, what `coracle` can tell from its files.
pub(crate) async fn now(home: &Home, program: &Program) -> Result<Status> {
    match timeout(LIMIT, from_process(home)).await {
        Ok(Ok(Some(status))) => Ok(status),
        Ok(Ok(None)) => of_stopped(home, program).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::machine("the machine's process does not answer; see the machine's log")),
    }
}

/// `None` when there is no process.
async fn from_process(home: &Home) -> Result<Option<Status>> {
    let Some(mut answers) = Answers::open(home, &Request::Status).await? else { return Ok(None) };
    match answers.next().await? {
        Some(Response::Status(status)) => Ok(Some(*status)),
        Some(Response::Failed { message }) => Err(Error::machine(message)),
        Some(_) => Err(nonsense()),
        // It ended between our asking and its answering.
        None => Ok(None),
    }
}

async fn of_stopped(home: &Home, program: &Program) -> Result<Status> {
    let arguments = ["status", "--json", "--name", MACHINE];
    let output = program.output(arguments).await?;
    if !output.stdout.is_empty() {
        return output.json(&arguments);
    }
    // It exits with 3 when there is nothing to show.
    if output.status.code() != Some(3) {
        return Err(output.failure(&arguments));
    }
    Ok(never_started(home))
}

/// A machine that was never started, or was deleted.
fn never_started(home: &Home) -> Status {
    Status {
        name: MACHINE.to_owned(),
        state: State::Stopped,
        docker_socket: home.docker_socket().display().to_string(),
        cpus: 0,
        memory_mib: 0,
        disk_bytes: 0,
        disk_used_bytes: 0,
        accelerator: String::new(),
        accelerator_reason: String::new(),
        pid: 0,
        emulator_pid: None,
        started_at_ms: 0,
        ready_after_ms: None,
        guest: None,
        last_exit: None,
    }
}

fn nonsense() -> Error {
    Error::machine(
        "the machine's process gave an answer that does not fit: is it of another version of Coracle? Restart the machine",
    )
}

/// The answers of a machine process to one request.
pub(crate) struct Answers {
    from: BufReader<UnixStream>,
}

impl Answers {
    /// Asks. `None` when there is no process.
    pub(crate) async fn open(home: &Home, request: &Request) -> Result<Option<Answers>> {
        use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, NotADirectory, NotFound};
        let socket = home.control_socket();
        let failed = |error: std::io::Error| {
            Error::machine(format!("cannot talk to the machine's process at {}: {error}", socket.display()))
        };
        let mut stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut line = Vec::new();
        wire::line::write(&mut line, request).map_err(failed)?;
        match stream.write_all(&line).await {
            Ok(()) => Ok(Some(Answers { from: BufReader::new(stream) })),
            // It ended between our connecting and our asking.
            Err(error) if error.kind() == BrokenPipe => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// `None` when the process has said its last.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>> {
        use tokio::io::AsyncBufReadExt;
        let mut line = Vec::new();
        let read = (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut line).await;
        match read {
            Ok(0) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(Error::machine(format!("cannot hear the machine's process: {error}"))),
            Ok(_) => {}
        }
        serde_json::from_slice(&line).map(Some).map_err(|_| nonsense())
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::{error::Kind, program::testing::script};

    #[tokio::test]
    async fn a_machine_with_a_process_is_asked_and_one_without_is_read_from_its_files() {
        let script = script(
            r#"echo '{"name":"default","state":"stopped","docker_socket":"/s","cpus":3,"memory_mib":0,"disk_bytes":0,"disk_used_bytes":0,"accelerator":"","accelerator_reason":"","pid":0,"emulator_pid":null,"started_at_ms":0,"ready_after_ms":null,"guest":null}'; exit 3"#,
        );
        let home = Home::at(script.folder.path());
        assert_eq!(now(&home, &script.program).await.unwrap().cpus, 3);

        std::fs::create_dir(home.machine()).unwrap();
        let listener = UnixListener::bind(home.control_socket()).unwrap();
        let mut running = never_started(&home);
        running.state = State::Running;
        let serve = async {
            for answer in [Some(Response::Status(Box::new(running.clone()))), Some(Response::Done), None] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut line = Vec::new();
                if let Some(answer) = answer {
                    wire::line::write(&mut line, &answer).unwrap();
                }
                stream.write_all(&line).await.unwrap();
            }
        };
        let ask = async {
            assert_eq!(now(&home, &script.program).await.unwrap(), running);
            assert_eq!(now(&home, &script.program).await.unwrap_err().kind, Kind::Machine);
            // A process that ends instead of answering.
            assert_eq!(now(&home, &script.program).await.unwrap().cpus, 3);
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn a_machine_that_never_was_is_a_stopped_one() {
        let none = script("echo 'coracle: there is no machine' >&2; exit 3");
        let home = Home::at(none.folder.path());
        let status = now(&home, &none.program).await.unwrap();
        assert_eq!((status.state, status.last_exit), (State::Stopped, None));
        let broken = script("echo 'coracle: no home' >&2; exit 1");
        assert_eq!(now(&home, &broken.program).await.unwrap_err().message, "no home");
    }
}
