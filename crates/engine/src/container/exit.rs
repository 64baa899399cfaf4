//! What follows when a container's first process ends: its output is read to the end, what it used is
//! given back, and its restart policy says what comes next.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::MutexGuard;

use super::{Container, Containers, restart_policy, state::State, streams::Hub};
use crate::runtime::{Exit, ExitWatch};

/// How long output may come after the end: a process outside of the container may hold a pipe open, and
/// a client may read slowly. Clients get what was read all the same.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// The exit code of a run whose end nobody saw, as in Docker.
pub(super) const UNKNOWN_EXIT: i32 = 255;

impl Containers {
    /// Waits for the end of a container's run, and does what follows.
    pub(super) fn watch_exit(&self, container: &Arc<Container>, exit: ExitWatch) {
        let (containers, container) = (self.clone(), container.clone());
        let hub = container.hub();
        tokio::spawn(async move {
            let exit = exit.wait().await;
            containers.ended(&container, &hub, exit).await;
        });
    }

    async fn ended(&self, container: &Arc<Container>, hub: &Hub, exit: Exit) {
        hub.end();
        if tokio::time::timeout(LAST_OUTPUT, hub.closed()).await.is_err() {
            tracing::debug!(container = container.id, "its output is not at an end");
        }
        let changing = container.changing.lock().await;
        if self.0.runtime.oom_killed(&container.id).await {
            container.note(State::ran_out_of_memory);
            self.emit(container, "oom", &[]);
        }
        let run_time = container.state().run_time();
        let code = if exit.known { exit.code } else { UNKNOWN_EXIT };
        let restart = self.next_restart(container, code, run_time);
        let at = OffsetDateTime::from(exit.at);
        let end = |state: &mut State| match restart {
            Some(_) => state.restarting(code, at),
            None => state.exited(code, at),
        };
        // Kept before the runtime forgets it, and told after everything is given back.
        let mut ended = container.state();
        end(&mut ended);
        container.keep(&ended);
        self.clean_up(container).await;
        container.renew_hub();
        container.note(end);
        let attributes = [("exitCode", code.to_string()), ("execDuration", run_time.as_secs().to_string())];
        let attributes = attributes.each_ref().map(|(name, value)| (*name, value.as_str()));
        self.emit(container, "die", &attributes);
        match restart {
            Some(delay) => self.restart_after(container, delay),
            None => self.remove_if_asked(container),
        }
        drop(changing);
    }

    /// After how long the container is started again; `None` when it is not.
    fn next_restart(&self, container: &Container, code: i32, run_time: Duration) -> Option<Duration> {
        let record = container.record();
        let state = container.state();
        let mut restarts = container.restarts();
        if restarts.cancelled || self.is_shutting_down() || state.is_leaving() {
            return None;
        }
        restart_policy::wants_restart(
            &record.host_config.restart_policy,
            code,
            state.was_manually_stopped(),
            state.restart_count(),
        )
        .then(|| restarts.backoff.next(run_time))
    }

    /// Starts the container again after `delay`, unless someone stops it before.
    fn restart_after(&self, container: &Arc<Container>, delay: Duration) {
        let (containers, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let waited = tokio::time::sleep(delay);
            tokio::pin!(waited);
            loop {
                tokio::select! {
                    () = &mut waited => break,
                    () = container.restart_cancelled.notified() => {
                        if container.restarts().cancelled {
                            break;
                        }
                    }
                }
            }
            let changing = container.changing.lock().await;
            if !container.state().is_restarting() {
                return;
            }
            if container.restarts().cancelled || containers.is_shutting_down() {
                container.change(State::restart_cancelled);
                containers.remove_if_asked(&container);
                return;
            }
            if let Err(error) = containers.start_locked(&container, &changing, false).await {
                tracing::warn!(container = container.id, "restart: {error}");
            }
        });
    }

    /// Removes an ended container that was made to be removed.
    pub(super) fn remove_if_asked(&self, container: &Arc<Container>) {
        if !container.record().host_config.auto_remove || container.restarts().keep_once {
            return;
        }
        let (containers, container) = (self.clone(), container.clone());
        tokio::spawn(async move { containers.remove_automatically(&container).await });
    }

    /// Gives back what a run used. The caller holds `changing`.
    pub(super) async fn clean_up(&self, container: &Arc<Container>) {
        if let Some(check) =
            container.health_check.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
        {
            check.cancel();
        }
        if let Err(error) = self.0.runtime.delete(&container.id).await {
            tracing::error!(container = container.id, "clean up: {error}");
        }
        if let Some(log) = &container.log {
            log.end();
        }
        self.remove_shm(container);
        self.forget_execs(container);
        let (containers, target) = (self.clone(), container.clone());
        let unmounted = crate::blocking(move || {
            containers.0.networks.stop(&target.id);
            containers.unmount_volumes(&target, &target.id);
            containers.0.snapshots.unmount(&target.id)
        });
        if let Err(error) = unmounted.await {
            tracing::warn!(container = container.id, "unmount its file system: {error}");
        }
    }
}

/// A lock on a container's `changing`.
pub(super) type Changing<'a> = MutexGuard<'a, ()>;
