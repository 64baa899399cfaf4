//! How a helper is started: this very program again, with nothing of the shim's left in it.

use std::{
    ffi::{CString, c_char},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    process::{Pid, Resource, Rlimit},
};

use crate::mounts;

/// A descriptor number that no helper's own descriptors reach.
const CLEAR_OF_CHILD: RawFd = 64;

/// The program, and what its processes had before the shim changed it for itself.
#[derive(Debug)]
pub(super) struct Program {
    executable: OwnedFd,
    files: Rlimit,
}

impl Program {
    /// This program's file. Where the kernel can, it is taken from a read-only mount that no process can
    /// reach or remount: a container's process can open the program that became it as
    /// `/proc/PID/exe`, and must not be able to write there (CVE-2019-5736).
    ///
    /// Raises the number of files this process may open; helpers get the limit it had.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let executable = match read_only_view("/proc/self/exe") {
            Ok(file) => file,
            Err(_) => {
                rustix::fs::openat(CWD, "/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?
            }
        };
        let files = rustix::process::getrlimit(Resource::Nofile);
        // Four descriptors a process: with less, fewer can be held, and Spawn says so.
        let _ = rustix::process::setrlimit(
            Resource::Nofile,
            Rlimit { current: files.maximum, maximum: files.maximum },
        );
        Ok(Self { executable, files })
    }

    /// Starts the program with `arguments`, an empty environment, and `files` as its 0, 1, 2 ….
    pub(super) fn start(&self, arguments: &[String], files: &[OwnedFd]) -> io::Result<Pid> {
        let arguments: Vec<CString> =
            arguments.iter().map(|text| CString::new(text.as_str())).collect::<Result<_, _>>()?;
        let mut argv: Vec<*const c_char> = arguments.iter().map(|text| text.as_ptr()).collect();
        argv.push(ptr::null());
        let envp = [ptr::null::<c_char>()];
        // Out of the way of the numbers they will get.
        let files: Vec<OwnedFd> = files
            .iter()
            .map(|file| rustix::io::fcntl_dupfd_cloexec(file, CLEAR_OF_CHILD))
            .collect::<Result<_, _>>()?;
        let limit = libc::rlimit {
            rlim_cur: self.files.current.unwrap_or(libc::RLIM_INFINITY),
            rlim_max: self.files.maximum.unwrap_or(libc::RLIM_INFINITY),
        };
        // SAFETY: this process has one thread, and the child calls nothing but system calls before it
        // becomes another program or ends.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: plain system calls on values prepared above; `exit` does not return.
                unsafe {
                    reset_signals();
                    libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
                    for (number, file) in (0..).zip(&files) {
                        if libc::dup2(file.as_raw_fd(), number) < 0 {
                            libc::_exit(127);
                        }
                    }
                    libc::execveat(
                        self.executable.as_raw_fd(),
                        c"".as_ptr(),
                        argv.as_ptr().cast(),
                        envp.as_ptr().cast(),
                        libc::AT_EMPTY_PATH,
                    );
                    libc::_exit(127)
                }
            }
            pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork")),
        }
    }
}

/// Every signal has its default meaning again and none is blocked. `execve` resets handlers, but keeps
/// what is ignored, as Rust's start-up does with SIGPIPE, and what is blocked.
///
/// # Safety
/// Between fork and exec, or in a process with no signal handlers that matter.
pub unsafe fn reset_signals() {
    // The kernel's `struct sigaction`, with SIG_DFL as its handler. The C library's function refuses the
    // two signals that it uses itself.
    let default = [0_u64; 4];
    // SAFETY: system calls on local values; those signals that cannot be set are refused.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// A file as it appears on a read-only mount that is in no mount namespace.
fn read_only_view(path: &str) -> io::Result<OwnedFd> {
    let view = mounts::copy(CWD, path, false)?;
    mounts::Changes::read_only().apply(&view)?;
    Ok(view)
}

/// A descriptor that becomes readable when a child has ended; SIGCHLD is blocked from now on.
pub(super) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: system calls on local values; the descriptor is new and ours.
    unsafe {
        let mut signals = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
