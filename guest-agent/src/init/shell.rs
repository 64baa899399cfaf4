//! A program run for the host in the VM itself, with or without a terminal.
//!
//! One thread carries everything: the client's frames to the program's input, its output back as
//! frames, and at its end the exit code. It blocks in one `poll`, and each direction holds at most one
//! frame's worth of bytes, so a program that does not read stops the client and the other way round.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use wire::frame::{Frame, MAX_PAYLOAD};
use wire::guest::{Shell, Window};

use super::reaper::{Child, Children, Exit};
use super::stream::Stream;
use super::tools;
use super::waiting::poll_until;

/// What runs when the client names no program.
const LOGIN_SHELL: [&str; 2] = ["/bin/sh", "-l"];
const HOME: &str = "/root";
/// A terminal type that every program knows, for a client that names none.
const PLAIN_TERM: &str = "linux";

/// What a terminal's user types to end the input.
const END_OF_TRANSMISSION: u8 = 4;

/// Bytes before a frame's payload: its kind and its length.
const HEAD: usize = 5;

/// What is still taken from a pipe or terminal after the program has ended: as much as the kernel holds
/// for it. A background process that goes on writing does not keep the session open.
const LAST_WORDS: usize = 256 * 1024;

/// How long a session's processes have after SIGHUP before they are killed.
const HANGUP_GRACE: Duration = Duration::from_secs(2);

/// A program that runs for a client.
pub(crate) struct Session {
    child: Child,
    /// How the program ended, once it has.
    exit: Option<Exit>,
    input: Option<File>,
    outputs: Vec<Output>,
    /// The terminal's controlling side, if there is one.
    terminal: Option<OwnedFd>,
}

struct Output {
    from: File,
    frame: fn(Vec<u8>) -> Frame,
    /// How much more is taken from it; unbounded while the program runs.
    left: Option<usize>,
}

impl Session {
    /// Starts the program, in a session of its own.
    pub(crate) fn start(request: &Shell, children: &Children) -> Result<Session> {
        let (program, arguments): (&str, Vec<&str>) = match request.argv.as_slice() {
            [] => (LOGIN_SHELL[0], LOGIN_SHELL[1..].to_vec()),
            [program, arguments @ ..] => (program, arguments.iter().map(String::as_str).collect()),
        };
        let mut command = tools::command(program);
        command
            .args(arguments)
            .env("HOME", HOME)
            .env("USER", "root")
            .env("LOGNAME", "root")
            .env("SHELL", LOGIN_SHELL[0])
            .current_dir(if Path::new(HOME).is_dir() { HOME } else { "/" });
        let session = match request.tty {
            Some(window) => {
                command.env("TERM", request.term.as_deref().unwrap_or(PLAIN_TERM));
                Session::with_terminal(command, window, children)
            }
            None => Session::with_pipes(command, children),
        };
        session.with_context(|| format!("cannot run {program}"))
    }

    fn with_terminal(mut command: Command, window: Window, children: &Children) -> Result<Session> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let theirs =
            ioctl_tiocgptpeer(&ours, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        set_window(&ours, window.rows, window.columns)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        // SAFETY: both calls are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(|| {
                if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = children.spawn(&mut command)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let output = Output { from: File::from(ours.try_clone()?), frame: Frame::Stdout, left: None };
        Ok(Session {
            child,
            exit: None,
            input: Some(File::from(ours.try_clone()?)),
            outputs: vec![output],
            terminal: Some(ours),
        })
    }

