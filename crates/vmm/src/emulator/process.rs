//! QEMU's process: found, started so that it cannot outlive us, and its end understood.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::console::Output;
use super::qemu::POWER_OFF_EXIT_CODE;
use crate::sys;

/// What QEMU says when it exits because of a signal; the exit code alone looks like success.
const TERMINATED: &str = "terminating on signal ";

/// Finds an executable in `search`, which has the form of the environment's PATH.
pub(crate) fn find(program: &str, search: Option<OsString>) -> Option<PathBuf> {
    let is_executable = |path: &Path| {
        path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&search?).map(|directory| directory.join(program)).find(|path| is_executable(path))
}

/// Starts a program that dies with the calling *thread*, and inherits nothing but `keep`.
///
/// So the caller MUST stay in its thread until the program has ended.
pub(crate) fn spawn(program: &Path, arguments: &[OsString], keep: &[BorrowedFd<'_>]) -> io::Result<Child> {
    let parent = libc::pid_t::try_from(std::process::id()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let keep: Vec<RawFd> = keep.iter().map(|fd| fd.as_raw_fd()).collect();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: the closure makes system calls only; it neither allocates nor locks.
    unsafe {
        command.pre_exec(move || {
            sys::die_with_parent(parent)?;
            sys::detach()?;
            sys::inherit_only(&keep)
        });
    }
    command.spawn()
}

/// How the process ended, by itself or by someone else's hand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    PoweredOff,
    Reset,
    Panicked { message: String },
    Killed { signal: i32, stderr: String },
    Failed { code: i32, stderr: String },
}

/// Makes sense of an exit status and of what was written before.
pub(crate) fn understand(status: ExitStatus, output: Output) -> End {
    let Output { stderr, panic } = output;
    if let Some(signal) = status.signal() {
        return End::Killed { signal, stderr };
    }
    match status.code() {
        Some(POWER_OFF_EXIT_CODE) => End::PoweredOff,
        Some(0) => match (signal_named_in(&stderr), panic) {
            (Some(signal), _) => End::Killed { signal, stderr },
            (None, Some(message)) => End::Panicked { message },
            (None, None) => End::Reset,
        },
        code => End::Failed { code: code.unwrap_or(-1), stderr },
    }
}

fn signal_named_in(stderr: &str) -> Option<i32> {
    let (_, rest) = stderr.rsplit_once(TERMINATED)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    fn end(raw: i32, stderr: &str, panic: Option<&str>) -> End {
        let output = Output { stderr: stderr.to_owned(), panic: panic.map(str::to_owned) };
        understand(ExitStatus::from_raw(raw), output)
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(end(0, "", None), End::Reset);
        assert_eq!(end(0x21 << 8, "", Some("earlier")), End::PoweredOff);
        assert_eq!(end(0, "warning", Some("Oops")), End::Panicked { message: "Oops".into() });
        let stderr = "qemu-system-x86_64: terminating on signal 15 from pid 7 (kill)";
        assert_eq!(end(0, stderr, None), End::Killed { signal: 15, stderr: stderr.into() });
        assert_eq!(end(9, "", None), End::Killed { signal: 9, stderr: String::new() });
        assert_eq!(end(1 << 8, "no", None), End::Failed { code: 1, stderr: "no".into() });
    }

    #[test]
    fn programs_are_found_by_their_execute_bit() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tool"), "").unwrap();
        let search = || Some(std::env::join_paths(["/nonexistent".as_ref(), directory.path()]).unwrap());
        assert_eq!(find("tool", search()), None);
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path().join("tool"), executable).unwrap();
        assert_eq!(find("tool", search()), Some(directory.path().join("tool")));
        assert_eq!(find("tool", None), None);
    }

    #[test]
    fn a_child_inherits_only_what_it_is_given() {
        let given = tempfile::tempfile().unwrap();
        let leaked = tempfile::tempfile().unwrap();
        // A descriptor that some library forgot to mark.
        rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
        let script = format!(
            "ls /proc/self/fd/{} >/dev/null && ! ls /proc/self/fd/{} 2>/dev/null && echo ok >&2",
            given.as_raw_fd(),
            leaked.as_raw_fd()
        );
        let arguments = ["-c".into(), format!("PATH=/usr/bin:/bin; {script}").into()];
        let mut child = spawn(Path::new("/bin/sh"), &arguments, &[given.as_fd()]).unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert_eq!(said, "ok\n");
    }

    #[test]
    fn a_child_dies_with_the_thread_that_started_it() {
        let arguments = ["-c".into(), "exec cat /dev/zero >/dev/null".into()];
        let thread = std::thread::spawn(move || spawn(Path::new("/bin/sh"), &arguments, &[]).unwrap());
        let status = thread.join().unwrap().wait().unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
