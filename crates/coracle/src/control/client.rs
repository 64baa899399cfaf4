//! Asking a machine process.

use std::{
    io::{self, BufReader, ErrorKind},
    os::unix::net::UnixStream,
    time::Duration,
};

use wire::{
    app::{Request, Response, Status},
    line,
};

use crate::machine::home::MachineDir;

/// For what is answered at once. The machine process asks the guest in between.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Why a machine process gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// There is no machine process.
    #[error("machine '{0}' is not running; start it with `coracle start{flag}`", flag = name_flag(.0))]
    NotRunning(String),
    #[error("cannot talk to the process of machine '{name}'")]
    Io { name: String, source: io::Error },
    /// It ended in the middle.
    #[error("the process of machine '{0}' ended before it answered; see `coracle logs{flag}`", flag = name_flag(.0))]
    Gone(String),
    #[error("the process of machine '{0}' does not answer; see `coracle logs{flag}`", flag = name_flag(.0))]
    Silent(String),
    /// Its own words.
    #[error("{0}")]
    Failed(String),
    #[error(
        "the process of machine '{0}' gave an answer that does not fit: is it of another version of Coracle? Restart the machine"
    )]
    Nonsense(String),
}

/// ` --name x` where a hint needs it.
pub(crate) fn name_flag(name: &str) -> String {
    if name == crate::machine::name::MachineName::DEFAULT { String::new() } else { format!(" --name {name}") }
}

/// One exchange with a machine process.
#[derive(Debug)]
pub(crate) struct Exchange {
    name: String,
    from: BufReader<UnixStream>,
}

impl Exchange {
    /// Connects and asks.
    pub(crate) fn open(dir: &MachineDir, request: &Request) -> Result<Exchange, ControlError> {
        let name = dir.name().to_string();
        let stream = match UnixStream::connect(dir.control_socket()) {
            Ok(stream) => stream,
            // Nothing by that name, or a socket that its killed owner left behind.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory
                ) =>
            {
                return Err(ControlError::NotRunning(name));
            }
            Err(source) => return Err(ControlError::Io { name, source }),
        };
        let exchange = Exchange { name, from: BufReader::new(stream) };
        exchange.stream().set_write_timeout(Some(ANSWER_LIMIT)).map_err(|source| exchange.io(source))?;
        match line::write(exchange.stream(), request) {
            Ok(()) => Ok(exchange),
            // It ended between our connecting and our asking.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ControlError::Gone(exchange.name)),
            Err(source) => Err(exchange.io(source)),
        }
    }

    /// The next answer, for as long as it takes. A [`Response::Failed`] comes as an error.
    pub(crate) fn next(&mut self) -> Result<Response, ControlError> {
        match line::read(&mut self.from) {
            Ok(Some(Response::Failed { message })) => Err(ControlError::Failed(message)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(ControlError::Gone(self.name.clone())),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(ControlError::Silent(self.name.clone())),
                ErrorKind::ConnectionReset => Err(ControlError::Gone(self.name.clone())),
                ErrorKind::InvalidData => Err(ControlError::Nonsense(self.name.clone())),
                _ => Err(self.io(error)),
            },
        }
    }

    /// The same, with a limit, for what is answered at once.
    pub(crate) fn next_at_once(&mut self) -> Result<Response, ControlError> {
        self.stream().set_read_timeout(Some(ANSWER_LIMIT)).map_err(|source| self.io(source))?;
        let answer = self.next();
        self.stream().set_read_timeout(None).map_err(|source| self.io(source))?;
        answer
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        self.from.get_ref()
    }

    /// The stream, buffered: it may hold what followed the last answer.
    pub(crate) fn into_reader(self) -> BufReader<UnixStream> {
        self.from
    }

    pub(crate) fn nonsense(&self) -> ControlError {
        ControlError::Nonsense(self.name.clone())
    }

    fn io(&self, source: io::Error) -> ControlError {
        ControlError::Io { name: self.name.clone(), source }
    }
}

/// What a machine process says about its machine.
pub(crate) fn status(dir: &MachineDir) -> Result<Status, ControlError> {
    let mut exchange = Exchange::open(dir, &Request::Status)?;
    match exchange.next_at_once()? {
        Response::Status(status) => Ok(*status),
        _ => Err(exchange.nonsense()),
    }
}
