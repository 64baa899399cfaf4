//! The engine's end: every container is stopped. Who stopped it is not noted: those with a restart
//! policy start with the next engine.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Containers, StopOptions, stop::DEFAULT_TIMEOUT};

impl Containers {
    /// Stops all containers at once, each by its own signal; kills what is left after `timeout`, or
    /// after its own if that is shorter.
    pub async fn shutdown(&self, timeout: Duration) {
        self.0.shutting_down.store(true, Ordering::Relaxed);
        let limit = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let mut stopping = tokio::task::JoinSet::new();
        for container in self.all() {
            if !container.state().is_running() {
                continue;
            }
            let containers = self.clone();
            stopping.spawn(async move {
                let own = container.record().config.stop_timeout.unwrap_or(DEFAULT_TIMEOUT);
                let options = StopOptions {
                    // Negative is "never", which is too long here.
                    timeout: Some(if own < 0 { limit } else { own.min(limit) }),
                    ..StopOptions::default()
                };
                if let Err(error) = containers.stop_now(&container, &options).await {
                    tracing::error!(container = container.id, "stop: {error}");
                }
            });
        }
        while stopping.join_next().await.is_some() {}
    }
}
