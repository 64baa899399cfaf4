//! Waiting, in one place: every wait of the harness ends at the deadline of the case that waits.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Time between two looks at a condition that cannot wake us.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

thread_local! {
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Makes every wait on this thread end at `deadline`.
pub fn set_deadline(deadline: Option<Instant>) {
    DEADLINE.set(deadline);
}

/// The end of a wait that begins now: after `timeout`, or at this thread's deadline if that is sooner.
#[must_use]
pub fn until(timeout: Duration) -> Instant {
    let own = Instant::now() + timeout;
    DEADLINE.get().map_or(own, |deadline| own.min(deadline))
}

/// What is left of this thread's deadline, at most `timeout` and at least a millisecond (a zero would mean "for ever"
/// to a socket).
#[must_use]
pub fn remaining(timeout: Duration) -> Duration {
    until(timeout).saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

/// Looks until `condition` gives something, and says what was awaited when the time is over. An error of the
/// condition ends the wait at once.
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = until(timeout);
    loop {
        if let Some(found) = condition()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {timeout:?} in vain until {what}");
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// [`eventually`] for a plain yes or no.
pub fn eventually_true(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    eventually(what, timeout, || Ok(condition()?.then_some(())))
}

/// Lets time pass, for measurements of what happens when nothing does. No case may need it.
pub fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_at_the_deadline_of_its_thread() {
        set_deadline(Some(Instant::now()));
        let error = eventually_true("never", Duration::from_secs(3600), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("never"));
        set_deadline(None);
        assert!(remaining(Duration::from_secs(5)) > Duration::from_secs(4));
    }
}
