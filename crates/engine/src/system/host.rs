use std::{
    fmt, io,
    os::{
        fd::{BorrowedFd, RawFd},
        unix::net::UnixListener,
    },
    path::PathBuf,
    str::FromStr,
};

use rustix::{
    io::{FdFlags, fcntl_setfd},
    net::sockopt::socket_acceptconn,
};

use crate::error::Error;

/// An address the API is served on, as in `--host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// `unix:///run/docker.sock`.
    Unix(PathBuf),
    /// `vsock://2375`: a port of this machine's own vsock address.
    Vsock(u32),
    /// `fd://3`: a Unix socket that whoever has started the engine listens at, by the descriptor's number. It outlives the
    /// engine, and with it whatever has it mounted.
    Inherited(RawFd),
}

impl Host {
    /// Sees to it that no program that the engine starts has an inherited socket as well.
    ///
    /// # Errors
    /// A number that is none of a socket that somebody listens at.
    pub(crate) fn keep_from_children(&self) -> io::Result<()> {
        let Self::Inherited(number) = self else { return Ok(()) };
        // SAFETY: it is borrowed for two system calls, which refuse what is not open.
        let socket = unsafe { BorrowedFd::borrow_raw(*number) };
        fcntl_setfd(socket, FdFlags::CLOEXEC)?;
        if socket_acceptconn(socket)? { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// The inherited socket of this number, for good: there is one host of this number, and it is asked once.
    pub(crate) fn inherited(number: RawFd) -> io::Result<UnixListener> {
        // SAFETY: borrowed for one system call.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let listener = UnixListener::from(socket.try_clone_to_owned()?);
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unusable = || {
            Error::invalid(format!(
                "cannot serve on {text:?}: use unix:///absolute/path, vsock://PORT or fd://NUMBER"
            ))
        };
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("fd", number)) => match number.parse() {
                Ok(number) if number > 2 => Ok(Self::Inherited(number)),
                _ => Err(unusable()),
            },
            Some(("vsock", port)) => port.parse().map(Self::Vsock).map_err(|error| unusable().because(error)),
            _ => Err(unusable()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Vsock(port) => write!(f, "vsock://{port}"),
            Self::Inherited(number) => write!(f, "fd://{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back_and_others_are_refused() {
        for text in ["unix:///run/docker.sock", "vsock://2375", "fd://3"] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), text);
        }
        for text in ["unix://relative", "tcp://0.0.0.0:2375", "vsock://", "fd://1", "fd://-3", "docker.sock"]
        {
            assert!(text.parse::<Host>().unwrap_err().to_string().contains(text), "{text}");
        }
    }

    #[test]
    fn only_a_socket_that_is_listened_at_is_inherited() {
        use std::{
            os::{fd::AsRawFd as _, unix::net::UnixStream},
            thread,
        };

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let number = listener.as_raw_fd();
        let file = tempfile::tempfile().unwrap();
        let (stream, _other) = UnixStream::pair().unwrap();
        for wrong in [file.as_raw_fd(), stream.as_raw_fd(), 1 << 20] {
            assert!(Host::Inherited(wrong).keep_from_children().is_err());
        }
        Host::Inherited(number).keep_from_children().unwrap();
        let inherited = Host::inherited(number).unwrap();
        let caller = thread::spawn(move || UnixStream::connect(path).map(drop));
        caller.join().unwrap().unwrap();
        assert!(inherited.accept().is_ok());
    }
}
