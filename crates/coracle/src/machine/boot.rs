//! From a started VM to a Docker that answers.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use wire::guest::{Request, Response, Stage};

use super::{
    guest_link::{Conversation, GuestError, first_contact},
    process::Machine,
    vm::Vm,
};

/// From power-on to PID 1. A kernel of ours takes a second under emulation; a host that swaps, tens.
const CONTACT_LIMIT: Duration = Duration::from_secs(90);
/// A file system check of a large disk after a crash takes minutes.
const DISK_LIMIT: Duration = Duration::from_secs(15 * 60);
const ENGINE_LIMIT: Duration = Duration::from_secs(120);
/// For one request to the engine, which has said that it is ready.
const PING_LIMIT: Duration = Duration::from_secs(30);

/// Why a machine did not get ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BootError {
    #[error("the guest did not come up within {} s of its start", CONTACT_LIMIT.as_secs())]
    NoContact(#[source] GuestError),
    #[error("the guest fell silent while it was {step}")]
    Lost { step: &'static str, source: GuestError },
    /// The guest's own words. The VM is up, so that its owner can look.
    #[error("{0}")]
    Engine(Box<str>),
    #[error("the engine says that it is ready, but does not answer on the docker socket")]
    Ping(#[source] io::Error),
}

/// Follows the guest until Docker answers on the machine's socket.
pub(crate) fn boot(vm: &dyn Vm, machine: &Machine) -> Result<(), BootError> {
    let board = &machine.board;
    board.step("booting the kernel");
    first_contact(vm, CONTACT_LIMIT, || board.now().outcome.is_some()).map_err(BootError::NoContact)?;
    board.update(|view| view.contacted = true);
    let mut step = "booting";
    let lost = |step| move |source| BootError::Lost { step, source };
    let mut guest = Conversation::open(vm, &Request::WaitReady).map_err(lost(step))?;
    loop {
        let limit = if step == PREPARING_DISK { DISK_LIMIT } else { ENGINE_LIMIT };
        match guest.next(limit).map_err(lost(step))? {
            Some(Response::State(state)) => {
                board.update(|view| view.guest = Some(state.clone()));
                step = match state.stage {
                    Stage::Ready => break,
                    Stage::Failed { message } => return Err(BootError::Engine(message.into())),
                    stage => describe(&stage),
                };
                board.step(step);
            }
            Some(Response::Failed { message }) => return Err(BootError::Engine(message.into())),
            Some(Response::Done) => return Err(lost(step)(GuestError::Nonsense)),
            None => return Err(lost(step)(GuestError::Closed)),
        }
    }
    board.step("waiting for Docker to answer");
    board.update(|view| view.docker_open = true);
    ping(&machine.dir.docker_socket()).map_err(BootError::Ping)
}

const PREPARING_DISK: &str = "preparing the data disk";

/// A stage in the words of a progress line.
pub(crate) fn describe(stage: &Stage) -> &'static str {
    match stage {
        Stage::PreparingDisk => PREPARING_DISK,
        Stage::StartingEngine => "starting the engine",
        Stage::Ready => "ready",
        Stage::Failed { .. } => "failed",
        Stage::StoppingContainers => "stopping containers",
        Stage::Unmounting => "unmounting disks",
    }
}

/// One real request on the way that every client's requests take.
fn ping(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PING_LIMIT))?;
    stream.set_write_timeout(Some(PING_LIMIT))?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    // The status line is all that counts; a peer that never ends it is cut off.
    while !head.contains(&b'\n') && head.len() < buffer.len() {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&buffer[..length]),
        }
    }
    let status =
        String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    if status.split(' ').nth(1) == Some("200") {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("GET /_ping was answered with {status:?}")))
    }
}

/// The last thing the guest said on its console, for a message.
pub(crate) fn last_console_line(console_log: &Path) -> Option<String> {
    /// More than the longest line of a kernel's console.
    const TAIL: u64 = 4096;
    let mut file = fs::File::open(console_log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    // What a guest prints is not to steer the user's terminal.
    let shown = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    text.lines().rev().map(shown).find(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn a_ping_takes_200_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            for answer in ["HTTP/1.1 200 OK\r\n\r\nOK", "HTTP/1.1 500 Oh\r\n\r\n", "", &"x".repeat(5000)] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).unwrap();
                assert!(request[..length].starts_with(b"GET /_ping HTTP/1.1\r\n"));
                // The client may have hung up on an endless line.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        ping(&socket).unwrap();
        assert!(ping(&socket).unwrap_err().to_string().contains("500"));
        assert_eq!(ping(&socket).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ping(&socket).unwrap_err().kind(), io::ErrorKind::InvalidData);
        server.join().unwrap();
    }

    #[test]
    fn the_last_console_line_is_found_and_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        assert_eq!(last_console_line(&log), None);
        fs::write(&log, format!("{}\r\nKernel \u{1b}[31mpanic\r\n\r\n", "x".repeat(9000))).unwrap();
        assert_eq!(last_console_line(&log).unwrap(), "Kernel [31mpanic");
    }
}
