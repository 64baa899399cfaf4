//! The guest's clock. The VM has none that runs while the host sleeps, so the host tells the time.

use anyhow::{Context, Result};
use rustix::time::{ClockId, Timespec, clock_settime};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Sets the wall clock to `unix_nanos` nanoseconds after the Unix epoch.
pub(crate) fn set(unix_nanos: u64) -> Result<()> {
    let time = timespec(unix_nanos)?;
    clock_settime(ClockId::Realtime, time).context("cannot set the clock")
}

fn timespec(unix_nanos: u64) -> Result<Timespec> {
    Ok(Timespec {
        tv_sec: i64::try_from(unix_nanos / NANOS_PER_SECOND)?,
        tv_nsec: i64::try_from(unix_nanos % NANOS_PER_SECOND)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_are_split_at_the_second() {
        let time = timespec(1_763_719_200_999_999_999).unwrap();
        assert_eq!((time.tv_sec, time.tv_nsec), (1_763_719_200, 999_999_999));
        timespec(u64::MAX).unwrap();
    }
}
