//! Signals as something to read, for a thread that waits for them.

use std::{
    fs::File,
    io::{self, Read},
    mem,
    os::fd::IntoRawFd,
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::pipe::{PipeFlags, pipe_with};

/// Write end of the pipe that the handler reports to; -1 before there is one.
static REPORT_TO: AtomicI32 = AtomicI32::new(-1);

/// The signals of this process, one after the other.
///
/// Handlers and not a signal mask: a mask would be inherited by what this process starts, handlers
/// end at its exec.
#[derive(Debug)]
pub(crate) struct Signals(File);

impl Signals {
    /// From now on these signals no longer have their usual effect but come out of [`Signals::next`].
    /// At most one value of this type exists in a process.
    pub(crate) fn listen(signals: &[libc::c_int]) -> io::Result<Signals> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        // A full pipe has a signal to report already; the handler must never block.
        rustix::io::ioctl_fionbio(&write, true)?;
        let write = write.into_raw_fd();
        if REPORT_TO.compare_exchange(-1, write, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        for signal in signals {
            // SAFETY: all-zero is a valid sigaction: no flags, an empty mask, the default action.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            action.sa_sigaction = report as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            // SAFETY: `action` is fully set, and `report` calls nothing that is unsafe in a handler.
            if unsafe { libc::sigaction(*signal, &action, std::ptr::null_mut()) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Signals(File::from(read)))
    }

    /// Blocks until a signal comes.
    pub(crate) fn next(&mut self) -> io::Result<libc::c_int> {
        let mut byte = [0];
        self.0.read_exact(&mut byte)?;
        Ok(byte[0].into())
    }
}

extern "C" fn report(signal: libc::c_int) {
    // Signal numbers end at 64.
    let byte = u8::try_from(signal).unwrap_or(0);
    // SAFETY: errno is this thread's own, and is put back so that the interrupted code sees its value.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::write(REPORT_TO.load(Ordering::SeqCst), (&raw const byte).cast(), 1);
        *errno = saved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_comes_out_and_a_second_listener_is_refused() {
        let mut signals = Signals::listen(&[libc::SIGUSR1, libc::SIGUSR2]).unwrap();
        assert_eq!(Signals::listen(&[libc::SIGUSR1]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        for signal in [libc::SIGUSR2, libc::SIGUSR1] {
            // SAFETY: raises a signal that is handled since the line above.
            assert_eq!(unsafe { libc::raise(signal) }, 0);
            assert_eq!(signals.next().unwrap(), signal);
        }
    }
}
