//! Both ends of measured connections: this binary again, as a server and as a client in another network namespace.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tests::process::Program;

use crate::table::Value;

/// `… ADDRESS`: serves until it is killed.
pub(crate) const SERVER: &str = "--role=traffic-server";
/// `… ADDRESS MODE CONNECTIONS SECONDS`: prints bytes per second, or seconds per exchange.
pub(crate) const CLIENT: &str = "--role=traffic-client";

/// Measurements of each, of which the median counts.
pub(crate) const ROUNDS: usize = 5;
/// How long one takes.
pub(crate) const SECONDS: &str = "1.5";

/// Bytes of one read or write.
const PIECE: usize = 1 << 20;

/// How long a read or write waits.
const STILL: Duration = Duration::from_secs(2);

/// What a connection does; its first byte says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The client sends.
    Up,
    /// The server sends.
    Down,
    /// One byte there and back, again and again.
    Exchange,
    /// Nothing.
    Idle,
}

const MODES: [(Mode, &str); 4] =
    [(Mode::Up, "U"), (Mode::Down, "D"), (Mode::Exchange, "R"), (Mode::Idle, "I")];

impl Mode {
    pub(crate) fn letter(self) -> &'static str {
        MODES.iter().find(|(mode, _)| *mode == self).map_or("", |(_, letter)| letter)
    }

    fn of(letter: &[u8]) -> Option<Self> {
        MODES.iter().find(|(_, known)| known.as_bytes() == letter).map(|(mode, _)| *mode)
    }
}

/// What a client has printed.
pub(crate) fn figure(client: Program) -> Result<f64> {
    let text = client.output()?.text()?;
    text.parse().with_context(|| format!("no figure: {text:?}"))
}

/// The middle one of some numbers.
pub(crate) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

/// The middle one of some measurements, in the unit of what was measured.
pub(crate) fn value(mode: Mode, numbers: Vec<f64>) -> Value {
    match mode {
        Mode::Exchange => Value { number: median(numbers) * 1e6, unit: "µs" },
        _ => Value { number: median(numbers) * 8.0 / 1e9, unit: "Gbit/s" },
    }
}

pub(crate) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("where is this program?")
}

/// Plays the role that the arguments name, if they name one of these.
pub(crate) fn dispatch() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [SERVER, address] => serve(address),
        [CLIENT, address, mode, connections, seconds] => client(address, mode, connections, seconds),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "traffic: {error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Many connections are many descriptors.
fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .context("raising the limit of open files")
}

fn serve(address: &str) -> Result<()> {
    raise_open_files()?;
    let listener = TcpListener::bind(address).with_context(|| format!("binding {address}"))?;
    for client in listener.incoming() {
        let client = client?;
        // Thousands of them do nothing: they need no large stack.
        thread::Builder::new().stack_size(64 << 10).spawn(move || answer(client))?;
    }
    Ok(())
}

/// Ends when the client does, in whatever way.
fn answer(mut client: TcpStream) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut letter = [0];
    client.read_exact(&mut letter)?;
    match Mode::of(&letter) {
        Some(Mode::Up) => {
            let mut piece = vec![0; PIECE];
            while client.read(&mut piece)? > 0 {}
        }
        Some(Mode::Down) => {
            let piece = vec![0; PIECE];
            loop {
                client.write_all(&piece)?;
            }
        }
        Some(Mode::Exchange) => loop {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            client.write_all(&byte)?;
        },
        Some(Mode::Idle) => drop(client.read(&mut letter)?),
        None => {}
    }
    Ok(())
}

fn client(address: &str, mode: &str, connections: &str, seconds: &str) -> Result<()> {
    raise_open_files()?;
    let mode = Mode::of(mode.as_bytes()).context("no such mode")?;
    let connections: usize = connections.parse()?;
    let time = Duration::from_secs_f64(seconds.parse()?);
    let dial = || -> Result<TcpStream> {
        let mut stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.write_all(mode.letter().as_bytes())?;
        Ok(stream)
    };
    let streams: Vec<TcpStream> = (0..connections).map(|_| dial()).collect::<Result<_>>()?;
    if mode == Mode::Idle {
        let mut stdout = std::io::stdout();
        writeln!(stdout, "connected").and_then(|()| stdout.flush())?;
        thread::park_timeout(time);
        return Ok(());
    }
    let begun = Instant::now();
    let counts: Vec<u64> = thread::scope(|scope| {
        let threads: Vec<_> =
            streams.into_iter().map(|stream| scope.spawn(move || drive(stream, mode, time))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a panic")))
            .collect::<Result<_>>()
    })?;
    let elapsed = begun.elapsed().as_secs_f64();
    let count = counts.iter().sum::<u64>() as f64;
    let figure = if mode == Mode::Exchange { elapsed * connections as f64 / count } else { count / elapsed };
    writeln!(std::io::stdout(), "{figure}")?;
    Ok(())
}

/// Bytes moved, or exchanges made, until the time is over. A network that stands still has moved nothing meanwhile.
fn drive(mut stream: TcpStream, mode: Mode, time: Duration) -> Result<u64> {
    let end = Instant::now() + time;
    stream.set_read_timeout(Some(STILL))?;
    stream.set_write_timeout(Some(STILL))?;
    let mut piece = vec![0; PIECE];
    let mut count = 0;
    while Instant::now() < end {
        count += match mode {
            Mode::Up => moved(stream.write(&piece))?,
            Mode::Down => moved(stream.read(&mut piece))?,
            Mode::Exchange | Mode::Idle => {
                stream.write_all(&[1])?;
                stream.read_exact(&mut piece[..1])?;
                1
            }
        };
    }
    Ok(count)
}

fn moved(result: std::io::Result<usize>) -> std::io::Result<u64> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
        result => result.map(|count| count as u64),
    }
}
