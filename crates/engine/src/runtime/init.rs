//! What runs as `/sbin/docker-init` in a container started with `--init`: PID 1, which starts the
//! container's command, passes signals on to it, and reaps what is left to it.

use std::{
    ffi::{CString, OsString, c_char},
    io::{self, Write},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
    ptr,
};

use crate::shim::reset_signals;

/// The program's name in the container.
pub const PATH: &str = "/sbin/docker-init";

/// `docker-init [--] COMMAND…`: returns with the command's exit status, or 128 + the signal that ended
/// it. To be called before the process has a second thread.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let command = match arguments.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => arguments.as_slice(),
    };
    let Ok(command) = command.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<Vec<_>, _>>()
    else {
        return ExitCode::from(2);
    };
    if command.is_empty() {
        let _ = writeln!(io::stderr(), "docker-init: no command");
        return ExitCode::from(2);
    }
    match run(&command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let _ = writeln!(io::stderr(), "docker-init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &[CString]) -> io::Result<u8> {
    let argv: Vec<*const c_char> = command.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
    let Some(file) = argv.first() else { return Ok(2) };
    // SAFETY: system calls on local values; one thread; the child calls nothing else before exec.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        // What tells of a fault of ours is not to be passed on.
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT]
        {
            libc::sigdelset(&raw mut all, signal);
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // In the foreground of the terminal, if there is one, in a group of its own.
                libc::setpgid(0, 0);
                libc::tcsetpgrp(libc::STDIN_FILENO, libc::getpgrp());
                reset_signals();
                libc::execvp(*file, argv.as_ptr());
                let error = io::Error::last_os_error();
                let _ = writeln!(io::stderr(), "docker-init: {:?}: {error}", command.first());
                libc::_exit(if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
            }
            child => Ok(watch(child, &all)),
        }
    }
}

/// Waits for the command's end.
fn watch(child: libc::pid_t, signals: &libc::sigset_t) -> u8 {
    loop {
        // SAFETY: `signals` is initialised; all of them are blocked.
        let signal = unsafe { libc::sigwaitinfo(signals, ptr::null_mut()) };
        match signal {
            libc::SIGCHLD => {
                if let Some(code) = reap(child) {
                    return code;
                }
            }
            // A stopped PID 1 could not reap.
            libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | ..=0 => {}
            signal => {
                // SAFETY: numbers only. The command may just have ended.
                unsafe { libc::kill(child, signal) };
            }
        }
    }
}

/// Reaps whoever has ended; the command's exit status if it was among them.
fn reap(child: libc::pid_t) -> Option<u8> {
    let mut code = None;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
            ..=0 => return code,
            pid if pid == child => {
                let ended = if libc::WIFSIGNALED(status) {
                    128 + libc::WTERMSIG(status)
                } else {
                    libc::WEXITSTATUS(status)
                };
                code = Some(u8::try_from(ended).unwrap_or(255));
            }
            _ => {}
        }
    }
}
