//! Programs under test: started with all three streams in our hands, in a process group of their own, and never left
//! behind.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::{roles, wait};

/// How long a program may run unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// What a program left: its exit status and everything that it wrote.
#[derive(Clone)]
pub struct Output {
    pub line: String,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    /// The exit code; for a program that a signal ended, 128 plus the signal, as a shell has it.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Fails, showing everything, unless the exit code is `code`.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        ensure!(self.code() == code, "expected exit code {code} of {self}");
        Ok(self)
    }

    /// Standard output of a program that succeeded, without the blanks around it.
    pub fn text(self) -> Result<String> {
        Ok(self.expect_code(0)?.stdout().trim().to_owned())
    }

    /// Fails, showing everything, unless standard error contains `text`.
    pub fn expect_stderr(self, text: &str) -> Result<Self> {
        ensure!(self.stderr().contains(text), "expected {text:?} on the standard error of {self}");
        Ok(self)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: exit code {}", self.line, self.code())?;
        for (name, bytes) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !bytes.is_empty() {
                write!(f, "\n--- {name} ---\n{}", excerpt(bytes))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 4000;
    match bytes.get(..SHOWN) {
        Some(head) if bytes.len() > SHOWN => {
            format!("{}… ({} bytes in all)", String::from_utf8_lossy(head), bytes.len())
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// What a program finds on its standard input.
#[derive(Clone)]
enum Input {
    Null,
    Bytes(Vec<u8>),
    File(PathBuf),
    Pipe,
    /// A terminal of this size for all three streams.
    Terminal(Winsize),
}

/// A program that is to run.
#[derive(Clone)]
pub struct Program {
    path: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    input: Input,
    timeout: Duration,
    /// Arguments of our own binary that come before the program, see [`roles`].
    through: Option<Vec<OsString>>,
}

impl Program {
    /// A program with an empty environment but for `PATH`.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let search = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        Self {
            path: path.as_ref().to_owned(),
            args: Vec::new(),
            env: vec![("PATH".into(), search)],
            folder: None,
            input: Input::Null,
            timeout: TIMEOUT,
            through: None,
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(n, _)| n != name.as_ref());
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Standard input: these bytes, then its end.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Input::Bytes(bytes.into());
        self
    }

    /// Standard input: the content of a file.
    #[must_use]
    pub fn stdin_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.input = Input::File(file.into());
        self
    }

    /// Standard input: a pipe that [`Running::write`] feeds and [`Running::close_stdin`] ends.
    #[must_use]
    pub fn stdin_pipe(mut self) -> Self {
        self.input = Input::Pipe;
        self
    }

    /// All three streams on a terminal, which is the program's controlling one. What is written there arrives as
    /// standard output.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.input = Input::Terminal(Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
        self
    }

    /// How long it may run before its process group is killed and the run fails.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Starts the program by way of our own binary in the role that `args` name.
    #[must_use]
    pub(crate) fn through<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.through = Some(args.into_iter().map(|arg| arg.as_ref().to_owned()).collect());
        self
    }

    fn line(&self) -> String {
        let name = PathBuf::from(&self.path);
        let name = name.file_name().unwrap_or(&self.path).to_string_lossy().into_owned();
        std::iter::once(name).chain(self.args.iter().map(|arg| arg.to_string_lossy().into_owned())).fold(
            String::new(),
            |mut line, word| {
                if !line.is_empty() {
                    line.push(' ');
                }
                line.push_str(&word);
                line
            },
        )
    }

    /// Starts it and comes back at once. It is killed when the thread that called this ends.
    pub fn spawn(self) -> Result<Running> {
        let line = self.line();
        let mut command = Command::new(roles::own_binary());
        match &self.through {
            Some(role) => command.args(role),
            None => command.args([roles::EXEC]),
        };
        let mut master = None;
        let mut output: Vec<(Stream, File)> = Vec::new();
        match &self.input {
            Input::Terminal(size) => {
                let (ours, theirs) = open_terminal(*size).context("opening a terminal")?;
                command.arg(roles::WITH_TERMINAL);
                let copy = || theirs.try_clone().context("copying a terminal's descriptor");
                command.stdin(copy()?).stdout(copy()?).stderr(theirs);
                output.push((Stream::Out, File::from(ours.try_clone()?)));
                master = Some(File::from(ours));
            }
            input => {
                command.stdin(match input {
                    Input::File(file) => {
                        Stdio::from(File::open(file).with_context(|| format!("opening {}", file.display()))?)
                    }
                    Input::Bytes(_) | Input::Pipe => Stdio::piped(),
                    _ => Stdio::null(),
                });
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
            }
        }
        command
            .arg("--")
            .arg(&self.path)
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(n, v)| (n, v)));
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut child = command.spawn().with_context(|| format!("starting `{line}`"))?;
        // The command holds copies of the terminal, without whose end our reader would never see its own.
        drop(command);
        output.extend(child.stdout.take().map(|pipe| (Stream::Out, File::from(OwnedFd::from(pipe)))));
        output.extend(child.stderr.take().map(|pipe| (Stream::Err, File::from(OwnedFd::from(pipe)))));

        let mut stdin = master;
        if let Some(pipe) = child.stdin.take() {
            let mut pipe = File::from(OwnedFd::from(pipe));
            match self.input {
                // The program may end before it has read everything: not an error of ours.
                Input::Bytes(bytes) => drop(thread::spawn(move || pipe.write_all(&bytes))),
                _ => stdin = Some(pipe),
            }
        }

        let pid = Pid::from_child(&child);
        let shared = Arc::new(Shared {
            state: Mutex::new(State { open: output.len(), ..State::default() }),
            changed: Condvar::new(),
        });
        for (stream, file) in output {
            let shared = Arc::clone(&shared);
            thread::spawn(move || collect(&shared, stream, file));
        }
        let waiter = Arc::clone(&shared);
        thread::spawn(move || {
            // Peek first: until `status` is set the pid is ours, so a kill can never hit a stranger.
            let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut state = waiter.lock();
            state.status = Some(child.wait().unwrap_or_default());
            drop(state);
            waiter.changed.notify_all();
        });

        Ok(Running { line, pid, shared, stdin, timeout: self.timeout })
    }

    /// Runs it to its end.
    pub fn output(self) -> Result<Output> {
        self.spawn()?.wait()
    }
}

