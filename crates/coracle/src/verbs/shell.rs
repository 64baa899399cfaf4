//! `coracle shell`.

use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use wire::{
    app::{Request, Response},
    frame::{Frame, MAX_PAYLOAD},
    guest,
};

use crate::{cli, control::client::Exchange, machine::home::Home, platform::Signals};

/// As a shell reports a command that wrote to a closed pipe: 128 + SIGPIPE.
const READER_GONE: i32 = 141;

pub(crate) fn run(args: cli::Shell) -> Result<ExitCode> {
    let dir = Home::from_environment()?.machine(&args.machine.name);
    // A terminal in the VM makes sense when both ends of ours are one: output that is redirected
    // must not get the terminal's line ends.
    let tty = (io::stdin().is_terminal() && io::stdout().is_terminal()).then(window).flatten();
    let request = guest::Shell { argv: args.command, tty, term: env::var("TERM").ok() };
    let mut exchange = Exchange::open(&dir, &Request::Shell(request))?;
    match exchange.next()? {
        Response::Done => {}
        _ => return Err(exchange.nonsense().into()),
    }
    let to_guest =
        Arc::new(Mutex::new(exchange.stream().try_clone().context("cannot copy the session's socket")?));
    let _raw = if tty.is_some() {
        follow_window(Arc::clone(&to_guest))?;
        Some(RawMode::enter()?)
    } else {
        None
    };
    // Never joined: it may be waiting for a key when the program ends.
    thread::spawn({
        let to_guest = Arc::clone(&to_guest);
        move || send_input(&to_guest)
    });
    let mut from_guest = exchange.into_reader();
    let code = loop {
        match Frame::read(&mut from_guest).context("the session with the VM broke off")? {
            Some(Frame::Stdout(bytes)) if !show(io::stdout(), &bytes)? => break READER_GONE,
            Some(Frame::Stderr(bytes)) if !show(io::stderr(), &bytes)? => break READER_GONE,
            Some(Frame::Stdout(_) | Frame::Stderr(_)) => {}
            Some(Frame::Exit(code)) => break code,
            Some(Frame::Stdin(_) | Frame::StdinEnd | Frame::Resize { .. }) => {
                bail!("the VM sent what only a client sends")
            }
            None => bail!(
                "the session with the VM ended: the VM was stopped, or it crashed (see `coracle status`)"
            ),
        }
    };
    // As a shell does: what does not fit is cut to its low byte.
    Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
}

/// False when the reader of our output went away, which is the end of the session.
fn show(mut to: impl Write, bytes: &[u8]) -> Result<bool> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write the output"),
    }
}

/// The size of our terminal.
fn window() -> Option<guest::Window> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(guest::Window { rows: size.ws_row, columns: size.ws_col })
}

/// Sends what is typed or piped in, and then its end.
fn send_input(to_guest: &Mutex<UnixStream>) {
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; MAX_PAYLOAD];
    loop {
        let frame = match input.read(&mut buffer) {
            Ok(length) if length > 0 => Frame::Stdin(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(_) | Err(_) => Frame::StdinEnd,
        };
        let sent = send(to_guest, &frame);
        if frame == Frame::StdinEnd || sent.is_err() {
            return;
        }
    }
}

fn send(to_guest: &Mutex<UnixStream>, frame: &Frame) -> io::Result<()> {
    // Two threads send; a frame is written whole.
    let mut bytes = Vec::new();
    frame.write(&mut bytes)?;
    to_guest.lock().unwrap_or_else(PoisonError::into_inner).write_all(&bytes)
}

/// Tells the guest whenever our window changes its size.
fn follow_window(to_guest: Arc<Mutex<UnixStream>>) -> Result<()> {
    let mut signals = Signals::listen(&[libc::SIGWINCH]).context("cannot follow the window's size")?;
    thread::spawn(move || {
        while signals.next().is_ok() {
            if let Some(guest::Window { rows, columns }) = window()
                && send(&to_guest, &Frame::Resize { rows, columns }).is_err()
            {
                return;
            }
        }
    });
    Ok(())
}

/// The terminal passes every key on; undone when dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Result<RawMode> {
        let before = tcgetattr(io::stdin()).context("cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).context("cannot set the terminal's mode")?;
        Ok(RawMode(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
