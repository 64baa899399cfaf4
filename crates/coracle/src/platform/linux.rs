//! Linux: the host's memory, and its clock being set.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// The memory of this host, in bytes.
pub(crate) fn memory_bytes() -> io::Result<u64> {
    let info = rustix::system::sysinfo();
    Ok(info.totalram.saturating_mul(u64::from(info.mem_unit.max(1))))
}

/// Tells when the wall clock was set, which is also what the end of a sleep looks like.
///
/// The kernel cancels a timer of this kind when the clock jumps (`TFD_TIMER_CANCEL_ON_SET`,
/// timerfd_create(2)), and does so on every resume. So nothing needs to be asked periodically.
#[derive(Debug)]
pub(crate) struct ClockWatch {
    timer: OwnedFd,
    /// The longest silence.
    at_least_every: Duration,
}

impl ClockWatch {
    pub(crate) fn new(at_least_every: Duration) -> io::Result<ClockWatch> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC)?;
        Ok(ClockWatch { timer, at_least_every })
    }

    /// Blocks until the clock was set, or the longest silence is over.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let until = now + self.at_least_every;
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at = Timespec { tv_sec: i64::try_from(until.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(&self.timer, flags, &Itimerspec { it_interval: never, it_value: at }) {
            // The clock was set since the last call: that is an answer.
            Ok(_) => {}
            Err(rustix::io::Errno::CANCELED) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        loop {
            match rustix::io::read(&self.timer, &mut [0; 8]) {
                Ok(_) | Err(rustix::io::Errno::CANCELED) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn memory_is_what_the_kernel_says() {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
        let total = meminfo.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        assert_eq!(memory_bytes().unwrap(), total.unwrap() * 1024);
    }

    #[test]
    fn a_clock_watch_ends_at_its_longest_silence() {
        ClockWatch::new(Duration::from_secs(1)).unwrap().wait().unwrap();
    }
}
