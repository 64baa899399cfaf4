//! Why a process was not started, in the words of Docker 28 with containerd and runc: the Docker CLI
//! takes its exit status from them, and scripts match on them.

use crate::error::{Error, Kind};

/// What was to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Container,
    Exec,
}

/// The error for what the helper reported.
pub(super) fn start_error(start: Start, reason: &str) -> Error {
    let message = match start {
        Start::Container => format!(
            "failed to create task for container: failed to create shim task: OCI runtime create failed: \
             runc create failed: unable to start container process: {reason}: unknown"
        ),
        Start::Exec => format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {reason}: unknown"
        ),
    };
    let (code, addition) = classify(&message);
    let kind = if code == UNKNOWN { Kind::System } else { Kind::InvalidParameter };
    Error::new(kind, message + addition)
}

const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;
const UNKNOWN: i32 = 128;

/// The exit code that Docker gives a container, or an exec, that could not be started: 126 when its
/// command cannot be invoked, 127 when it does not exist, 128 for all else. `error` comes from
/// [`Runtime::start`](super::Runtime::start) or [`Runtime::exec`](super::Runtime::exec).
pub fn start_exit_code(error: &Error) -> i32 {
    classify(&error.to_string()).0
}

/// The exit code and what Docker adds to the message. Docker's own order; see `setExitCodeFromError`.
fn classify(message: &str) -> (i32, &'static str) {
    let message = message.to_lowercase();
    let has = |text| message.contains(text);
    if has("permission denied") {
        (NOT_EXECUTABLE, "")
    } else if has("is a directory") {
        // The CLI looks for these words.
        (NOT_EXECUTABLE, ": permission denied")
    } else if has("not a directory") {
        (
            NOT_FOUND,
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified \
             host path exists and is the expected type",
        )
    } else if ["executable file not found", "no such file or directory"].into_iter().any(has) {
        (NOT_FOUND, "")
    } else {
        (UNKNOWN, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_exit_codes_are_dockers() {
        let error = start_error(
            Start::Container,
            "error during container init: exec: \"nosuch\": executable file not found in $PATH",
        );
        assert_eq!(
            error.to_string(),
            "failed to create task for container: failed to create shim task: OCI runtime create failed: runc \
             create failed: unable to start container process: error during container init: exec: \"nosuch\": \
             executable file not found in $PATH: unknown"
        );
        assert_eq!((error.kind(), start_exit_code(&error)), (Kind::InvalidParameter, 127));

        let error = start_error(Start::Exec, "exec: \"/etc\": is a directory");
        assert_eq!(
            error.to_string(),
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/etc\": is a \
             directory: unknown: permission denied"
        );
        assert_eq!(start_exit_code(&error), 126);

        let error = start_error(Start::Container, "error mounting: not a directory");
        assert!(error.to_string().contains("vice-versa"));
        assert_eq!(start_exit_code(&error), 127);

        let error = start_error(Start::Container, "cgroup error");
        assert_eq!((error.kind(), start_exit_code(&error)), (Kind::System, 128));
    }
}
