//! Requests from the host, one a connection, each in a thread of its own.

use std::io::{self, BufReader};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use wire::frame::Frame;
use wire::guest::{Request, Response, Shell, Stage, State};
use wire::{line, vsock};

use super::state::Enough;
use super::stream::{Stream, VsockListener};
use super::{Machine, clock, figures, shell};

/// Connections served at once, and how many of them may be shells: a host that leaves shells open must
/// still be able to power off.
const MAX_CONNECTIONS: usize = 64;
const MAX_SHELLS: usize = 48;

/// How long a peer may take to send its request, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Stack of a connection's thread. The deepest call is the JSON parser, whose depth is bounded.
const STACK: usize = 256 * 1024;

/// Listens on the control port, in a thread, for as long as the VM runs.
pub(crate) fn start(machine: Arc<Machine>) -> io::Result<()> {
    let listener = VsockListener::bind(vsock::CONTROL_PORT)?;
    thread::Builder::new()
        .name("control".to_owned())
        .stack_size(STACK)
        .spawn(move || listen(&listener, &machine))
        .map(drop)
}

fn listen(listener: &VsockListener, machine: &Arc<Machine>) {
    let connections = Arc::new(Slots::new(MAX_CONNECTIONS));
    let shells = Arc::new(Slots::new(MAX_SHELLS));
    loop {
        let (stream, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept a control connection: {error}");
                // Out of descriptors or memory: asking again at once would only burn the CPU.
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        // A container can open vsock connections as well; it must not command the machine.
        if peer != vsock::HOST_CID {
            tracing::warn!("refused a control connection from context {peer}");
            continue;
        }
        let Some(slot) = connections.take() else {
            tracing::warn!("refused a control connection beyond {MAX_CONNECTIONS}");
            continue;
        };
        let (machine, shells) = (Arc::clone(machine), Arc::clone(&shells));
        let served = thread::Builder::new().name("request".to_owned()).stack_size(STACK).spawn(move || {
            let _slot = slot;
            if let Err(error) = serve(&stream, &machine, &shells) {
                tracing::debug!("control connection: {error}");
            }
        });
        if let Err(error) = served {
            tracing::warn!("no thread for a control connection: {error}");
        }
    }
}

/// Serves one connection to its end.
///
/// # Errors
/// When the peer fails: there is nobody left to tell.
fn serve(stream: &Stream, machine: &Machine, shells: &Arc<Slots>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let request = match line::read::<Request>(&mut reader) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(error) => return line::write(stream, &failed(format!("not a request: {error}"))),
    };
    match request {
        Request::State => {
            let state = machine.state.state();
            // Before, there is no data disk to speak of.
            let mounted = matches!(state.stage, Stage::StartingEngine | Stage::Ready);
            // Read outside the state's lock: a file system that hangs must hold up this answer alone.
            let state = State { figures: mounted.then(figures::now).flatten(), ..state };
            line::write(stream, &Response::State(state))
        }
        Request::WaitReady => {
            let last = |stage: &Stage| matches!(stage, Stage::Ready | Stage::Failed { .. });
            follow(stream, machine, last).map(drop)
        }
        Request::SetClock { unix_nanos } => {
            let answer = match clock::set(unix_nanos) {
                Ok(()) => Response::Done,
                Err(error) => failed(format!("{error:#}")),
            };
            line::write(stream, &answer)
        }
        Request::PowerOff { timeout_seconds } => {
            let _attendance = machine.state.attend();
            machine.power.request(Duration::from_secs(timeout_seconds.into()))?;
            if follow(stream, machine, |_| false)? {
                line::write(stream, &Response::Done)?;
            }
            Ok(())
        }
        Request::Shell(request) => {
            let Some(_slot) = shells.take() else {
                let message = format!("the VM already runs {MAX_SHELLS} shells");
                return line::write(stream, &failed(message));
            };
            serve_shell(stream, reader.buffer(), &request, machine)
        }
    }
}

/// Answers with the state, now and at every change, until `last` holds or the machine is about to end;
/// true for the latter.
fn follow(stream: &Stream, machine: &Machine, last: impl Fn(&Stage) -> bool) -> io::Result<bool> {
    machine.state.follow(|state| {
        let enough = if last(&state.stage) { Enough::Yes } else { Enough::No };
        line::write(stream, &Response::State(state))?;
        Ok(enough)
    })
}

fn serve_shell(stream: &Stream, early: &[u8], request: &Shell, machine: &Machine) -> io::Result<()> {
    match shell::Session::start(request, &machine.children) {
        Ok(session) => {
            line::write(stream, &Response::Done)?;
            session.run(stream, early)
        }
        Err(error) => match shell::exit_code(&error) {
            Some(code) => {
                line::write(stream, &Response::Done)?;
                Frame::Stderr(format!("coracle: {error:#}\n").into_bytes()).write(&mut &*stream)?;
                Frame::Exit(code).write(&mut &*stream)?;
                stream.finish()
            }
            None => line::write(stream, &failed(format!("{error:#}"))),
        },
    }
}

fn failed(message: String) -> Response {
    Response::Failed { message }
}

/// A bounded number of places.
struct Slots {
    free: AtomicUsize,
}

/// One place, given back when dropped.
struct Slot(Arc<Slots>);

impl Slots {
    fn new(count: usize) -> Slots {
        Slots { free: AtomicUsize::new(count) }
    }

