//! Blocking on several things at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

/// Waits until one of `fds` is readable (or hung up), or the time is over. Says which are; none when
/// the time is over.
pub(crate) fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    poll_until(&mut polled, timeout.map(|timeout| Instant::now() + timeout))?;
    Ok(polled.map(|fd| !fd.revents().is_empty()))
}

/// `poll` that survives signals. Returns at the deadline with no event set.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(()),
        }
    }
}

/// The wish to power off: made once, seen by everyone who waits for something else meanwhile.
pub(crate) struct PowerRequest {
    /// Readable from the request on, and never read, so that every waiter wakes.
    raised: OwnedFd,
    timeout: Mutex<Option<Duration>>,
}

impl PowerRequest {
    pub(crate) fn new() -> io::Result<PowerRequest> {
        Ok(PowerRequest {
            raised: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            timeout: Mutex::new(None),
        })
    }

    /// Asks for a power-off that gives the containers `timeout`. A second request changes nothing.
    pub(crate) fn request(&self, timeout: Duration) -> io::Result<()> {
        let mut current = self.timeout.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_none() {
            *current = Some(timeout);
            rustix::io::write(&self.raised, &1u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// The containers' time-out, once a power-off was asked for.
    pub(crate) fn requested(&self) -> Option<Duration> {
        *self.timeout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until a power-off is asked for.
    pub(crate) fn wait(&self) -> io::Result<Duration> {
        loop {
            if let Some(timeout) = self.requested() {
                return Ok(timeout);
            }
            wait_readable([self.as_fd()], None)?;
        }
    }
}

impl AsFd for PowerRequest {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raised.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_power_request_stands_and_wakes_everyone() {
        let power = PowerRequest::new().unwrap();
        assert_eq!(wait_readable([power.as_fd()], Some(Duration::ZERO)).unwrap(), [false]);
        power.request(Duration::from_secs(3)).unwrap();
        power.request(Duration::from_secs(90)).unwrap();
        for _waiter in 0..2 {
            assert_eq!(wait_readable([power.as_fd()], None).unwrap(), [true]);
            assert_eq!(power.wait().unwrap(), Duration::from_secs(3));
        }
    }

    #[test]
    fn a_closed_peer_counts_as_readable() {
        let (read, write) = io::pipe().unwrap();
        let quiet = PowerRequest::new().unwrap();
        drop(write);
        assert_eq!(wait_readable([quiet.as_fd(), read.as_fd()], None).unwrap(), [false, true]);
    }
}
