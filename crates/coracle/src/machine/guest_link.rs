//! Requests to the guest's PID 1.

use std::{
    io::{self, BufReader, ErrorKind},
    os::unix::net::UnixStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use wire::{
    guest::{Request, Response, State},
    line,
    vsock::CONTROL_PORT,
};

use super::vm::Vm;

/// How long PID 1 may take to answer what it answers at once. Generous: an emulated CPU on a busy
/// host takes its time.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why a request to the guest brought no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    #[error("the guest cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the conversation with the guest broke off")]
    Broken(#[source] io::Error),
    #[error("the guest did not answer in time")]
    Silent,
    #[error("the guest closed the conversation before it answered")]
    Closed,
    /// The guest's own words.
    #[error("the guest refused: {0}")]
    Refused(Box<str>),
    #[error("the guest gave an answer that does not fit the question")]
    Nonsense,
}

/// One conversation with PID 1.
#[derive(Debug)]
pub(crate) struct Conversation {
    from: BufReader<UnixStream>,
}

impl Conversation {
    /// Asks; the answers are read with [`Conversation::next`].
    pub(crate) fn open(vm: &dyn Vm, request: &Request) -> Result<Conversation, GuestError> {
        let stream = vm.connect(CONTROL_PORT, ANSWER_LIMIT).map_err(GuestError::Unreachable)?;
        stream.set_write_timeout(Some(ANSWER_LIMIT)).map_err(GuestError::Broken)?;
        line::write(&stream, request).map_err(GuestError::Broken)?;
        Ok(Conversation { from: BufReader::new(stream) })
    }

    /// The next answer; `None` when there will be none any more.
    pub(crate) fn next(&mut self, limit: Duration) -> Result<Option<Response>, GuestError> {
        self.from.get_ref().set_read_timeout(Some(limit)).map_err(GuestError::Broken)?;
        match line::read(&mut self.from) {
            Ok(answer) => Ok(answer),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(GuestError::Silent)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(GuestError::Broken(error)),
        }
    }

    /// The stream, and what was read of it beyond the last answer.
    pub(crate) fn into_stream(self) -> (UnixStream, Vec<u8>) {
        let rest = self.from.buffer().to_vec();
        (self.from.into_inner(), rest)
    }
}

/// Where the guest stands now.
pub(crate) fn state(vm: &dyn Vm) -> Result<State, GuestError> {
    match Conversation::open(vm, &Request::State)?.next(ANSWER_LIMIT)? {
        Some(Response::State(state)) => Ok(state),
        Some(Response::Failed { message }) => Err(GuestError::Refused(message.into())),
        Some(Response::Done) => Err(GuestError::Nonsense),
        None => Err(GuestError::Closed),
    }
}

/// Sets the guest's clock to the host's.
pub(crate) fn set_clock(vm: &dyn Vm) -> Result<(), GuestError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    match Conversation::open(vm, &Request::SetClock { unix_nanos })?.next(ANSWER_LIMIT)? {
        Some(Response::Done) => Ok(()),
        Some(Response::Failed { message }) => Err(GuestError::Refused(message.into())),
        Some(Response::State(_)) => Err(GuestError::Nonsense),
        None => Err(GuestError::Closed),
    }
}

/// Sets the guest's clock as soon as its PID 1 listens: the first sign of life.
///
/// `over` tells that waiting has no point any more.
pub(crate) fn first_contact(vm: &dyn Vm, limit: Duration, over: impl Fn() -> bool) -> Result<(), GuestError> {
    /// Between two attempts while the kernel boots. A refused attempt costs the guest two packets.
    const PAUSE: Duration = Duration::from_millis(10);
    let deadline = Instant::now() + limit;
    loop {
        match set_clock(vm) {
            // Not there yet: the device, the driver, or the listener, in this order.
            Err(GuestError::Unreachable(_) | GuestError::Closed | GuestError::Broken(_))
                if Instant::now() < deadline && !over() =>
            {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}
