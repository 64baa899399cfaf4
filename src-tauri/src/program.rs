//! The `coracle` command: what the app does to a machine, it does as a user would.

use std::{
    env,
    ffi::OsStr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
};
use wire::app::Response;

use crate::{
    error::{Error, Result},
    home::Home,
};

/// Another `coracle`, for tests.
const VARIABLE: &str = "CORACLE_BIN";
const NAME: &str = "coracle";
/// The longest output of a command that answers at once: a bundle of logs.
const MAX_OUTPUT: u64 = 64 << 20;

/// The command, and the home it works in.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    path: PathBuf,
    home: Home,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
}

impl Program {
    /// Beside the app, else in `PATH`.
    pub(crate) fn find(home: Home) -> Program {
        let chosen = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
        let beside =
            || env::current_exe().ok().map(|own| own.with_file_name(NAME)).filter(|path| path.is_file());
        // Should it be nowhere, running it says so.
        let path = chosen.or_else(beside).unwrap_or_else(|| PathBuf::from(NAME));
        Program { path, home }
    }

    #[cfg(test)]
    pub(crate) fn at(path: &std::path::Path, home: Home) -> Program {
        Program { path: path.to_owned(), home }
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(arguments)
            .env("CORACLE_HOME", self.home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        command.spawn().map_err(|error| {
            Error::host(format!(
                "cannot run {}: {error}; install Coracle again, or set {VARIABLE}",
                self.path.display()
            ))
        })
    }

    /// Runs a command that answers at once.
    pub(crate) async fn output<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output> {
        let mut child = self.spawn(self.command(arguments).kill_on_drop(true))?;
        let failed =
            |error: std::io::Error| Error::host(format!("cannot read from {}: {error}", self.path.display()));
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::host("a command without pipes"));
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (mut stdout, mut stderr) = (stdout.take(MAX_OUTPUT), stderr.take(MAX_OUTPUT));
        tokio::try_join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err)).map_err(failed)?;
        // What is beyond the limit is not waited for.
        drop((stdout, stderr));
        let status = child.wait().await.map_err(failed)?;
        Ok(Output { stdout: out, stderr: complaint(&err), status })
    }

    /// Runs a command that must succeed and print JSON.
    pub(crate) async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let output = self.output(arguments).await?;
        if !output.status.success() {
            return Err(output.failure(arguments));
        }
        output.json(arguments)
    }

    /// Runs a command that prints [`Response`] lines, to its end. It is not ended with the app: what it does to the
    /// machine is whole.
    pub(crate) async fn follow(&self, arguments: &[&str], mut tell: impl FnMut(Response)) -> Result<()> {
        let mut child = self.spawn(&mut self.command(arguments))?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::host("a command without pipes"));
        };
        let told = async {
            let mut lines = BufReader::new(stdout.take(MAX_OUTPUT)).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(Response::Done) => return Some(Ok(())),
                    Ok(Response::Failed { message }) => return Some(Err(Error::machine(message))),
                    Ok(response) => tell(response),
                    Err(error) => tracing::warn!("{} printed {line:?}: {error}", NAME),
                }
            }
            None
        };
        let mut complaints = Vec::new();
        // Read beside it: a full pipe would hold the command up.
        let mut stderr = stderr.take(MAX_OUTPUT);
        let (end, _) = tokio::join!(told, stderr.read_to_end(&mut complaints));
        let status =
            child.wait().await.map_err(|error| Error::host(format!("cannot wait for {NAME}: {error}")))?;
        end.unwrap_or_else(|| {
            let complaint = complaint(&complaints);
            let words = if complaint.is_empty() { "without a word" } else { &complaint };
            Err(Error::machine(format!("`{NAME} {}` ended with {status}: {words}", arguments.join(" "))))
        })
    }

    /// Starts a command whose output is read as it comes, and which ends when it is dropped.
    pub(crate) fn lines(&self, arguments: &[&str]) -> Result<Child> {
        self.spawn(self.command(arguments).stderr(Stdio::null()).kill_on_drop(true))
    }
}

impl Output {
    pub(crate) fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        serde_json::from_slice(&self.stdout).map_err(|error| {
            Error::host(format!(
                "`{NAME} {}` printed no JSON that fits ({error}): is it of another version than the app? {}",
                arguments.join(" "),
                self.stderr
            ))
        })
    }

    pub(crate) fn failure(&self, arguments: &[&str]) -> Error {
        if self.stderr.is_empty() {
            return Error::machine(format!("`{NAME} {}` ended with {}", arguments.join(" "), self.status));
        }
        Error::machine(self.stderr.clone())
    }
}

/// What a command said on standard error, without its name in front.
fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let text = text.trim();
    text.strip_prefix("coracle: ").unwrap_or(text).to_owned()
}

/// For tests: a command that is a shell script.
#[cfg(test)]
pub(crate) mod testing {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    pub(crate) struct Script {
        pub(crate) folder: tempfile::TempDir,
        pub(crate) program: Program,
    }

    /// `$1 …` are the arguments, `$CORACLE_HOME` the folder.
    pub(crate) fn script(body: &str) -> Script {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coracle");
        // Closed before it is run, and by another name until then: a file that is open for writing cannot be run.
        let draft = folder.path().join("draft");
        std::fs::write(&draft, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(&draft, &path).unwrap();
        let program = Program::at(&path, Home::at(folder.path()));
        Script { folder, program }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::script, *};
    use crate::error::Kind;

    #[tokio::test]
    async fn lines_are_told_and_the_last_is_the_result() {
        let good = script(
            r#"echo '{"answer":"progress","message":"one"}'; echo nonsense; echo '{"answer":"notice","message":"two"}'; echo '{"answer":"done"}'"#,
        );
        let mut told = Vec::new();
        good.program.follow(&["start", "--json"], |response| told.push(response)).await.unwrap();
        let expected =
            [Response::Progress { message: "one".into() }, Response::Notice { message: "two".into() }];
        assert_eq!(told, expected);
        let bad = script(r#"echo '{"answer":"failed","message":"no space"}'; exit 1"#);
        let error = bad.program.follow(&["start"], drop).await.unwrap_err();
        assert_eq!((error.kind, &*error.message), (Kind::Machine, "no space"));
    }

    #[tokio::test]
    async fn a_command_without_a_last_word_is_an_error_with_what_it_complained_of() {
        let script = script("echo 'coracle: killed by a whale' >&2; exit 9");
        let error = script.program.follow(&["start"], drop).await.unwrap_err();
        assert!(error.message.contains("killed by a whale") && error.message.contains("start"), "{error}");
        let error = script.program.json::<serde_json::Value>(&["status"]).await.unwrap_err();
        assert_eq!(error.message, "killed by a whale");
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_says_how_to_get_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::at(&folder.path().join("coracle"), Home::at(folder.path()));
        let error = program.json::<serde_json::Value>(&["status"]).await.unwrap_err();
        assert!(error.message.contains("install Coracle"), "{error}");
    }

    #[tokio::test]
    async fn output_that_is_no_json_is_an_error() {
        let script = script("echo hello");
        let error = script.program.json::<Vec<String>>(&["doctor"]).await.unwrap_err();
        assert!(error.message.contains("doctor") && error.message.contains("version"), "{error}");
    }
}
