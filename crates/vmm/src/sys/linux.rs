//! The Linux side of `sys`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::memory::{GuestBuffer, GuestSlice};

/// IOV_MAX: the kernel refuses longer arrays.
const MAX_IOVECS: usize = 1024;

/// Turns the -1 of a system call into its error.
fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The array of a buffer's pieces for the kernel, cut to the length it takes.
fn iovecs(slices: &[GuestSlice<'_>]) -> (*mut libc::iovec, usize) {
    // GuestSlice is a transparent wrapper of iovec, and no call below writes to the array itself.
    (slices.as_ptr().cast_mut().cast(), slices.len().min(MAX_IOVECS))
}

/// Fills `bytes` from getrandom(2).
pub(crate) fn random_bytes(bytes: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        // SAFETY: pointer and length describe `rest`, which is writable.
        match check(unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) }) {
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads file bytes from `offset` until `buffer` is full. Bytes beyond the end of the file are an error.
pub(crate) fn read_exact_at(file: BorrowedFd<'_>, buffer: &GuestBuffer<'_>, offset: u64) -> io::Result<()> {
    transfer(buffer, offset, |iovecs, count, offset| {
        // SAFETY: the array's `count` entries are checked guest memory that the buffer keeps mapped.
        unsafe { libc::preadv(file.as_raw_fd(), iovecs, count, offset) }
    })
}

/// Writes all of `buffer` to the file at `offset`.
pub(crate) fn write_all_at(file: BorrowedFd<'_>, buffer: &GuestBuffer<'_>, offset: u64) -> io::Result<()> {
    transfer(buffer, offset, |iovecs, count, offset| {
        // SAFETY: the array's `count` entries are checked guest memory that the buffer keeps mapped.
        unsafe { libc::pwritev(file.as_raw_fd(), iovecs, count, offset) }
    })
}

fn transfer(
    buffer: &GuestBuffer<'_>,
    offset: u64,
    call: impl Fn(*const libc::iovec, libc::c_int, libc::off_t) -> libc::ssize_t,
) -> io::Result<()> {
    let mut done = 0;
    let mut rest = None::<GuestBuffer<'_>>;
    while done < buffer.len() {
        let (array, count) = iovecs(rest.as_ref().unwrap_or(buffer).slices());
        let position = u64::try_from(done)
            .ok()
            .and_then(|done| libc::off_t::try_from(offset.checked_add(done)?).ok())
            .ok_or(io::ErrorKind::InvalidInput)?;
        match check(call(array, libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX), position)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                done += count;
                rest = Some(buffer.part(done, usize::MAX));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Receives what a stream socket holds right now into guest memory. `WouldBlock` if it holds nothing, 0 at its end.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &GuestBuffer<'_>) -> io::Result<usize> {
    let (array, count) = iovecs(buffer.slices());
    let mut message = empty_message(array, count);
    loop {
        // SAFETY: `message` refers to `count` iovecs of checked guest memory that the buffer keeps mapped; it has no
        // address and no control buffer.
        match check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends as much of `buffer` as a stream socket takes right now. `WouldBlock` if it takes nothing.
pub(crate) fn send(socket: BorrowedFd<'_>, buffer: &GuestBuffer<'_>) -> io::Result<usize> {
    let (array, count) = iovecs(buffer.slices());
    // SAFETY: the iovecs are checked guest memory that the buffer keeps mapped.
    unsafe { send_iovecs(socket, array, count) }
}

/// Like [`send`], from memory of our own that lies in two pieces.
pub(crate) fn send_bytes(socket: BorrowedFd<'_>, pieces: (&[u8], &[u8])) -> io::Result<usize> {
    let mut array = [pieces.0, pieces.1]
        .map(|piece| libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() });
    // SAFETY: the iovecs describe two live slices, which the kernel only reads.
    unsafe { send_iovecs(socket, array.as_mut_ptr(), array.len()) }
}

/// # Safety
/// `array` MUST point to `count` iovecs of readable memory.
unsafe fn send_iovecs(socket: BorrowedFd<'_>, array: *mut libc::iovec, count: usize) -> io::Result<usize> {
    let message = empty_message(array, count);
    loop {
        // SAFETY: the caller vouches for the iovecs; there is no address and no control buffer.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
        match check(sent) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn empty_message(array: *mut libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: msghdr is plain data; all zeroes is an empty message without address and control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = array;
    message.msg_iovlen = count as _;
    message
}

/// Reads and drops what a stream socket holds, up to `limit` bytes.
///
/// Closing a UNIX socket that holds unread bytes makes the peer's next read fail instead of seeing the end.
pub(crate) fn discard_input(socket: BorrowedFd<'_>, limit: usize) {
    let mut scratch = [0_u8; 16 << 10];
    let mut dropped = 0;
    while dropped < limit {
        // SAFETY: pointer and length describe `scratch`.
        let got = unsafe {
            libc::recv(socket.as_raw_fd(), scratch.as_mut_ptr().cast(), scratch.len(), libc::MSG_DONTWAIT)
        };
        match usize::try_from(got) {
            Ok(count) if count > 0 => dropped += count,
            _ => return,
        }
    }
}

/// A counter that wakes an event loop: write to notify, read to clear.
pub(crate) fn wake_event() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Wakes the loop behind a [`wake_event`].
pub(crate) fn wake(event: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::io::write(event, &1_u64.to_ne_bytes()) {
        // EAGAIN: the counter is at its maximum, so the loop has a wake-up outstanding.
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Clears a [`wake_event`] or a timer descriptor.
pub(crate) fn clear(event: BorrowedFd<'_>) {
    // An error means that nothing was to be cleared (EAGAIN), which is as good.
    let _ = rustix::io::read(event, &mut [0_u8; 8]);
}

/// In a child between fork and exec: have the kernel kill it when the thread that forked it ends, however it ends.
///
/// `parent` is that thread's process; if it is gone already, the signal would never come. Only calls that are safe
/// after fork in a threaded process are made here.
pub(crate) fn die_with_parent(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: getppid has no arguments and cannot fail.
    if unsafe { libc::getppid() } != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// In a child between fork and exec: let the executed program inherit `keep` and nothing else above standard error.
///
/// Only calls that are safe after fork in a threaded process are made here.
pub(crate) fn inherit_only(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: close_range with CLOEXEC only sets flags on descriptors of this child.
    let marked = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if marked != 0 {
        let error = io::Error::last_os_error();
        // Linux before 5.11 does not know the flag. All descriptors of ours have CLOEXEC from birth, so go on.
        if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) {
            return Err(error);
        }
    }
    for &fd in keep {
        // SAFETY: F_SETFD takes an integer; `fd` is an open descriptor that the caller owns.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// In a child between fork and exec: a session of its own (no signals from a terminal) and no core dumps, which would
/// hold the guest's memory.
pub(crate) fn detach() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: setsid has no arguments; setrlimit reads the structure given.
    if unsafe { libc::setsid() == -1 || libc::setrlimit(libc::RLIMIT_CORE, &none) == -1 } {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
