//! A process's input, so that closing it in the engine closes it for the process: the shim has a copy,
//! which keeps it open when the engine dies and must not when the engine closes it.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::pipe::PipeFlags;
use tokio::io::{Interest, unix::AsyncFd};

use super::{connection::Connection, streams};
use crate::error::{Context, Result};

const CHUNK: usize = 16 * 1024;

/// What is written to the descriptor returned goes on to `input`. When all its copies are closed, `input`
/// is closed here and in the shim, which holds it under `key`.
pub(super) fn forward(connection: &Arc<Connection>, key: &str, input: OwnedFd) -> Result<OwnedFd> {
    let what = || "make the input of a process".to_owned();
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(what)?;
    for fd in [reader.as_fd(), writer.as_fd(), input.as_fd()] {
        streams::do_not_block(fd)?;
    }
    // SAFETY: both own their one descriptor and keep it until they are dropped.
    let (reader, input) = unsafe {
        (
            AsyncFd::register_with_interest(reader, Interest::READABLE).context(what)?,
            AsyncFd::register_with_interest(input, Interest::WRITABLE).context(what)?,
        )
    };
    let (connection, key) = (connection.clone(), key.to_owned());
    tokio::spawn(async move {
        // Broken pipe: the process reads no more. Then our end goes, and whoever writes to it hears so.
        let _ = copy(&reader, &input).await;
        drop(input);
        connection.close_input(&key);
    });
    Ok(writer)
}

async fn copy(reader: &AsyncFd<OwnedFd>, writer: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = reader.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer)?)).await?;
        if read == 0 {
            return Ok(());
        }
        let mut left = buffer.get(..read).unwrap_or_default();
        while !left.is_empty() {
            let written = writer.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, left)?)).await?;
            left = left.get(written..).unwrap_or_default();
        }
    }
}
