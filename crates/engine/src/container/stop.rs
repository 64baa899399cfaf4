//! `stop` and `restart`.

use std::{sync::Arc, time::Duration};

use super::{
    Container, Containers,
    signals::{self, SIGTERM},
    wait::Condition,
};
use crate::error::{Error, Kind, Result};

/// How many seconds a container may take to stop when neither the request nor its configuration says.
pub(super) const DEFAULT_TIMEOUT: i64 = 10;
/// How long one has that could not even be sent the signal.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(2);

/// How to stop.
#[derive(Debug, Clone, Default)]
pub(crate) struct StopOptions {
    /// A name or number; the container's own when empty.
    pub(crate) signal: String,
    /// Seconds before it is killed; negative for never.
    pub(crate) timeout: Option<i64>,
}

impl Containers {
    /// Stops a container, and waits until it ended.
    ///
    /// # Errors
    /// "Not modified" for one that does not run.
    pub(crate) async fn stop(&self, name: &str, options: &StopOptions) -> Result<()> {
        let container = self.get(name)?;
        if !container.state().is_running() {
            return Err(Error::new(Kind::NotModified, "container is already stopped"));
        }
        self.stop_now(&container, options)
            .await
            .map_err(|error| Error::system(format!("cannot stop container: {name}")).because(error))
    }

    /// Stops a container and starts it again.
    ///
    /// # Errors
    /// What [`Containers::stop`] and [`Containers::start`] say.
    pub(crate) async fn restart(&self, name: &str, options: &StopOptions) -> Result<()> {
        let container = self.get(name)?;
        let again = async {
            // One that is to be removed when it ends is kept for its next start.
            container.restarts().keep_once = true;
            let stopped = self.stop_now(&container, options).await;
            let result = match stopped {
                Ok(()) => self.start_now(&container, true).await,
                Err(error) => Err(error),
            };
            container.restarts().keep_once = false;
            result
        };
        again
            .await
            .map_err(|error| Error::system(format!("Cannot restart container {name}")).because(error))?;
        self.emit(&container, "restart", &[]);
        Ok(())
    }

    /// Stops a container that may not run.
    pub(super) async fn stop_now(&self, container: &Arc<Container>, options: &StopOptions) -> Result<()> {
        if !container.state().is_running() {
            return Ok(());
        }
        let record = container.record();
        let signal = match (options.signal.as_str(), record.config.stop_signal.as_str()) {
            ("", "") => SIGTERM,
            ("", own) => signals::parse(own).unwrap_or(SIGTERM),
            (asked, _) => signals::parse(asked)?,
        };
        let timeout = options.timeout.or(record.config.stop_timeout).unwrap_or(DEFAULT_TIMEOUT);
        let mut patience = u64::try_from(timeout).ok().map(Duration::from_secs);
        let ended = container.wait(Condition::NotRunning);
        tokio::pin!(ended);
        if let Err(error) = self.send_signal(container, signal).await {
            if !container.state().is_running() {
                return Ok(());
            }
            tracing::warn!(container = container.id, "send the stop signal: {error}");
            patience = Some(UNREACHABLE_TIMEOUT);
        }
        match patience {
            None => {
                ended.await;
            }
            Some(patience) => {
                if tokio::time::timeout(patience, &mut ended).await.is_err() {
                    let killed = self.kill_and_wait(container).await;
                    if container.state().is_running() {
                        killed?;
                    }
                }
            }
        }
        self.emit(container, "stop", &[]);
        Ok(())
    }
}
