//! Answering on `control.sock`, one request per connection, each in a thread of its own.

use std::{
    io::{self, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use wire::{
    app::{Request, Response, State},
    guest, line,
};

use crate::forward::relay::relay;
use crate::machine::{
    board::{Outcome, View},
    guest_link::{self, Conversation},
    life::StopCause,
    process::Machine,
};

/// Connections served at once. Each costs a thread.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request, or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// After the process ran out of descriptors or memory, which only time mends.
const BACK_OFF: Duration = Duration::from_millis(100);
/// For the guest to begin a shell: it starts a process at once.
const SHELL_LIMIT: Duration = Duration::from_secs(30);

/// Accepts until the process ends.
pub(crate) fn serve(listener: &UnixListener, machine: &Arc<Machine>) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("cannot accept on the control socket: {error}");
                thread::sleep(BACK_OFF);
                continue;
            }
        };
        let slot = Slot::take(&connections);
        let machine = Arc::clone(machine);
        let served = thread::Builder::new().name("request".into()).spawn(move || {
            let Some(_slot) = slot else {
                let message =
                    format!("the machine process serves {MAX_CONNECTIONS} clients already; try again");
                return drop(line::write(&stream, &Response::Failed { message }));
            };
            // A client that is gone needs no answer.
            if let Err(error) = answer(&machine, &stream) {
                tracing::debug!("a client's request ended early: {error}");
            }
        });
        if let Err(error) = served {
            tracing::warn!("no thread for a client: {error}");
            thread::sleep(BACK_OFF);
        }
    }
}

/// One of the places for clients.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Slot> {
        // The slot gives its place back even when it is one too many.
        let before = taken.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(Arc::clone(taken));
        (before < MAX_CONNECTIONS).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Serves one connection.
///
/// # Errors
/// When the client fails: there is nobody left to tell.
fn answer(machine: &Arc<Machine>, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    let request = match line::read(&mut reader) {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(error) => return failed(stream, format!("not a request: {error}")),
    };
    match request {
        Request::Status => line::write(stream, &status(machine)),
        Request::Watch => tell_changes(machine, stream),
        Request::WaitReady => tell_until_ready(machine, stream, 0),
        Request::Stop { timeout_seconds } => {
            // Counted before the request, so that the process cannot end without an answer.
            let watcher = machine.board.watch();
            let told = machine.board.now().remarks.len();
            machine.ask_to_stop(timeout_seconds, StopCause::Client);
            let result = tell_until_stopped(machine, stream, told);
            drop(watcher);
            result
        }
        Request::Shell(shell) => shell_session(machine, stream, reader.buffer(), shell),
    }
}

fn failed(stream: &UnixStream, message: String) -> io::Result<()> {
    line::write(stream, &Response::Failed { message })
}

fn status(machine: &Machine) -> Response {
    let mut status = machine.status();
    // Asked anew while the guest can answer; before and after, its last word stands.
    if let (State::Running, Some(vm)) = (status.state, machine.vm.get()) {
        match guest_link::state(&**vm) {
            Ok(state) => status.guest = Some(state),
            Err(error) => {
                tracing::debug!("the guest gave no account of itself: {error}");
                status.guest = None;
            }
        }
    }
    Response::Status(Box::new(status))
}

/// Tells how the machine is, now and at every change that shows, until it is over or the client hangs up.
fn tell_changes(machine: &Arc<Machine>, stream: &UnixStream) -> io::Result<()> {
    let hung_up = Arc::new(AtomicBool::new(false));
    // In a thread, for nothing else would notice: a machine may not change for days.
    thread::Builder::new().name("watcher-end".into()).spawn({
        let (hung_up, machine, mut stream) = (Arc::clone(&hung_up), Arc::clone(machine), stream.try_clone()?);
        move || {
            // A client has nothing more to say: a read that returns means that it closed its end.
            let _ = stream.set_read_timeout(None).and_then(|()| stream.read(&mut [0]));
            hung_up.store(true, Ordering::Release);
            machine.board.update(|_| {});
        }
    })?;
    let watcher = machine.board.watch();
    let mut version = None;
    let mut told = None;
    let result = loop {
        let view = machine.board.wait_until(|view| version.is_none_or(|version| view.version > version));
        version = Some(view.version);
        if hung_up.load(Ordering::Acquire) {
            break Ok(());
        }
        let shows = Some((view.state, view.guest.map(|guest| (guest.stage, guest.engine_restarts))));
        if shows != told {
            told = shows;
            if let Err(error) = line::write(stream, &Response::Status(Box::new(machine.status()))) {
                break Err(error);
            }
        }
        if view.outcome.is_some() {
            break Ok(());
        }
    };
    // Ends the thread above, too.
    let _ = stream.shutdown(Shutdown::Both);
    drop(watcher);
    result
}