/// A pseudo-terminal: our side and the program's.
fn open_terminal(size: Winsize) -> Result<(OwnedFd, OwnedFd)> {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    let name = rustix::pty::ptsname(&ours, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
    rustix::termios::tcsetwinsize(&ours, size)?;
    Ok((ours, theirs))
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

#[derive(Default)]
struct State {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// Streams that have not ended.
    open: usize,
    status: Option<ExitStatus>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn collect(shared: &Shared, stream: Stream, mut file: File) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // A terminal whose other side is closed reports an error where a pipe reports its end.
        let read = file.read(&mut buffer).unwrap_or(0);
        let mut state = shared.lock();
        match stream {
            Stream::Out => state.stdout.extend_from_slice(&buffer[..read]),
            Stream::Err => state.stderr.extend_from_slice(&buffer[..read]),
        }
        if read == 0 {
            state.open -= 1;
        }
        drop(state);
        shared.changed.notify_all();
        if read == 0 {
            return;
        }
    }
}

/// A program that was started. Dropping it kills its process group.
pub struct Running {
    line: String,
    pid: Pid,
    shared: Arc<Shared>,
    stdin: Option<File>,
    timeout: Duration,
}

impl Running {
    /// The pid on this machine, which is also that of its process group.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Writes to standard input, or types on the terminal.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        let stdin = self.stdin.as_mut().context("this program has no standard input to write to")?;
        stdin.write_all(bytes.as_ref()).with_context(|| format!("writing to `{}`", self.line))
    }

    /// Ends standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Changes the size of the terminal, which the program learns by a signal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let terminal = self.stdin.as_ref().context("this program has no terminal")?;
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal, size).context("resizing a terminal")
    }

    /// Sends a signal to its process group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let state = self.shared.lock();
        ensure!(state.status.is_none(), "`{}` has ended already", self.line);
        rustix::process::kill_process_group(self.pid, signal)
            .with_context(|| format!("signalling `{}`", self.line))
    }

    /// What it has written to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().stdout).into_owned()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.shared.lock().status.is_some()
    }

    /// Waits until standard output contains `text`.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        self.wait_until(&format!("it prints {text:?}"), |stdout, _| contains(stdout, text.as_bytes()))
    }

    /// Waits until standard output and standard error so far satisfy `condition`.
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        let end = wait::until(self.timeout);
        let mut state = self.shared.lock();
        loop {
            if condition(&state.stdout, &state.stderr) {
                return Ok(());
            }
            let over = state.status.is_some() && state.open == 0;
            let left = end.saturating_duration_since(Instant::now());
            if over || left.is_zero() {
                let why = if over { "but it has ended" } else { "in vain" };
                bail!("waited for `{}` until {what}, {why}\n{}", self.line, written(&state));
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for its end and that of its output; kills it when its time is over.
    pub fn wait(mut self) -> Result<Output> {
        let end = wait::until(self.timeout);
        let mut state = self.shared.lock();
        loop {
            if let Some(status) = state.status
                && state.open == 0
            {
                let (stdout, stderr) = (std::mem::take(&mut state.stdout), std::mem::take(&mut state.stderr));
                drop(state);
                return Ok(Output { line: std::mem::take(&mut self.line), status, stdout, stderr });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let told = written(&state);
                drop(state);
                self.kill();
                bail!("`{}` did not end in {:?} and was killed\n{told}", self.line, self.timeout);
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Kills its process group, if it has not ended.
    pub fn kill(&self) {
        let state = self.shared.lock();
        if state.status.is_none() {
            let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
            // Before it has become the leader of its group.
            let _ = rustix::process::kill_process(self.pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

fn written(state: &State) -> String {
    format!("--- stdout ---\n{}\n--- stderr ---\n{}", excerpt(&state.stdout), excerpt(&state.stderr))
}

/// Whether `bytes` contain `part`.
#[must_use]
pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

/// A program on the `PATH`.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| anyhow!("there is no {name} on the PATH"))
}
