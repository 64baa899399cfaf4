//! Whether, and after how long, a container that ended is started again.

use std::time::Duration;

use wire::docker::host_config::RestartPolicy;

use crate::error::{Error, Result};

/// The first wait; each following one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
const LONGEST: Duration = Duration::from_secs(60);
/// A run this long was a success: waits begin anew.
const LONG_RUN: Duration = Duration::from_secs(10);

/// Checks a policy.
///
/// # Errors
/// Docker's words for a policy that does not exist, or a count that does not fit it.
pub(super) fn validate(policy: &RestartPolicy) -> Result<()> {
    let count = policy.maximum_retry_count;
    match policy.name.as_str() {
        "always" | "unless-stopped" | "no" if count != 0 => {
            let negative = if count < 0 { " and cannot be negative" } else { "" };
            Err(Error::invalid(format!(
                "invalid restart policy: maximum retry count can only be used with \
                 'on-failure'{negative}"
            )))
        }
        "on-failure" if count < 0 => {
            Err(Error::invalid("invalid restart policy: maximum retry count cannot be negative"))
        }
        "always" | "unless-stopped" | "no" | "on-failure" | "" => Ok(()),
        name => Err(Error::invalid(format!(
            "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', \
             'on-failure', or 'unless-stopped'"
        ))),
    }
}

/// Whether no policy restarts it.
pub(super) fn is_none(policy: &RestartPolicy) -> bool {
    matches!(policy.name.as_str(), "" | "no")
}

/// Whether `policy` starts a container again that has ended with `exit_code` and was restarted
/// `restarts` times already.
pub(super) fn wants_restart(
    policy: &RestartPolicy,
    exit_code: i32,
    manually_stopped: bool,
    restarts: u32,
) -> bool {
    match policy.name.as_str() {
        "always" => true,
        "unless-stopped" => !manually_stopped,
        "on-failure" => {
            let limit = policy.maximum_retry_count;
            exit_code != 0 && (limit == 0 || i64::from(restarts) < limit)
        }
        _ => false,
    }
}

/// How long to wait before the next restart.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    delay: Duration,
}

impl Backoff {
    /// The wait after a run that took `run_time`.
    pub(super) fn next(&mut self, run_time: Duration) -> Duration {
        self.delay =
            if self.delay.is_zero() || run_time >= LONG_RUN { FIRST } else { (self.delay * 2).min(LONGEST) };
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, maximum_retry_count: i64) -> RestartPolicy {
        RestartPolicy { name: name.to_owned(), maximum_retry_count }
    }

    #[test]
    fn waits_double_up_to_a_minute_and_begin_anew_after_a_long_run() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next(Duration::ZERO).as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [51_200, 60_000, 60_000]);
        assert_eq!(backoff.next(LONG_RUN), FIRST);
        assert_eq!(backoff.next(Duration::from_secs(9)), FIRST * 2);
    }

    #[test]
    fn policies_are_dockers() {
        assert!(wants_restart(&policy("always", 0), 0, true, 99));
        assert!(wants_restart(&policy("unless-stopped", 0), 0, false, 99));
        assert!(!wants_restart(&policy("unless-stopped", 0), 1, true, 0));
        assert!(wants_restart(&policy("on-failure", 0), 1, false, 99));
        assert!(!wants_restart(&policy("on-failure", 0), 0, false, 0));
        assert!(wants_restart(&policy("on-failure", 3), 1, false, 2));
        assert!(!wants_restart(&policy("on-failure", 3), 1, false, 3));
        assert!(!wants_restart(&policy("no", 0), 1, false, 0));
        assert!(!wants_restart(&policy("", 0), 1, false, 0));
    }

    #[test]
    fn wrong_policies_are_refused_in_dockers_words() {
        let message = |name, count| validate(&policy(name, count)).unwrap_err().to_string();
        assert_eq!(
            message("sometimes", 0),
            "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        );
        assert_eq!(
            message("always", 2),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        );
        assert_eq!(
            message("on-failure", -1),
            "invalid restart policy: maximum retry count cannot be negative"
        );
        validate(&policy("on-failure", 2)).unwrap();
    }
}
