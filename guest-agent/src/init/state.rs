//! Where the guest stands, and who waits for it to change.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wire::guest::{Stage, State};

/// The longest [`Stage::Failed`] message, in bytes: it travels in one answer line and is shown to a person.
const MAX_MESSAGE: usize = 4096;

/// The guest's stage. One thread moves it forward; any number of connections watch it.
pub(crate) struct StateWatch {
    inner: Mutex<Inner>,
    changed: Condvar,
    kernel: String,
}

struct Inner {
    stage: Stage,
    engine_restarts: u32,
    version: u64,
    /// The machine is about to end.
    over: bool,
    /// Connections that are to be told so.
    followers: usize,
}

impl StateWatch {
    pub(crate) fn new() -> StateWatch {
        StateWatch {
            inner: Mutex::new(Inner {
                stage: Stage::PreparingDisk,
                engine_restarts: 0,
                version: 0,
                over: false,
                followers: 0,
            }),
            changed: Condvar::new(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }

    /// Moves to `stage`. A guest that is going down stays on its way: it never becomes ready again.
    pub(crate) fn set(&self, stage: Stage) {
        let mut inner = self.lock();
        if !may_follow(&inner.stage, &stage) {
            tracing::debug!("stays {:?}, not {stage:?}", inner.stage);
            return;
        }
        match &stage {
            Stage::Failed { message } => tracing::error!("failed: {message}"),
            stage => tracing::info!("stage: {stage:?}"),
        }
        inner.stage = stage;
        inner.version += 1;
        self.changed.notify_all();
    }

    /// Moves to [`Stage::Failed`], with the message cut to what a person will read.
    pub(crate) fn fail(&self, mut message: String) {
        if message.len() > MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE));
            message.push('…');
        }
        self.set(Stage::Failed { message });
    }

    /// Counts one more start of the engine after a crash, which followers hear of.
    pub(crate) fn count_restart(&self) {
        let mut inner = self.lock();
        inner.engine_restarts = inner.engine_restarts.saturating_add(1);
        inner.version += 1;
        self.changed.notify_all();
    }

    /// The state now, and its version.
    fn now(&self) -> (u64, State) {
        self.describe(&self.lock())
    }

    /// Calls `tell` with the state, now and at every change, until it says that it has heard enough or
    /// the machine is about to end; says which: true for the end. [`StateWatch::finish`] waits for it.
    ///
    /// # Errors
    /// Those of `tell`.
    pub(crate) fn follow<E>(&self, mut tell: impl FnMut(State) -> Result<Enough, E>) -> Result<bool, E> {
        let (mut version, mut state) = self.now();
        loop {
            if tell(state)? == Enough::Yes {
                return Ok(false);
            }
            let inner = self
                .changed
                .wait_while(self.lock(), |inner| inner.version <= version && !inner.over)
                .unwrap_or_else(PoisonError::into_inner);
            if inner.version <= version {
                return Ok(true);
            }
            (version, state) = self.describe(&inner);
        }
    }

    /// Counts a connection that [`StateWatch::finish`] waits for, until the guard is dropped.
    pub(crate) fn attend(&self) -> Attendance<'_> {
        self.lock().followers += 1;
        Attendance(self)
    }

    /// Says that the machine is about to end, and gives those who attend `patience` to pass it on.
    pub(crate) fn finish(&self, patience: Duration) {
        self.lock().over = true;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |inner| inner.followers > 0);
        drop(waited);
    }

    /// The state now.
    pub(crate) fn state(&self) -> State {
        self.now().1
    }

    fn describe(&self, inner: &Inner) -> (u64, State) {
        let state = State {
            stage: inner.stage.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: self.kernel.clone(),
            uptime_ms: uptime_ms(),
            engine_restarts: inner.engine_restarts,
            figures: None,
        };
        (inner.version, state)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update is one assignment, so a panic cannot have left half of one behind.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a follower has heard enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enough {
    Yes,
    No,
}

/// A connection that is to be told of the machine's end.
pub(crate) struct Attendance<'a>(&'a StateWatch);

impl Drop for Attendance<'_> {
    fn drop(&mut self) {
        self.0.lock().followers -= 1;
        self.0.changed.notify_all();
    }
}

/// Milliseconds since the kernel started.
pub(crate) fn uptime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let millis = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
    u64::try_from(millis).unwrap_or(0)
}

fn may_follow(current: &Stage, next: &Stage) -> bool {
    match current {
        Stage::StoppingContainers => matches!(next, Stage::Unmounting),
        Stage::Unmounting => false,
        _ => current != next,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn a_guest_on_its_way_down_never_becomes_ready_again() {
        let watch = StateWatch::new();
        watch.set(Stage::StoppingContainers);
        watch.set(Stage::Ready);
        watch.fail("late".to_owned());
        assert_eq!(watch.state().stage, Stage::StoppingContainers);
        watch.set(Stage::Unmounting);
        watch.set(Stage::StoppingContainers);
        assert_eq!(watch.state().stage, Stage::Unmounting);
    }

    #[test]
    fn an_engine_that_failed_can_become_ready() {
        let watch = StateWatch::new();
        watch.fail("gone".to_owned());
        watch.set(Stage::StartingEngine);
        watch.set(Stage::Ready);
        assert_eq!(watch.state().stage, Stage::Ready);
    }

    #[test]
    fn a_follower_hears_every_stage_once_and_then_the_end() {
        let watch = Arc::new(StateWatch::new());
        watch.set(Stage::PreparingDisk);
        assert_eq!(watch.now().0, 0, "the same stage again is no change");
        let (heard, hears) = channel();
        let attendance = watch.attend();
        let follower = {
            let watch = Arc::clone(&watch);
            thread::spawn(move || watch.follow(|state| heard.send(state.stage).map(|()| Enough::No)).unwrap())
        };
        assert_eq!(hears.recv().unwrap(), Stage::PreparingDisk);
        watch.set(Stage::StoppingContainers);
        assert_eq!(hears.recv().unwrap(), Stage::StoppingContainers);
        watch.finish(Duration::ZERO);
        assert!(follower.join().unwrap(), "the end was heard");
        assert!(hears.recv().is_err(), "and nothing else");
        drop(attendance);
        watch.finish(Duration::MAX);
    }

    #[test]
    fn a_change_right_before_the_end_is_not_lost() {
        let watch = StateWatch::new();
        let mut stages = Vec::new();
        let ended = watch.follow(|state| {
            stages.push(state.stage);
            if stages.len() == 1 {
                watch.set(Stage::Unmounting);
                watch.finish(Duration::ZERO);
            }
            Ok::<_, ()>(Enough::No)
        });
        assert_eq!(ended, Ok(true));
        assert_eq!(stages, [Stage::PreparingDisk, Stage::Unmounting]);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let watch = StateWatch::new();
        watch.fail("é".repeat(MAX_MESSAGE));
        let Stage::Failed { message } = watch.state().stage else { panic!("not failed") };
        assert!(message.len() <= MAX_MESSAGE + '…'.len_utf8());
        assert!(message.ends_with('…'));
    }
}
