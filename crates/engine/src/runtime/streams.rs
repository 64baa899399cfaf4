//! The descriptors a process talks through.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{CWD, Mode, OFlags},
    pipe::PipeFlags,
    termios::Winsize,
};

use crate::error::{Context, Result};

/// What a process is to have as its standard streams. Output always goes to pipes, or to a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Rows and columns of the terminal, if it has one: it is then its input as well.
    pub terminal: Option<(u16, u16)>,
    /// Without, the input is `/dev/null`. Has no meaning with a terminal.
    pub stdin: bool,
}

/// The other ends of a process's standard streams. They do not block.
#[derive(Debug, Default)]
pub struct Streams {
    /// The process reads the end of its input when this is dropped.
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// The terminal's master: input and output. The others are `None` then.
    pub terminal: Option<OwnedFd>,
}

/// Both ends of new streams: the process's 0, 1 and 2, and ours.
pub(super) fn open(stdio: Stdio) -> Result<([OwnedFd; 3], Streams)> {
    let what = || "make the streams of a process".to_owned();
    let null =
        || rustix::fs::openat(CWD, "/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context(what);
    // (read end, write end)
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(what);
    if stdio.terminal.is_some() {
        return Ok(([null()?, null()?, null()?], Streams::default()));
    }
    let (input, stdin) = if stdio.stdin {
        let (theirs, ours) = pipe()?;
        (theirs, Some(ours))
    } else {
        (null()?, None)
    };
    let ((stdout, output), (stderr, error)) = (pipe()?, pipe()?);
    for ours in stdin.iter().chain([&stdout, &stderr]) {
        do_not_block(ours.as_fd())?;
    }
    let streams = Streams { stdin, stdout: Some(stdout), stderr: Some(stderr), terminal: None };
    Ok(([input, output, error], streams))
}

pub(super) fn do_not_block(fd: BorrowedFd<'_>) -> Result<()> {
    let what = || "make a stream non-blocking".to_owned();
    let flags = rustix::fs::fcntl_getfl(fd).context(what)?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).context(what)
}

impl Streams {
    /// What the shim holds, in the order that [`Streams::from_held`] expects.
    pub(super) fn to_hold(&self) -> Vec<BorrowedFd<'_>> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten().map(AsFd::as_fd).collect()
    }

    /// Streams from what the shim held: output and error, and input before them if there was one.
    pub(super) fn from_held(mut held: Vec<OwnedFd>, terminal: Option<OwnedFd>) -> Self {
        let stderr = held.pop();
        let stdout = held.pop();
        Self { stdin: held.pop(), stdout, stderr, terminal }
    }
}

/// Tells a terminal its size; the processes on it get SIGWINCH.
pub fn resize(terminal: &OwnedFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).context(|| "resize a terminal".to_owned())
}
