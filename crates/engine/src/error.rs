//! The engine's one error: what kind it is, for clients; what failed, for people; and why.

use std::{error::Error as StdError, fmt};

/// What an error means to a client; [`crate::api`] maps it to an HTTP status. A kind exists only where
/// a client reacts to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request is wrong in itself.
    InvalidParameter,
    /// The thing named does not exist.
    NotFound,
    /// The request does not fit the state of the thing named.
    Conflict,
    /// The thing named is already in the state asked for.
    NotModified,
    /// A registry wants (other) credentials.
    Unauthorized,
    /// The thing named may not be done at all.
    Forbidden,
    /// A service that is needed does not answer, or not well.
    Unavailable,
    /// Docker has it; this engine has not yet.
    NotImplemented,
    /// Everything else: the fault is the engine's or its machine's.
    System,
}

/// What failed. Displays as the message and its sources, joined by `: `.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What engine functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `message` is shown to the user as it is.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidParameter, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(Kind::NotImplemented, message)
    }

    pub fn system(message: impl Into<String>) -> Self {
        Self::new(Kind::System, message)
    }

    /// The same error with the reason it happened.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut source = StdError::source(self);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            // An engine error displays its own sources already.
            source = if error.is::<Error>() { None } else { error.source() };
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Turns the error into a [`Kind::System`] error with this message and the error as its reason.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::system(message()).because(error))
    }
}

/// Several faults of a request as Docker lists them: one by itself, more as a list.
///
/// # Errors
/// There are any.
pub(crate) fn refuse(what: &str, faults: &[String]) -> Result<()> {
    match faults {
        [] => Ok(()),
        [fault] => Err(Error::invalid(format!("{what}{fault}"))),
        faults => {
            let list: Vec<String> = faults.iter().map(|fault| format!("* {fault}")).collect();
            Err(Error::invalid(format!("{what}{}", list.join("\n"))))
        }
    }
}

/// The kernel's number of an error, which one that is not the kernel's lacks.
pub(crate) fn errno_of(error: &std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO)
}

/// The words of `strerror(3)` as Go has them, for the errors that Docker's texts are matched for.
pub(crate) fn errno_text(errno: rustix::io::Errno) -> String {
    use rustix::io::Errno;
    match errno {
        Errno::NOENT => "no such file or directory",
        Errno::ACCESS => "permission denied",
        Errno::PERM => "operation not permitted",
        Errno::ISDIR => "is a directory",
        Errno::NOTDIR => "not a directory",
        Errno::NOEXEC => "exec format error",
        Errno::TOOBIG => "argument list too long",
        Errno::LOOP => "too many levels of symbolic links",
        Errno::NAMETOOLONG => "file name too long",
        Errno::TXTBSY => "text file busy",
        Errno::INVAL => "invalid argument",
        Errno::ROFS => "read-only file system",
        Errno::NOMEM => "cannot allocate memory",
        Errno::BUSY => "device or resource busy",
        Errno::NODEV => "no such device",
        Errno::NOSPC => "no space left on device",
        other => {
            // The same text but for the number that Rust adds.
            let text = std::io::Error::from(other).to_string();
            return text.split(" (os error").next().unwrap_or_default().to_lowercase();
        }
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_displays_its_reasons_once() {
        let inner = Error::system("read a.json").because(std::io::Error::other("disk is gone"));
        let outer = Error::conflict("start web").because(inner);
        assert_eq!(outer.to_string(), "start web: read a.json: disk is gone");
        assert_eq!(outer.kind(), Kind::Conflict);
    }

    #[test]
    fn unlisted_errors_have_words_without_numbers() {
        assert_eq!(errno_text(rustix::io::Errno::PIPE), "broken pipe");
    }
}
