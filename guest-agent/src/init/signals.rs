//! PID 1's signals, taken one by one from a file descriptor instead of by handlers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A set of signals that no longer interrupt this process but wait to be read.
pub(crate) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks `signals` in the calling thread and all threads it starts from now on.
    pub(crate) fn block(signals: &[libc::c_int]) -> io::Result<Signals> {
        // SAFETY: all zeroes is a valid sigset_t, and every pointer is to that local set.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for &signal in signals {
                if libc::sigaddset(&raw mut set, signal) != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
                0 => libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC),
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `signalfd` has just returned this descriptor, and nothing else owns it.
        Ok(Signals { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Blocks until a signal comes, and says which.
    pub(crate) fn next(&self) -> io::Result<libc::c_int> {
        loop {
            // SAFETY: all zeroes is a valid signalfd_siginfo, and the kernel writes at most its size.
            let (read, info) = unsafe {
                let mut info: libc::signalfd_siginfo = std::mem::zeroed();
                let size = size_of_val(&info);
                (libc::read(self.fd.as_raw_fd(), (&raw mut info).cast(), size), info)
            };
            if read == size_of_val(&info).cast_signed() {
                return libc::c_int::try_from(info.ssi_signo).map_err(io::Error::other);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}
