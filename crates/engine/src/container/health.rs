//! A container's health, as its probes found it.

use std::collections::VecDeque;

use wire::docker::container as api;

/// How many results are kept.
const KEPT: usize = 5;
/// How much of a probe's output is kept, in bytes.
pub(super) const MAX_OUTPUT: usize = 4096;

/// What probes found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Health {
    status: Status,
    failing_streak: u32,
    log: VecDeque<api::HealthResult>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Not enough probes have run.
    Starting,
    Healthy,
    Unhealthy,
}

impl Status {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self { status: Status::Starting, failing_streak: 0, log: VecDeque::new() }
    }
}

impl Health {
    pub(crate) fn status(&self) -> Status {
        self.status
    }

    /// As a list shows it.
    pub(crate) fn phrase(&self) -> &'static str {
        match self.status {
            Status::Starting => "health: starting",
            other => other.word(),
        }
    }

    /// Takes a probe's result in; true when the status changed.
    pub(crate) fn probed(&mut self, result: api::HealthResult, retries: u32, in_start_period: bool) -> bool {
        let before = self.status;
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = Status::Healthy;
        } else if !(in_start_period && self.status == Status::Starting) {
            self.failing_streak += 1;
            if self.failing_streak >= retries {
                self.status = Status::Unhealthy;
            }
        }
        if self.log.len() == KEPT {
            self.log.pop_front();
        }
        self.log.push_back(result);
        before != self.status
    }

    /// The container ended: no probe says that it is well.
    pub(crate) fn stop(&mut self) {
        self.status = Status::Unhealthy;
    }

    pub(crate) fn to_api(&self) -> api::Health {
        api::Health {
            status: self.status.word().to_owned(),
            failing_streak: self.failing_streak.into(),
            log: self.log.iter().cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i64) -> api::HealthResult {
        api::HealthResult { exit_code, ..api::HealthResult::default() }
    }

    #[test]
    fn it_takes_retries_to_be_unhealthy_and_one_success_to_be_well() {
        let mut health = Health::default();
        assert_eq!(health.phrase(), "health: starting");
        assert!(!health.probed(result(1), 2, true), "failures in the start period do not count");
        assert!(!health.probed(result(1), 2, false));
        assert!(health.probed(result(1), 2, false));
        assert_eq!(health.phrase(), "unhealthy");
        assert!(health.probed(result(0), 2, false));
        assert_eq!(health.to_api().failing_streak, 0);
        for _ in 0..10 {
            health.probed(result(0), 2, false);
        }
        assert_eq!(health.to_api().log.len(), KEPT);
    }
}
