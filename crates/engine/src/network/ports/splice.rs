//! Carrying bytes from socket to socket without taking them into memory of ours: `splice(2)`, by way of a pipe.

use std::{io, os::fd::AsFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

/// Bytes on their way in each direction of a connection. They are the sockets' own pages, which pass through it.
const PIPE: usize = 1 << 20;

/// Carries both directions, each to its own end.
///
/// # Errors
/// A connection that broke; what the other direction still had is lost then.
pub(super) async fn both(one: &mut TcpStream, other: &mut TcpStream) -> io::Result<()> {
    let ((from_one, to_one), (from_other, to_other)) = (one.split(), other.split());
    tokio::try_join!(way(from_one, to_other), way(from_other, to_one)).map(drop)
}

async fn way(from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Without the privilege, or beyond the user's share, it stays as it is.
    let _ = fcntl_setpipe_size(&into, PIPE);
    loop {
        let source: &TcpStream = from.as_ref();
        let mut held = source.async_io(Interest::READABLE, || step(source, &into)).await?;
        if held == 0 {
            return to.shutdown().await;
        }
        while held > 0 {
            let target: &TcpStream = to.as_ref();
            held -= target.async_io(Interest::WRITABLE, || step(&out, target)).await?;
        }
    }
}

/// Moves what there is, as much as there is room for.
fn step(from: impl AsFd, to: impl AsFd) -> io::Result<usize> {
    Ok(splice(from, None, to, None, PIPE, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}
