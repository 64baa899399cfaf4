//! Runs other programs: errors name the whole command line, and long output goes to a log file that the error points to.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// How many of a failed program's last lines are worth showing beside the name of its log.
const TAIL: usize = 15;

/// Runs a program on our own terminal and expects it to succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a program and returns what it prints, without the last line break. Its complaints become part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting `{}`", line(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}: {}", line(command), output.status, complaint.trim());
    }
    let text =
        String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no UTF-8", line(command)))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// Runs a program with everything it prints written to `log`, calling `each_line` on the way. A failure shows the last
/// lines and names the log.
pub(crate) fn logged(command: &mut Command, log: &Path, mut each_line: impl FnMut(&str)) -> Result<()> {
    let shown = line(command);
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("opening the log {}", log.display()))?;
    writeln!(file, "$ {shown}")?;

    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
    // The command still holds the writing ends; without this the loop below would never see the end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut tail = std::collections::VecDeque::with_capacity(TAIL);
    for bytes in BufReader::new(reader).split(b'\n') {
        let bytes = bytes.with_context(|| format!("reading the output of `{shown}`"))?;
        file.write_all(&bytes)?;
        file.write_all(b"\n")?;
        let text = String::from_utf8_lossy(&bytes);
        each_line(&text);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(text.into_owned());
    }
    let status = child.wait().with_context(|| format!("waiting for `{shown}`"))?;
    if !status.success() {
        let tail = tail.make_contiguous().join("\n  ");
        bail!("`{shown}` failed: {status}. Its last lines:\n  {tail}\nThe whole log is in {}", log.display());
    }
    Ok(())
}

/// Where a program is on the `PATH`, if anywhere.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// The command as a user would type it.
pub(crate) fn line(command: &Command) -> String {
    let mut words = vec![quote(&command.get_program().to_string_lossy())];
    words.extend(command.get_args().map(|word| quote(&word.to_string_lossy())));
    words.join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%{}~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_command_and_its_complaint() {
        let error =
            output(Command::new("sh").args(["-c", "echo no such boat >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c 'echo no such boat >&2; exit 3'"), "{error}");
        assert!(error.contains("exit status: 3: no such boat"), "{error}");
    }

    #[test]
    fn a_log_keeps_both_streams_in_order_and_the_error_points_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut seen = Vec::new();
        let error = logged(Command::new("sh").args(["-c", "echo one; echo two >&2; exit 1"]), &log, |line| {
            seen.push(line.to_owned());
        })
        .unwrap_err()
        .to_string();
        assert_eq!(seen, ["one", "two"]);
        assert!(error.contains(&log.display().to_string()), "{error}");
        assert!(std::fs::read_to_string(&log).unwrap().ends_with("one\ntwo\n"));
    }

    #[test]
    fn words_are_quoted_only_when_a_shell_would_need_it() {
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "a b", "it's"]);
        assert_eq!(line(&command), r"docker run --rm 'a b' 'it'\''s'");
    }
}
