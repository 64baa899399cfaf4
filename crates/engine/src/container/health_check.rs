//! Health checks: an exec in the container, again and again.

use std::{sync::Arc, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio_util::sync::CancellationToken;
use wire::docker::container::{ContainerConfig, HealthResult};

use super::{
    Container, Containers,
    exec::What,
    health::{Health, MAX_OUTPUT, Status},
    start::shell,
    state::State,
};
use crate::error::Result;

/// What a check has that does not say.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// A check as it is run.
#[derive(Debug, Clone)]
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Check {
    /// The check of a container; `None` when it has none.
    fn of(config: &ContainerConfig) -> Option<Self> {
        let check = config.healthcheck.as_ref()?;
        let (kind, words) = check.test.as_deref()?.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => shell(config).into_iter().chain(words.iter().cloned()).collect(),
            _ => return None,
        };
        let or = |nanos: i64, default| match u64::try_from(nanos) {
            Ok(0) | Err(_) => default,
            Ok(nanos) => Duration::from_nanos(nanos),
        };
        Some(Self {
            command,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: or(check.start_period, Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: u32::try_from(check.retries).ok().filter(|retries| *retries > 0).unwrap_or(RETRIES),
        })
    }
}

impl Containers {
    /// Begins the checks of a container that runs, if it has any.
    pub(super) fn begin_health_checks(&self, container: &Arc<Container>) {
        let Some(check) = Check::of(&container.record().config) else {
            container.note(|state| state.set_health(None));
            return;
        };
        container.note(|state| state.set_health(Some(Health::default())));
        let token = CancellationToken::new();
        let old = container
            .health_check
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .replace(token.clone());
        if let Some(old) = old {
            old.cancel();
        }
        let (containers, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = containers.check_health(&container, &check) => {}
            }
        });
    }

    async fn check_health(&self, container: &Arc<Container>, check: &Check) {
        loop {
            let starting =
                container.state().health().is_some_and(|health| health.status() == Status::Starting);
            let in_start_period = container.state().run_time() < check.start_period;
            let interval = if starting && in_start_period { check.start_interval } else { check.interval };
            tokio::time::sleep(interval).await;
            // A paused container is neither well nor unwell.
            if container.state().is_paused() {
                continue;
            }
            let in_start_period = container.state().run_time() < check.start_period;
            let start = OffsetDateTime::now_utc();
            let (exit_code, output) = match self.probe(container, check).await {
                Ok(result) => result,
                Err(error) => (-1, error.to_string()),
            };
            let format = |time: OffsetDateTime| time.format(&Rfc3339).unwrap_or_default();
            let result = HealthResult {
                start: format(start),
                end: format(OffsetDateTime::now_utc()),
                exit_code,
                output,
            };
            let changed = container.note(|state: &mut State| {
                let health = state.health_mut()?;
                health.probed(result, check.retries, in_start_period).then(|| health.status())
            });
            if let Some(status) = changed {
                self.emit(container, &format!("health_status: {}", status.word()), &[]);
            }
        }
    }

    /// Runs the check once: its exit code and what it said.
    async fn probe(&self, container: &Arc<Container>, check: &Check) -> Result<(i64, String)> {
        let config = &container.record().config;
        let Some((program, arguments)) = check.command.split_first() else {
            return Ok((-1, String::new()));
        };
        let what = What {
            program: program.clone(),
            arguments: arguments.to_vec(),
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            stdout: true,
            stderr: true,
            ..What::default()
        };
        let mut exec = self.run_exec_quietly(container, what).await?;
        let mut output = Vec::new();
        let listening = async {
            while let Some(piece) = exec.pieces.next().await {
                let room = MAX_OUTPUT - output.len();
                output.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
            }
        };
        let in_time = tokio::time::timeout(check.timeout, listening).await.is_ok();
        let output = String::from_utf8_lossy(&output).into_owned();
        if !in_time {
            exec.kill();
            let timeout = check.timeout;
            let message = if output.is_empty() {
                format!("Health check exceeded timeout ({timeout:?})")
            } else {
                format!("Health check exceeded timeout ({timeout:?}): {output}")
            };
            return Ok((-1, message));
        }
        Ok((exec.exit_code().map_or(-1, i64::from), output))
    }
}

#[cfg(test)]
mod tests {
    use wire::docker::container::Healthcheck;

    use super::*;

    fn config(test: &[&str]) -> ContainerConfig {
        let test = Some(test.iter().map(|word| (*word).to_owned()).collect());
        let healthcheck = Some(Healthcheck { test, timeout: 1_000_000_000, ..Healthcheck::default() });
        ContainerConfig { healthcheck, ..ContainerConfig::default() }
    }

    #[test]
    fn checks_are_commands_or_lines_of_shell() {
        let check = Check::of(&config(&["CMD-SHELL", "test -e /x"])).unwrap();
        assert_eq!(check.command, ["/bin/sh", "-c", "test -e /x"]);
        assert_eq!(
            (check.timeout, check.interval, check.retries),
            (Duration::from_secs(1), INTERVAL, RETRIES)
        );
        assert_eq!(Check::of(&config(&["CMD", "true"])).unwrap().command, ["true"]);
        for test in [&["NONE"][..], &[], &["ODD", "x"]] {
            assert!(Check::of(&config(test)).is_none());
        }
    }
}
