//! The socket on which libcontainer hands over a terminal's master.

use std::{
    fs,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::error::{Context, Error, Result};

/// A listening socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    listener: UnixListener,
}

impl Console {
    /// Binds by the file's short name, since a socket's path may have no more than 107 bytes.
    pub(super) fn listen(path: PathBuf) -> Result<Self> {
        let bind = || -> io::Result<UnixListener> {
            let before = std::env::current_dir()?;
            std::env::set_current_dir(path.parent().unwrap_or(Path::new("/")))?;
            let listener = UnixListener::bind(Path::new(path.file_name().unwrap_or_default()))?;
            std::env::set_current_dir(before)?;
            // What libcontainer sends is there before we ask.
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listener = bind().context(|| "listen for the terminal".to_owned())?;
        Ok(Self { path, listener })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal's master, after the process has been made.
    pub(super) fn receive(self) -> Result<OwnedFd> {
        let what = || "receive the terminal".to_owned();
        let (stream, _) = self.listener.accept().context(what)?;
        let mut name = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, flags).context(what)?;
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        master.ok_or_else(|| Error::system("the process has sent no terminal"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It goes with the bundle at the latest.
        let _ = fs::remove_file(&self.path);
    }
}