/// Tells a starter how its start goes; and in the foreground goes on until the machine has stopped.
pub(crate) fn tell_starter(machine: &Machine, stream: &UnixStream, foreground: bool) -> io::Result<()> {
    tell_until_ready(machine, stream, 0)?;
    let ready = machine.board.now();
    if foreground && ready.outcome.is_none() {
        return tell_until_stopped(machine, stream, ready.remarks.len());
    }
    Ok(())
}

/// Progress until the machine is ready or never will be. `told` remarks are known to the client.
fn tell_until_ready(machine: &Machine, stream: &UnixStream, told: usize) -> io::Result<()> {
    tell(machine, stream, told, |view| match (&view.outcome, &view.engine_failure) {
        (Some(Outcome::Failed { message }), _) | (None, Some(message)) => {
            Some(Response::Failed { message: message.clone() })
        }
        (Some(Outcome::Stopped), _) => {
            Some(Response::Failed { message: "the machine was stopped before it was ready".into() })
        }
        (None, None) => (view.state == State::Running).then_some(Response::Done),
    })
}

/// Progress until the machine is off.
fn tell_until_stopped(machine: &Machine, stream: &UnixStream, told: usize) -> io::Result<()> {
    tell(machine, stream, told, |view| match view.outcome.as_ref()? {
        Outcome::Stopped => Some(Response::Done),
        Outcome::Failed { message } => Some(Response::Failed { message: message.clone() }),
    })
}

/// Tells every change of step and every remark until `last` has the final answer.
fn tell(
    machine: &Machine,
    stream: &UnixStream,
    mut told: usize,
    last: impl Fn(&View) -> Option<Response>,
) -> io::Result<()> {
    let mut step = String::new();
    let mut version = None;
    loop {
        let view = machine.board.wait_until(|view| version.is_none_or(|version| view.version > version));
        version = Some(view.version);
        for remark in view.remarks.iter().skip(told) {
            line::write(stream, &Response::Notice { message: remark.clone() })?;
        }
        told = view.remarks.len();
        if let Some(last) = last(&view) {
            return line::write(stream, &last);
        }
        if view.step != step && !view.step.is_empty() {
            line::write(stream, &Response::Progress { message: view.step.clone() })?;
            step = view.step;
        }
    }
}

