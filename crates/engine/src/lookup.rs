//! Opening what is at a path that somebody else chose, and may change meanwhile.

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2},
    io::Errno,
    path::Arg,
};

/// A lookup may be disturbed by a rename anywhere on the machine; the kernel wants it repeated then
/// (openat2(2), EAGAIN), but not for ever.
const ATTEMPTS: usize = 128;

/// Opens `path` from `directory`, within the bounds of `resolve`.
pub(crate) fn open(
    directory: impl AsFd,
    path: impl Arg,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    path.into_with_c_str(|path| {
        let open = || openat2(directory.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        let disturbed = |opened: &Result<OwnedFd, Errno>| matches!(opened, Err(Errno::AGAIN | Errno::INTR));
        (0..ATTEMPTS).map(|_| open()).find(|opened| !disturbed(opened)).unwrap_or(Err(Errno::AGAIN))
    })
}

/// Opens for reading what is open as a place (`O_PATH`) if it is a regular file. Nothing else is opened at
/// all: opening a device can do something, and opening a FIFO wait.
///
/// # Errors
/// `INVAL` for what is no regular file.
pub(crate) fn open_regular(place: &OwnedFd) -> Result<OwnedFd, Errno> {
    if FileType::from_raw_mode(fstat(place)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    openat(CWD, link, OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// [`open_regular`] of `name` in `directory`, which is no link.
pub(crate) fn open_regular_at(directory: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    open_regular(&openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}