    fn with_pipes(mut command: Command, children: &Children) -> Result<Session> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: `setsid` is async-signal-safe.
        unsafe {
            command.pre_exec(|| match libc::setsid() {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
        let mut child = children.spawn(&mut command)?;
        let ready = |end: OwnedFd| -> Result<File> {
            rustix::io::ioctl_fionbio(&end, true)?;
            Ok(File::from(end))
        };
        let input = child.stdin.take().map(|end| ready(end.into())).transpose()?;
        let mut outputs = Vec::new();
        if let Some(end) = child.stdout.take() {
            outputs.push(Output { from: ready(end.into())?, frame: Frame::Stdout, left: None });
        }
        if let Some(end) = child.stderr.take() {
            outputs.push(Output { from: ready(end.into())?, frame: Frame::Stderr, left: None });
        }
        Ok(Session { child, exit: None, input, outputs, terminal: None })
    }

    /// Carries bytes until the program has ended and the client has its exit code, or until the client
    /// is gone: then the program's session is hung up. `early` is what the client sent already.
    ///
    /// # Errors
    /// When the client is gone or breaks the protocol.
    pub(crate) fn run(mut self, client: &Stream, early: &[u8]) -> io::Result<()> {
        let carried = self.carry(client, early);
        // What a program that has ended left running in the background was meant to stay.
        if carried.is_err() && self.exit.is_none() {
            self.hang_up();
        }
        carried
    }

    fn carry(&mut self, client: &Stream, early: &[u8]) -> io::Result<()> {
        let mut from_client = FromClient { unparsed: early.to_vec(), input: Vec::new() };
        let mut to_client = Vec::new();
        let mut said_exit = false;
        loop {
            from_client.parse(self)?;
            if let Some(exit) = self.exit
                && self.outputs.is_empty()
                && !said_exit
            {
                Frame::Exit(exit.shell_code()).write(&mut to_client)?;
                said_exit = true;
            }
            if said_exit && to_client.is_empty() {
                return client.finish();
            }
            let ready = self.wait(client, &from_client, &to_client)?;
            if ready.client_gone || (ready.client_readable && !from_client.receive(client)?) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if ready.client_writable {
                send_some(client, &mut to_client)?;
            }
            if ready.input_writable {
                from_client.feed(&mut self.input);
            }
            if to_client.len() < MAX_PAYLOAD {
                for index in (0..self.outputs.len()).rev() {
                    if ready.outputs[index] && self.outputs[index].take_some(&mut to_client)? {
                        self.outputs.remove(index);
                    }
                }
            }
            if ready.ended && self.exit.is_none() {
                self.exit = Some(self.child.wait());
                self.input = None;
                for output in &mut self.outputs {
                    output.left = Some(LAST_WORDS);
                }
            }
        }
    }

    /// Blocks until something can go on.
    fn wait(&self, client: &Stream, from_client: &FromClient, to_client: &[u8]) -> io::Result<Ready> {
        let ended = self.exit.is_some();
        let when = |flag, wanted: bool| if wanted { flag } else { PollFlags::empty() };
        // After the end, what the outputs still hold is read without waiting for more.
        let drain = ended && to_client.len() < MAX_PAYLOAD;
        let mut fds = vec![PollFd::new(
            client,
            PollFlags::RDHUP
                | when(PollFlags::IN, from_client.has_room())
                | when(PollFlags::OUT, !to_client.is_empty()),
        )];
        if !ended {
            fds.push(PollFd::new(&self.child, PollFlags::IN));
        }
        if let Some(input) = self.input.as_ref().filter(|_| !from_client.input.is_empty()) {
            fds.push(PollFd::new(input, PollFlags::OUT));
        }
        let before_outputs = fds.len();
        if !drain && to_client.len() < MAX_PAYLOAD {
            fds.extend(self.outputs.iter().map(|output| PollFd::new(&output.from, PollFlags::IN)));
        }
        poll_until(&mut fds, drain.then(Instant::now))?;
        let events = |index: usize| fds.get(index).map_or(PollFlags::empty(), PollFd::revents);
        let client = events(0);
        let gone = PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR;
        Ok(Ready {
            client_gone: client.intersects(gone),
            client_readable: client.contains(PollFlags::IN),
            client_writable: client.contains(PollFlags::OUT),
            ended: !ended && !events(1).is_empty(),
            input_writable: before_outputs > usize::from(!ended) + 1
                && !events(before_outputs - 1).is_empty(),
            outputs: (0..self.outputs.len())
                .map(|index| drain || !events(before_outputs + index).is_empty())
                .collect(),
        })
    }

    /// Ends the program because nobody is left to see it: SIGHUP, as when a terminal's line drops, and
    /// SIGKILL for what does not heed it.
    fn hang_up(&mut self) {
        self.input = None;
        self.outputs.clear();
        // With its last descriptor here the terminal itself hangs up.
        self.terminal = None;
        let leader = self.child.pid;
        let _ = self.child.signal(Signal::HUP);
        let _ = kill_process_group(leader, Signal::HUP);
        let _ = kill_process_group(leader, Signal::CONT);
        if let Err(error) = self.child.wait_for(HANGUP_GRACE) {
            tracing::warn!("cannot wait for a session's end: {error}");
        }
        for member in session_members(leader) {
            let _ = kill_process(member, Signal::KILL);
        }
        let _ = self.child.signal(Signal::KILL);
        self.child.wait();
    }
}

struct Ready {
    client_gone: bool,
    client_readable: bool,
    client_writable: bool,
    ended: bool,
    input_writable: bool,
    outputs: Vec<bool>,
}

/// Bytes on their way from the client to the program.
struct FromClient {
    /// Bytes of frames that are not complete, or whose turn has not come.
    unparsed: Vec<u8>,
    /// Bytes the program has not read yet.
    input: Vec<u8>,
}

impl FromClient {
    /// Whether to read more from the client: not while a whole frame waits.
    fn has_room(&self) -> bool {
        self.unparsed.len() < HEAD + MAX_PAYLOAD
    }

    /// Reads what the client has sent. False when it has closed.
    fn receive(&mut self, client: &Stream) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let room = (HEAD + MAX_PAYLOAD).saturating_sub(self.unparsed.len()).min(buffer.len());
        match client.read_now(&mut buffer[..room]) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.unparsed.extend_from_slice(&buffer[..length]);
                Ok(true)
            }
            Err(error) if is_not_now(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Acts on the complete frames, in order. Input waits until the program has taken what came before.
    fn parse(&mut self, session: &mut Session) -> io::Result<()> {
        while self.input.is_empty() {
            let Some(frame) = self.next_frame()? else { break };
            match frame {
                Frame::Stdin(bytes) if session.input.is_some() => self.input = bytes,
                // A terminal's input cannot be closed; its end is a character.
                Frame::StdinEnd if session.terminal.is_some() && session.input.is_some() => {
                    self.input.push(END_OF_TRANSMISSION);
                }
                Frame::StdinEnd => session.input = None,
                // For a program that no longer reads.
                Frame::Stdin(_) => {}
                Frame::Resize { rows, columns } => {
                    if let Some(terminal) = &session.terminal {
                        set_window(terminal, rows, columns)?;
                    }
                }
                other => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("a client's frame {other:?}"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some(length) = self.unparsed.get(1..HEAD).and_then(|length| length.try_into().ok()) else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        // A length beyond the limit is refused by the frame's own parser, at once.
        if length <= MAX_PAYLOAD && self.unparsed.len() < HEAD + length {
            return Ok(None);
        }
        let mut rest = self.unparsed.as_slice();
        let frame = Frame::read(&mut rest)?;
        let used = self.unparsed.len() - rest.len();
        self.unparsed.drain(..used);
        Ok(frame)
    }

    /// Gives the program what it takes of its input.
    fn feed(&mut self, input: &mut Option<File>) {
        let Some(file) = input else { return self.input.clear() };
        match file.write(&self.input) {
            Ok(length) => drop(self.input.drain(..length)),
            Err(error) if is_not_now(&error) => {}
            Err(_) => {
                // The program has closed its input, which is its right.
                self.input.clear();
                *input = None;
            }
        }
    }
}

impl Output {
    /// Takes what is there as one frame. True when nothing more will come.
    fn take_some(&mut self, to_client: &mut Vec<u8>) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let room = self.left.unwrap_or(usize::MAX).min(buffer.len());
        match self.from.read(&mut buffer[..room]) {
            Ok(0) => Ok(true),
            Ok(length) => {
                (self.frame)(buffer[..length].to_vec()).write(to_client)?;
                if let Some(left) = &mut self.left {
                    *left -= length;
                }
                Ok(false)
            }
            // Nothing there: more may come unless the program has ended.
            Err(error) if is_not_now(&error) => Ok(self.left.is_some()),
            // A terminal whose last user is gone answers EIO.
            Err(_) => Ok(true),
        }
    }
}

/// The code with which a shell ends when a program is not there, or is none; `None` when the failure is
/// not the program's.
pub(crate) fn exit_code(error: &anyhow::Error) -> Option<i32> {
    match error.downcast_ref::<io::Error>()?.raw_os_error()? {
        libc::ENOENT | libc::ENOTDIR => Some(127),
        libc::EACCES | libc::ENOEXEC | libc::EISDIR => Some(126),
        _ => None,
    }
}

fn send_some(client: &Stream, bytes: &mut Vec<u8>) -> io::Result<()> {
    match client.write_now(bytes) {
        Ok(length) => drop(bytes.drain(..length)),
        Err(error) if is_not_now(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn is_not_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn set_window(terminal: &OwnedFd, rows: u16, columns: u16) -> io::Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

/// The processes of the session that `leader` made, whatever their process groups.
fn session_members(leader: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            let pid = Pid::from_raw(name.to_str()?.parse().ok()?)?;
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
            (session_of(&stat)? == leader.as_raw_nonzero().get()).then_some(pid)
        })
        .collect()
}

/// proc_pid_stat(5): `pid (name) state ppid pgrp session …`, where the name may hold anything.
fn session_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::thread::{self, JoinHandle};

    use super::super::testing::{isolated, with_reaper};
    use super::*;

    fn request(argv: &[&str], tty: Option<Window>) -> Shell {
        Shell { argv: argv.iter().map(|word| (*word).to_owned()).collect(), tty, term: None }
    }

    struct Client {
        stream: UnixStream,
        session: JoinHandle<io::Result<()>>,
    }

    impl Client {
        fn start(children: &Arc<Children>, request: &Shell) -> Client {
            let session = Session::start(request, children).unwrap();
            let (stream, theirs) = UnixStream::pair().unwrap();
            let session = thread::spawn(move || session.run(&Stream::from(OwnedFd::from(theirs)), &[]));
            Client { stream, session }
        }

        fn send(&mut self, frame: Frame) {
            frame.write(&mut self.stream).unwrap();
        }

        /// Reads frames until the exit; gives the outputs and the code.
        fn finish(mut self) -> (String, String, i32) {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let code = loop {
                match Frame::read(&mut self.stream).unwrap() {
                    Some(Frame::Stdout(bytes)) => out.extend(bytes),
                    Some(Frame::Stderr(bytes)) => err.extend(bytes),
                    Some(Frame::Exit(code)) => break code,
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(Frame::read(&mut self.stream).unwrap(), None, "nothing follows the exit");
            self.session.join().unwrap().unwrap();
            (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap(), code)
        }

        /// Reads output until it ends with `text`.
        fn read_until(&mut self, text: &str) {
            let mut seen = String::new();
            while !seen.ends_with(text) {
                match Frame::read(&mut self.stream).unwrap() {
                    Some(Frame::Stdout(bytes)) => seen.push_str(&String::from_utf8_lossy(&bytes)),
                    other => panic!("{other:?} after {seen:?}"),
                }
            }
        }
    }

    #[test]
    fn streams_and_exit_codes_are_kept_apart() {
        isolated("init::shell::tests::streams_and_exit_codes_are_kept_apart", || {
            with_reaper(|children| {
                let script = "cat; echo problem >&2; exit 7";
                let mut client = Client::start(children, &request(&["/bin/sh", "-c", script], None));
                client.send(Frame::Stdin(b"one ".to_vec()));
                client.send(Frame::Stdin(b"two".to_vec()));
                client.send(Frame::StdinEnd);
                assert_eq!(client.finish(), ("one two".into(), "problem\n".into(), 7));
                let client = Client::start(children, &request(&["/bin/sh", "-c", "kill -9 $$"], None));
                assert_eq!(client.finish().2, 137);
            });
        });
    }

    #[test]
    fn a_terminal_has_a_size_and_obeys_resizes_and_control_characters() {
        isolated(
            "init::shell::tests::a_terminal_has_a_size_and_obeys_resizes_and_control_characters",
            || {
                with_reaper(|children| {
                    let script = "stty size; trap 'stty size; exit 3' WINCH; echo ready; \
                    while :; do read -r _ || :; done";
                    let window = Window { rows: 31, columns: 97 };
                    let mut client =
                        Client::start(children, &request(&["/bin/sh", "-c", script], Some(window)));
                    client.read_until("31 97\r\nready\r\n");
                    client.send(Frame::Resize { rows: 24, columns: 80 });
                    // A shell runs the trap once its read is over.
                    client.send(Frame::Stdin(b"\n".to_vec()));
                    let (out, _, code) = client.finish();
                    assert!(out.ends_with("24 80\r\n"), "{out:?}");
                    assert_eq!(code, 3);

                    let mut client = Client::start(children, &request(&["cat"], Some(window)));
                    client.send(Frame::Stdin(b"x\n".to_vec()));
                    // Once from the terminal's echo, once from the program, which runs then.
                    client.read_until("x\r\nx\r\n");
                    client.send(Frame::Stdin(vec![3]));
                    assert_eq!(client.finish().2, 130);

                    let mut client = Client::start(children, &request(&["cat"], Some(window)));
                    client.send(Frame::StdinEnd);
                    assert_eq!(client.finish().2, 0);
                });
            },
        );
    }

    #[test]
    fn all_output_comes_before_the_exit_even_when_the_client_is_slow() {
        isolated("init::shell::tests::all_output_comes_before_the_exit_even_when_the_client_is_slow", || {
            with_reaper(|children| {
                for tty in [None, Some(Window { rows: 24, columns: 80 })] {
                    let script = "head -c 1000000 /dev/zero | tr '\\0' x; echo end";
                    let client = Client::start(children, &request(&["/bin/sh", "-c", script], tty));
                    let (out, _, code) = client.finish();
                    assert_eq!(code, 0);
                    assert_eq!(out.trim_end().len(), 1_000_003);
                    assert!(out.trim_end().ends_with("xend"));
                }
            });
        });
    }

    #[test]
    fn a_background_process_does_not_keep_the_session_open() {
        isolated("init::shell::tests::a_background_process_does_not_keep_the_session_open", || {
            with_reaper(|children| {
                let script = "sleep 1000 & echo $!";
                let client = Client::start(children, &request(&["/bin/sh", "-c", script], None));
                let (out, _, code) = client.finish();
                assert_eq!(code, 0);
                let left = Pid::from_raw(out.trim().parse().unwrap()).unwrap();
                kill_process(left, Signal::KILL).unwrap();
            });
        });
    }

    #[test]
    fn a_vanished_client_ends_the_whole_session_also_what_ignores_the_hangup() {
        isolated(
            "init::shell::tests::a_vanished_client_ends_the_whole_session_also_what_ignores_the_hangup",
            || {
                with_reaper(|children| {
                    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
                    for tty in [None, Some(Window { rows: 24, columns: 80 })] {
                        let script = "(trap '' HUP; exec sleep 1000) & echo up; sleep 1000";
                        let mut client = Client::start(children, &request(&["/bin/sh", "-c", script], tty));
                        client.read_until(if tty.is_some() { "up\r\n" } else { "up\n" });
                        drop(client.stream);
                        assert!(client.session.join().unwrap().is_err());
                        assert!(children.wait_none(Duration::from_secs(60)));
                    }
                });
            },
        );
    }

    #[test]
    fn a_program_that_does_not_read_stops_the_client_but_not_its_leaving() {
        isolated(
            "init::shell::tests::a_program_that_does_not_read_stops_the_client_but_not_its_leaving",
            || {
                with_reaper(|children| {
                    let mut client = Client::start(children, &request(&["sleep", "1000"], None));
                    client.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
                    let mut sent = 0;
                    while Frame::Stdin(vec![0; MAX_PAYLOAD]).write(&mut client.stream).is_ok() {
                        sent += MAX_PAYLOAD;
                        assert!(sent < 8 << 20, "input is not bounded");
                    }
                    drop(client.stream);
                    assert!(client.session.join().unwrap().is_err());
                    assert!(children.wait_none(Duration::from_secs(60)));
                });
            },
        );
    }

    #[test]
    fn a_hostile_frame_ends_the_session() {
        isolated("init::shell::tests::a_hostile_frame_ends_the_session", || {
            with_reaper(|children| {
                for bytes in
                    [&[0, 0xff, 0xff, 0xff, 0xff][..], &[9, 0, 0, 0, 0], &[5, 0, 0, 0, 4, 0, 0, 0, 0]]
                {
                    let mut client = Client::start(children, &request(&["sleep", "1000"], None));
                    client.stream.write_all(bytes).unwrap();
                    let error = client.session.join().unwrap().unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    assert!(children.wait_none(Duration::from_secs(60)));
                }
            });
        });
    }

    #[test]
    fn a_missing_program_is_named() {
        isolated("init::shell::tests::a_missing_program_is_named", || {
            with_reaper(|children| {
                let error = Session::start(&request(&["/no/such"], None), children).err().unwrap();
                assert!(format!("{error:#}").starts_with("cannot run /no/such: No such file"), "{error:#}");
            });
        });
    }

    #[test]
    fn the_session_is_read_past_any_name() {
        assert_eq!(session_of("7 (a) 1 (b c) S 1 7 42 34816 7 0"), Some(42));
        assert_eq!(session_of("7 (a"), None);
    }
}