/// Carries a session between a client and the guest's PID 1. `early` came with the request.
fn shell_session(
    machine: &Machine,
    stream: &UnixStream,
    early: &[u8],
    shell: guest::Shell,
) -> io::Result<()> {
    let view = machine.board.now();
    let Some(vm) = machine.vm.get().filter(|_| view.contacted && view.state != State::Stopping) else {
        return failed(stream, "the VM is not up; wait for `coracle start` to finish".into());
    };
    let opened = Conversation::open(&**vm, &guest::Request::Shell(shell)).and_then(|mut guest| {
        let answer = guest.next(SHELL_LIMIT)?;
        Ok((guest, answer))
    });
    let (guest, rest) = match opened {
        Ok((guest, Some(guest::Response::Done))) => guest.into_stream(),
        Ok((_, Some(guest::Response::Failed { message }))) => return failed(stream, message),
        Ok((_, _)) => return failed(stream, "the guest did not start the program".into()),
        Err(error) => return failed(stream, format!("{:#}", anyhow::Error::from(error))),
    };
    line::write(stream, &Response::Done)?;
    for side in [stream, &guest] {
        // From here on silence is normal.
        side.set_read_timeout(None)?;
        side.set_write_timeout(None)?;
    }
    (&guest).write_all(early)?;
    let mut to_client = stream;
    to_client.write_all(&rest)?;
    relay(stream, &guest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver};

    use wire::frame::Frame;

    use super::*;
    use crate::{
        control::client::{self, ControlError, Exchange},
        machine::{
            home::{Home, MachineDir},
            life::Event,
            vm::fake::{FakeVm, Habit},
        },
    };

    /// A served machine, with the events it gets instead of a life.
    struct Served {
        machine: Arc<Machine>,
        events: Receiver<Event>,
        dir: MachineDir,
        _home: tempfile::TempDir,
    }

    fn served(vm: Option<Habit>) -> Served {
        let home = tempfile::tempdir().unwrap();
        let dir = Home::at(home.path()).machine(&"default".parse().unwrap());
        dir.create().unwrap();
        let listener = UnixListener::bind(dir.control_socket()).unwrap();
        let (sender, events) = mpsc::channel();
        let machine = Arc::new(Machine::new(dir.clone(), sender));
        if let Some(habit) = vm {
            let _ = machine.vm.set(Arc::new(FakeVm::new(habit)));
            machine.board.update(|view| {
                view.contacted = true;
                view.state = State::Running;
            });
        }
        thread::spawn({
            let machine = Arc::clone(&machine);
            move || serve(&listener, &machine)
        });
        Served { machine, events, dir, _home: home }
    }

    #[test]
    fn a_status_is_given_before_and_while_the_guest_runs() {
        let starting = served(None);
        let status = client::status(&starting.dir).unwrap();
        assert_eq!((status.state, status.guest), (State::Starting, None));
        let status = client::status(&served(Some(Habit::Good)).dir).unwrap();
        assert_eq!(status.state, State::Running);
        assert_eq!(status.guest.unwrap().kernel, "6.12");
        let status = client::status(&served(Some(Habit::NeverListens)).dir).unwrap();
        assert_eq!((status.state, status.guest), (State::Running, None));
    }

    #[test]
    fn without_a_process_a_machine_is_not_running() {
        let gone = served(None);
        assert!(matches!(
            client::status(&Home::at(gone.dir.path()).machine(gone.dir.name())),
            Err(ControlError::NotRunning(_))
        ));
        // A socket whose owner was killed.
        let home = tempfile::tempdir().unwrap();
        let dir = Home::at(home.path()).machine(&"default".parse().unwrap());
        dir.create().unwrap();
        drop(UnixListener::bind(dir.control_socket()).unwrap());
        assert!(matches!(client::status(&dir), Err(ControlError::NotRunning(_))));
    }

    #[test]
    fn waiting_for_ready_tells_steps_remarks_and_the_end() {
        let served = served(None);
        let mut exchange = Exchange::open(&served.dir, &Request::WaitReady).unwrap();
        let progress = |message: &str| Response::Progress { message: message.into() };
        assert_eq!(exchange.next().unwrap(), progress("starting"));
        served.machine.board.step("booting");
        assert_eq!(exchange.next().unwrap(), progress("booting"));
        served.machine.board.remark("low space".into());
        assert_eq!(exchange.next().unwrap(), Response::Notice { message: "low space".into() });
        served.machine.board.update(|view| view.state = State::Running);
        assert_eq!(exchange.next().unwrap(), Response::Done);

        served.machine.board.update(|view| view.engine_failure = Some("no engine".into()));
        let mut exchange = Exchange::open(&served.dir, &Request::WaitReady).unwrap();
        assert_eq!(exchange.next().unwrap(), Response::Notice { message: "low space".into() });
        assert!(matches!(exchange.next(), Err(ControlError::Failed(message)) if message == "no engine"));
    }

    #[test]
    fn a_watcher_hears_of_each_change_and_leaves_its_place_when_it_hangs_up() {
        let served = served(None);
        let watch = || Exchange::open(&served.dir, &Request::Watch).unwrap();
        let state = |exchange: &mut Exchange| match exchange.next() {
            Ok(Response::Status(status)) => status.state,
            other => panic!("{other:?}"),
        };
        let mut watching = watch();
        assert_eq!(state(&mut watching), State::Starting);
        // Not a change that shows.
        served.machine.board.step("booting");
        served.machine.board.update(|view| view.state = State::Running);
        assert_eq!(state(&mut watching), State::Running);
        // Nothing changes any more, and more come and go than there are places.
        for _ in 0..2 * MAX_CONNECTIONS {
            let mut short = loop {
                let mut short = watch();
                if let Ok(Response::Status(_)) = short.next() {
                    break short;
                }
                thread::yield_now();
            };
            short.stream().shutdown(Shutdown::Write).unwrap();
            assert!(matches!(short.next(), Err(ControlError::Gone(_))));
        }
        served.machine.board.update(|view| {
            view.state = State::Stopped;
            view.outcome = Some(Outcome::Stopped);
        });
        assert_eq!(state(&mut watching), State::Stopped);
        assert!(matches!(watching.next(), Err(ControlError::Gone(_))));
    }

    #[test]
    fn a_stop_is_passed_on_and_answered_when_all_is_over() {
        let served = served(None);
        served.machine.board.remark("old news".into());
        let mut exchange = Exchange::open(&served.dir, &Request::Stop { timeout_seconds: 3 }).unwrap();
        let event = served.events.recv().unwrap();
        assert!(matches!(event, Event::Stop { timeout_seconds: 3, cause: StopCause::Client }), "{event:?}");
        served.machine.board.update(|view| view.outcome = Some(Outcome::Stopped));
        let answers: Vec<_> = std::iter::from_fn(|| exchange.next().ok()).collect();
        assert_eq!(answers.last(), Some(&Response::Done));
        assert!(!answers.contains(&Response::Notice { message: "old news".into() }), "{answers:?}");
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        let served = served(None);
        for line in ["{\"op\":\"dance\"}\n", "GET / HTTP/1.1\r\n", "\n", "{"] {
            let mut stream = UnixStream::connect(served.dir.control_socket()).unwrap();
            stream.write_all(line.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let answer = line::read::<Response>(&mut BufReader::new(&stream)).unwrap();
            assert!(matches!(answer, Some(Response::Failed { .. })), "{line:?}: {answer:?}");
        }
    }

    #[test]
    fn clients_beyond_the_limit_are_refused_and_places_come_back() {
        let served = served(None);
        let waiting: Vec<Exchange> = (0..MAX_CONNECTIONS)
            .map(|_| {
                let mut exchange = Exchange::open(&served.dir, &Request::WaitReady).unwrap();
                // Being served, and not only in the socket's queue.
                exchange.next().unwrap();
                exchange
            })
            .collect();
        assert!(matches!(client::status(&served.dir), Err(ControlError::Failed(_) | ControlError::Gone(_))));
        served.machine.board.update(|view| view.state = State::Running);
        for mut exchange in waiting {
            assert_eq!(exchange.next().unwrap(), Response::Done);
            // The end of the stream: the place is free, or will be in an instant.
            assert!(exchange.next().is_err());
        }
        while client::status(&served.dir).is_err() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_session_is_carried_both_ways_to_its_exit_code() {
        let served = served(Some(Habit::Good));
        let open = |argv: &str| {
            let shell = guest::Shell { argv: vec![argv.into()], tty: None, term: None };
            Exchange::open(&served.dir, &Request::Shell(shell)).unwrap()
        };
        assert!(matches!(open("dog").next(), Err(ControlError::Failed(message)) if message == "not found"));
        let mut exchange = open("cat");
        assert_eq!(exchange.next().unwrap(), Response::Done);
        let mut to_guest = exchange.stream().try_clone().unwrap();
        let mut from_guest = exchange.into_reader();
        let bytes = vec![7; 50_000];
        for _ in 0..3 {
            Frame::Stdin(bytes.clone()).write(&mut to_guest).unwrap();
            assert_eq!(Frame::read(&mut from_guest).unwrap(), Some(Frame::Stdout(bytes.clone())));
        }
        Frame::StdinEnd.write(&mut to_guest).unwrap();
        assert_eq!(Frame::read(&mut from_guest).unwrap(), Some(Frame::Exit(7)));
        assert_eq!(Frame::read(&mut from_guest).unwrap(), None);
    }
}