    fn take(self: &Arc<Slots>) -> Option<Slot> {
        self.free
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| free.checked_sub(1))
            .ok()
            .map(|_| Slot(Arc::clone(self)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.free.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use wire::frame::Frame;

    use super::super::testing::{isolated, with_reaper};
    use super::*;

    /// A connection to a served machine, as the host has it.
    fn connect(machine: &Arc<Machine>, request: &[u8]) -> (BufReader<UnixStream>, thread::JoinHandle<()>) {
        let (host, guest) = UnixStream::pair().unwrap();
        let machine = Arc::clone(machine);
        let served = thread::spawn(move || {
            let stream = Stream::from(OwnedFd::from(guest));
            // The host's failures are not the test's.
            let _ = serve(&stream, &machine, &Arc::new(Slots::new(1)));
        });
        (&host).write_all(request).unwrap();
        (BufReader::new(host), served)
    }

    fn answer(host: &mut BufReader<UnixStream>) -> Option<Response> {
        line::read(host).unwrap()
    }

    fn stage(response: Option<Response>) -> Stage {
        match response {
            Some(Response::State(State { stage, .. })) => stage,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wait_ready_follows_the_stages_and_ends() {
        let machine = Arc::new(Machine::new().unwrap());
        let (mut host, served) = connect(&machine, b"{\"op\":\"wait_ready\"}\n");
        assert_eq!(stage(answer(&mut host)), Stage::PreparingDisk);
        machine.state.set(Stage::StartingEngine);
        assert_eq!(stage(answer(&mut host)), Stage::StartingEngine);
        machine.state.set(Stage::Ready);
        assert_eq!(stage(answer(&mut host)), Stage::Ready);
        served.join().unwrap();
        assert_eq!(answer(&mut host), None);
    }

    #[test]
    fn power_off_raises_the_request() {
        let machine = Arc::new(Machine::new().unwrap());
        let (mut host, _served) = connect(&machine, b"{\"op\":\"power_off\",\"timeout_seconds\":7}\n");
        assert_eq!(machine.power.wait().unwrap(), Duration::from_secs(7));
        assert_eq!(stage(answer(&mut host)), Stage::PreparingDisk);
        machine.state.set(Stage::StoppingContainers);
        assert_eq!(stage(answer(&mut host)), Stage::StoppingContainers);
        machine.state.finish(Duration::MAX);
        assert_eq!(answer(&mut host), Some(Response::Done));
        assert_eq!(answer(&mut host), None);
    }

    #[test]
    fn a_program_that_cannot_run_ends_as_in_a_shell() {
        let machine = Arc::new(Machine::new().unwrap());
        for (program, code) in [("no-such-program", 127), ("/", 126)] {
            let request = format!("{{\"op\":\"shell\",\"argv\":[\"{program}\"]}}\n");
            let (mut host, served) = connect(&machine, request.as_bytes());
            assert_eq!(answer(&mut host), Some(Response::Done));
            let Some(Frame::Stderr(reason)) = Frame::read(&mut host).unwrap() else { panic!("no reason") };
            assert!(String::from_utf8(reason).unwrap().contains(&format!("cannot run {program}: ")));
            assert_eq!(Frame::read(&mut host).unwrap(), Some(Frame::Exit(code)));
            assert_eq!(Frame::read(&mut host).unwrap(), None);
            served.join().unwrap();
        }
    }

    #[test]
    fn nonsense_is_answered_and_ends_the_connection() {
        let machine = Arc::new(Machine::new().unwrap());
        for nonsense in [&b"{\"op\":\"fly\"}\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"\xff\xfe\n", b"[]\n"] {
            let (mut host, served) = connect(&machine, nonsense);
            assert!(matches!(answer(&mut host), Some(Response::Failed { .. })));
            served.join().unwrap();
        }
        let (mut host, served) = connect(&machine, b"");
        host.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        served.join().unwrap();
        let mut rest = String::new();
        host.read_line(&mut rest).unwrap();
        assert_eq!(rest, "");
    }

    #[test]
    fn frames_sent_together_with_the_request_are_not_lost() {
        isolated("init::control::tests::frames_sent_together_with_the_request_are_not_lost", || {
            with_reaper(|children| {
                let machine = Arc::new(Machine { children: Arc::clone(children), ..Machine::new().unwrap() });
                let mut bytes = serde_json::to_vec(&Request::Shell(Shell {
                    argv: vec!["cat".to_owned()],
                    tty: None,
                    term: None,
                }))
                .unwrap();
                bytes.push(b'\n');
                Frame::Stdin(b"early".to_vec()).write(&mut bytes).unwrap();
                Frame::StdinEnd.write(&mut bytes).unwrap();
                let (mut host, served) = connect(&machine, &bytes);
                assert_eq!(answer(&mut host), Some(Response::Done));
                assert_eq!(Frame::read(&mut host).unwrap(), Some(Frame::Stdout(b"early".to_vec())));
                assert_eq!(Frame::read(&mut host).unwrap(), Some(Frame::Exit(0)));
                served.join().unwrap();
                assert_eq!(host.read(&mut [0]).unwrap(), 0);
            });
        });
    }

    #[test]
    fn a_shell_beyond_the_limit_is_refused_and_a_place_is_given_back() {
        let slots = Arc::new(Slots::new(1));
        let slot = slots.take().unwrap();
        assert!(slots.take().is_none());
        drop(slot);
        assert!(slots.take().is_some());
    }
}
