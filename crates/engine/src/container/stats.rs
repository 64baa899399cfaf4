//! `stats`: what a container uses, once or every second. Nothing is measured that nobody waits for.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::Instant;
use wire::docker::{
    NEVER,
    stats::{Cpu, Stats},
};

use super::{Container, Containers};
use crate::{error::Result, system::now_rfc3339};

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// The sample before, as the next one tells it.
struct Before {
    read: String,
    cpu: Cpu,
}

impl Default for Before {
    fn default() -> Self {
        Self { read: NEVER.to_owned(), cpu: Cpu::default() }
    }
}

impl Containers {
    /// One sample. Unless `at_once`, it is taken an interval after another, so that a client can tell what
    /// happened in between.
    ///
    /// # Errors
    /// No such container.
    pub(crate) async fn stats(&self, name: &str, at_once: bool) -> Result<Stats> {
        let container = self.get(name)?;
        if container.state().pid().is_none() {
            return Ok(nothing(&container));
        }
        if at_once {
            // As in Docker, it does not say whose it is.
            let sample = self.sample(&container, &mut Before::default()).await;
            return Ok(Stats { name: String::new(), id: String::new(), ..sample });
        }
        let mut before = Before::default();
        let next = Instant::now() + INTERVAL;
        self.sample(&container, &mut before).await;
        tokio::time::sleep_until(next).await;
        Ok(self.sample(&container, &mut before).await)
    }

    /// Samples until the container is removed, as lines of JSON; empty ones while it does not run.
    ///
    /// # Errors
    /// No such container.
    pub(crate) fn stats_stream(
        &self,
        name: &str,
    ) -> Result<impl Stream<Item = serde_json::Result<Bytes>> + use<>> {
        let container = self.get(name)?;
        let start = (self.clone(), container, Before::default(), Instant::now());
        let samples = stream::unfold(start, |(containers, container, mut before, next)| async move {
            let mut states = container.state.subscribe();
            tokio::select! {
                biased;
                _ = states.wait_for(super::State::is_removed) => return None,
                () = tokio::time::sleep_until(next) => {}
            }
            let sample = containers.sample(&container, &mut before).await;
            // One who reads slowly gets the next sample later, not several at once.
            let next = next.max(Instant::now() - INTERVAL) + INTERVAL;
            Some((sample, (containers, container, before, next)))
        });
        Ok(samples.map(|sample| {
            let mut line = serde_json::to_vec(&sample)?;
            line.push(b'\n');
            Ok(Bytes::from(line))
        }))
    }

    async fn sample(&self, container: &Arc<Container>, before: &mut Before) -> Stats {
        let Some(pid) = container.state().pid() else {
            *before = Before::default();
            return nothing(container);
        };
        let stats = match self.0.runtime.usage(&container.id, pid).await {
            Ok(stats) => stats,
            Err(error) => {
                // Most likely it has just ended.
                tracing::debug!(container = container.id, "stats: {error}");
                *before = Before::default();
                return nothing(container);
            }
        };
        let read = now_rfc3339();
        let now = Before { read: read.clone(), cpu: stats.cpu_stats.clone() };
        let last = std::mem::replace(before, now);
        named(Stats { read, preread: last.read, precpu_stats: last.cpu, ..stats }, container)
    }
}

/// What there is to tell of a container that does not run.
fn nothing(container: &Container) -> Stats {
    named(Stats::default(), container)
}

/// Says whose a sample is.
fn named(stats: Stats, container: &Container) -> Stats {
    Stats { name: format!("/{}", container.record().name), id: container.id.clone(), ..stats }
}
