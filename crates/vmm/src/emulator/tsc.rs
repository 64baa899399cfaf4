//! The frequency of the host's time stamp counter.
//!
//! QEMU's translator gives the guest the host's own counter (moved by an offset), so that the guest's clock is as good
//! as the host's if the guest knows how fast it runs. The host's kernel does not tell: it is measured.

use std::time::{Duration, Instant};

/// How long to measure: reading the clock takes some 50 ns, which makes this good to a few parts in a million.
const SPAN: Duration = Duration::from_millis(10);

/// Attempts at reading clock and counter at the same time; the quickest counts.
const ATTEMPTS: usize = 16;

/// Frequencies that a counter can have. Anything else is a measurement gone wrong.
const PLAUSIBLE_KHZ: std::ops::Range<u64> = 100_000..20_000_000;

/// A measurement that is under way.
pub(crate) struct Measurement {
    start: Sample,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    ticks: u64,
}

impl Measurement {
    /// `None` if the host's counter is no clock: it changes its pace, or stops, with the CPU's.
    pub(crate) fn begin() -> Option<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        is_clock(&cpuinfo).then(sample).flatten().map(|start| Measurement { start })
    }

    /// Ticks in a millisecond. Waits until the measurement has lasted long enough.
    pub(crate) fn finish(self) -> Option<u64> {
        std::thread::sleep(SPAN.saturating_sub(self.start.at.elapsed()));
        khz(self.start, sample()?)
    }
}

fn is_clock(cpuinfo: &str) -> bool {
    let Some(flags) = cpuinfo.lines().find(|line| line.starts_with("flags")) else {
        return false;
    };
    ["constant_tsc", "nonstop_tsc"].iter().all(|wanted| flags.split_whitespace().any(|flag| flag == *wanted))
}

fn khz(start: Sample, end: Sample) -> Option<u64> {
    let nanoseconds = end.at.checked_duration_since(start.at)?.as_nanos();
    let ticks = u128::from(end.ticks.checked_sub(start.ticks)?);
    let khz = u64::try_from((ticks * 1_000_000).checked_div(nanoseconds)?).ok()?;
    PLAUSIBLE_KHZ.contains(&khz).then_some(khz)
}

/// Clock and counter at one moment.
#[cfg(target_arch = "x86_64")]
fn sample() -> Option<Sample> {
    let attempts = (0..ATTEMPTS).map(|_| {
        let before = Instant::now();
        // SAFETY: reading the counter has no effects, and every x86-64 CPU has one.
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        let took = before.elapsed();
        (took, Sample { at: before + took / 2, ticks })
    });
    attempts.min_by_key(|(took, _)| *took).map(|(_, sample)| sample)
}

#[cfg(not(target_arch = "x86_64"))]
fn sample() -> Option<Sample> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_is_ticks_by_time() {
        let at = Instant::now();
        let start = Sample { at, ticks: 1_000 };
        let end = |ticks| Sample { at: at + Duration::from_millis(10), ticks };
        assert_eq!(khz(start, end(1_000 + 26_000_000)), Some(2_600_000));
        assert_eq!(khz(start, end(500)), None, "the counter ran backwards");
        assert_eq!(khz(start, end(2_000)), None, "a hundred ticks in a millisecond");
        assert_eq!(khz(start, start), None, "no time has passed");
    }

    #[test]
    fn only_a_steady_counter_is_a_clock() {
        assert!(is_clock("processor: 0\nflags\t: fpu tsc constant_tsc nonstop_tsc\n"));
        assert!(!is_clock("flags\t: fpu tsc constant_tsc\n"));
        assert!(!is_clock("Features\t: fp asimd\n"));
    }

    #[test]
    fn two_measurements_agree() {
        let Some(first) = Measurement::begin() else {
            // Nothing to measure on this host.
            return;
        };
        let second = Measurement::begin().unwrap();
        let (Some(first), Some(second)) = (first.finish(), second.finish()) else {
            panic!("a counter that is a clock has no frequency");
        };
        // Parts in a thousand: a loaded host may interrupt every attempt.
        assert!(first.abs_diff(second) < first / 1000, "{first} {second}");
    }
}
