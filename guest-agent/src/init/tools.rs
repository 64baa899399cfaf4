//! Running the few programs PID 1 needs (file system tools) to their end.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::reaper::{Children, Exit};
use super::waiting::{PowerRequest, wait_readable};

/// Where programs are found, for tools and shells alike.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is kept of a tool's output: its end, where the reason stands.
const MAX_OUTPUT: usize = 4096;

/// How long a tool that was asked to stop for a power-off has before it is killed. e2fsck takes the
/// request seriously and leaves a consistent state.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How a tool ended, and what it said.
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    /// Both output streams, their last bytes, on one line.
    pub(crate) output: String,
}

/// A command with nothing of PID 1's environment.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).stdin(Stdio::null());
    command
}

/// Runs a tool to its end.
///
/// # Errors
/// When it cannot be started, and when a power-off was asked for before it ended: it is stopped then.
pub(crate) fn run(children: &Children, power: &PowerRequest, mut command: Command) -> Result<Outcome> {
    let name = command.get_program().to_string_lossy().into_owned();
    let (mut output, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let child = children.spawn(&mut command).with_context(|| format!("cannot start {name}"))?;
    // The command holds our copies of the pipe's writing end; its reading end must see an end.
    drop(command);
    let mut tail = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let [readable, stop] = wait_readable([output.as_fd(), power.as_fd()], None)?;
        if stop {
            child.signal(Signal::TERM)?;
            if child.wait_for(STOP_GRACE)?.is_none() {
                child.signal(Signal::KILL)?;
                child.wait();
            }
            bail!("{name} was stopped by the power-off");
        }
        if readable {
            match output.read(&mut buffer)? {
                0 => break,
                length => keep_tail(&mut tail, &buffer[..length]),
            }
        }
    }
    Ok(Outcome { exit: child.wait(), output: one_line(&tail) })
}

fn keep_tail(tail: &mut Vec<u8>, more: &[u8]) {
    tail.extend_from_slice(more);
    let excess = tail.len().saturating_sub(MAX_OUTPUT);
    tail.drain(..excess);
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{isolated, sh, with_reaper};
    use super::*;

    #[test]
    fn a_tool_gives_its_exit_and_the_end_of_what_it_said() {
        isolated("init::tools::tests::a_tool_gives_its_exit_and_the_end_of_what_it_said", || {
            with_reaper(|children| {
                let power = PowerRequest::new().unwrap();
                let outcome = run(children, &power, sh("echo one; echo two >&2; exit 4")).unwrap();
                assert_eq!(outcome.exit, Exit::Code(4));
                assert_eq!(outcome.output, "one; two");
                let long = run(children, &power, sh("yes x | head -n 100000; echo last")).unwrap();
                assert!(long.output.len() <= 2 * MAX_OUTPUT);
                assert!(long.output.ends_with("x; last"));
            });
        });
    }

    #[test]
    fn a_power_off_stops_a_tool() {
        isolated("init::tools::tests::a_power_off_stops_a_tool", || {
            with_reaper(|children| {
                let power = PowerRequest::new().unwrap();
                power.request(Duration::ZERO).unwrap();
                let error = run(children, &power, sh("exec sleep 1000")).err().unwrap();
                assert_eq!(error.to_string(), "/bin/sh was stopped by the power-off");
                assert!(children.wait_none(Duration::from_secs(60)));
            });
        });
    }
}
