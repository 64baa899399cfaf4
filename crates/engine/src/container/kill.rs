//! `kill`: a signal for a container's first process.

use std::{sync::Arc, time::Duration};

use super::{
    Container, Containers,
    signals::{self, SIGKILL},
    state,
    wait::Condition,
};
use crate::error::{Context, Error, Kind, Result};

/// How long a killed container may take to end before its processes are killed one by one.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// And how long after that, on a machine that may have much else to do.
const FORCED_TIMEOUT: Duration = Duration::from_secs(20);

impl Containers {
    /// Sends `signal` (a name or number; KILL when empty). A KILL waits until the container ended.
    ///
    /// # Errors
    /// No such container or signal, and a container that does not run, in Docker's words.
    pub(crate) async fn kill(&self, name: &str, signal: &str) -> Result<()> {
        let result = self.kill_now(name, signal).await;
        // Docker puts the request before the reason, and keeps the reason's kind.
        result.map_err(|error| {
            Error::new(error.kind(), format!("cannot kill container: {name}")).because(error)
        })
    }

    async fn kill_now(&self, name: &str, signal: &str) -> Result<()> {
        let number = if signal.is_empty() { SIGKILL } else { signals::parse(signal)? };
        signals::check_sendable(number)?;
        let container = self.get(name)?;
        if number == SIGKILL {
            self.kill_and_wait(&container).await
        } else {
            self.send_signal(&container, number).await
        }
    }

    /// Kills a container and waits for its end.
    pub(super) async fn kill_and_wait(&self, container: &Arc<Container>) -> Result<()> {
        let ended = container.wait(Condition::NotRunning);
        tokio::pin!(ended);
        if let Err(error) = self.send_signal(container, SIGKILL).await {
            if !container.state().is_running() {
                return Err(error);
            }
            tracing::warn!(container = container.id, "kill: {error}");
        }
        if tokio::time::timeout(KILL_TIMEOUT, &mut ended).await.is_ok() {
            return Ok(());
        }
        tracing::warn!(container = container.id, "it did not end by SIGKILL, killing all processes");
        match self.0.runtime.kill_all(&container.id, SIGKILL).await {
            // It has ended meanwhile, and that is about to be noted.
            Err(error) if error.kind() == Kind::NotFound => {}
            killed => killed?,
        }
        tokio::time::timeout(FORCED_TIMEOUT, &mut ended)
            .await
            .map(|_| ())
            .context(|| "tried to kill container, but did not receive an exit event".to_owned())
    }

    /// Sends a signal. One that asks the container to end ends its restarts, too.
    pub(super) async fn send_signal(&self, container: &Arc<Container>, signal: i32) -> Result<()> {
        let _changing = container.changing.lock().await;
        let state = container.state();
        if !state.is_running() {
            return Err(state::not_running(&container.id));
        }
        let record = container.record();
        let stop_signal = record.config.stop_signal.as_str();
        let asks_to_end = stop_signal.is_empty()
            || signal == SIGKILL
            || signals::parse(stop_signal).is_ok_and(|stop| stop == signal);
        if asks_to_end {
            container.restarts().cancelled = true;
        }
        if !self.is_shutting_down() {
            container.change(state::State::stop_asked);
        }
        if state.is_restarting() {
            container.restart_cancelled.notify_one();
            return Ok(());
        }
        if let Some(pid) = state.pid() {
            self.0
                .runtime
                .signal(pid, signal)
                .context(|| format!("Cannot kill container {}", container.id))?;
        }
        if asks_to_end && state.is_paused() {
            // A frozen process does not get its signal.
            match self.0.runtime.resume(&container.id).await {
                Ok(()) => {
                    container.change(state::State::resumed);
                    self.emit(container, "unpause", &[]);
                }
                Err(error) => tracing::warn!(container = container.id, "unpause to kill: {error}"),
            }
        }
        self.emit(container, "kill", &[("signal", &signal.to_string())]);
        Ok(())
    }
}
