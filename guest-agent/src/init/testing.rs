//! What the tests of this module need: a process of their own, with a reaper in it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::reaper::Children;
use super::signals::Signals;

const INSIDE: &str = "CORACLE_TEST_ISOLATED";

/// Runs `body` in a process of its own, because a reaper takes every child of its process, also those
/// of other tests. `test` is the full path of the calling test.
pub(crate) fn isolated(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(INSIDE, "1");
    // SAFETY: only async-signal-safe calls on a local set. All threads of the new process inherit the
    // mask, as PID 1's threads do: a signal that any thread lets through never reaches the signalfd.
    unsafe {
        command.pre_exec(|| {
            let mut child = std::mem::zeroed();
            libc::sigemptyset(&raw mut child);
            libc::sigaddset(&raw mut child, libc::SIGCHLD);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const child, std::ptr::null_mut());
            Ok(())
        });
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} in its own process: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
}

/// Runs `body` beside a thread that reaps as PID 1's main thread does.
pub(crate) fn with_reaper(body: impl FnOnce(&Arc<Children>)) {
    let children = Arc::new(Children::new());
    let signals = Signals::block(&[libc::SIGCHLD]).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let reaper = {
        let (children, over) = (Arc::clone(&children), Arc::clone(&over));
        thread::spawn(move || {
            while !over.load(Ordering::Acquire) {
                signals.next().unwrap();
                children.reap();
            }
        })
    };
    body(&children);
    over.store(true, Ordering::Release);
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::CHILD).unwrap();
    reaper.join().unwrap();
}

/// A command that runs `script`.
pub(crate) fn sh(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}
