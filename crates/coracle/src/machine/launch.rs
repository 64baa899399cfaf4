//! Starting a machine process and following it until it is ready: the side of `coracle start`.

use std::{
    ffi::OsString,
    io::{BufReader, ErrorKind},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use wire::{app::Response, line};

use super::{
    home::{HOME_VARIABLE, Home, MachineDir},
    image,
    process::Orders,
};

/// The hidden command that makes this program the machine process.
pub(crate) const COMMAND: &str = "machine-process";

/// A machine process that was started and has not answered for good yet.
#[derive(Debug)]
pub(crate) struct Launch {
    process: Child,
    from: BufReader<UnixStream>,
    name: String,
}

impl Launch {
    /// Starts the process that will own the machine.
    pub(crate) fn spawn(home: &Home, orders: &Orders) -> Result<Launch> {
        // Refused here as well, where the message reaches the user before anything is made.
        home.machine(&orders.name).check_socket_paths()?;
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket to the machine process")?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let process = Command::new(&program)
            .args(arguments(orders)?)
            // Absolute, for the process does not stay in this directory.
            .env(HOME_VARIABLE, home.path())
            .env(image::IMAGE_VARIABLE, image::directory()?)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Launch { process, from: BufReader::new(ours), name: orders.name.to_string() })
    }

    /// A handle that takes the start back, or ends a machine in the foreground.
    pub(crate) fn canceller(&self) -> Result<Canceller> {
        let stream =
            self.from.get_ref().try_clone().context("cannot copy the socket to the machine process")?;
        Ok(Canceller(stream))
    }

    /// The next answer, for as long as it takes.
    ///
    /// # Errors
    /// What the process says went wrong, or that it ended without a word.
    pub(crate) fn next(&mut self, dir: &MachineDir) -> Result<Response> {
        match line::read(&mut self.from) {
            Ok(Some(Response::Failed { message })) => bail!(message),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.ended(dir)),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(self.ended(dir)),
            Err(error) => Err(error).context("cannot follow the machine process"),
        }
    }

    /// Waits for the end of a process whose last answer was read.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait().context("cannot wait for the machine process")
    }

    fn ended(&mut self, dir: &MachineDir) -> anyhow::Error {
        match self.wait() {
            Ok(status) => anyhow::anyhow!(
                "the process of machine '{}' ended without a word ({status}); see {}",
                self.name,
                dir.machine_log().display()
            ),
            Err(error) => error,
        }
    }
}

/// See [`Launch::canceller`].
#[derive(Debug)]
pub(crate) struct Canceller(UnixStream);

impl Canceller {
    /// The process reads this as its starter having gone, and stops; its answers still come.
    pub(crate) fn cancel(&self) {
        // A process that is gone needs not be told.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

/// The command line of the machine process; [`crate::cli`] reads it back.
fn arguments(orders: &Orders) -> Result<Vec<OsString>> {
    let mut arguments: Vec<String> = vec![COMMAND.into(), "--name".into(), orders.name.to_string()];
    // They came from options of these names.
    for (key, choice) in orders.overrides.choices()? {
        if let Some(shares) = choice.as_array() {
            // The one choice that is a list.
            let all: Vec<&str> = shares.iter().filter_map(|share| share.as_str()).collect();
            let all = if all.is_empty() { vec!["none"] } else { all };
            arguments.extend(all.into_iter().map(|share| format!("--share={share}")));
            continue;
        }
        let choice = choice.as_str().map_or_else(|| choice.to_string(), str::to_owned);
        arguments.extend([format!("--{key}"), choice.trim().to_owned()]);
    }
    if orders.foreground {
        arguments.push("--foreground".into());
    }
    Ok(arguments.into_iter().map(OsString::from).collect())
}
