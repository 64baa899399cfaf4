//! What is going on in a machine, for the threads that watch it: one writer, many watchers that block
//! until something changed.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use wire::{app::State, guest};

/// The board of one machine process.
#[derive(Debug)]
pub(crate) struct Board {
    view: Mutex<View>,
    changed: Condvar,
}

/// What is on the board.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Counts changes, so that a watcher can wait for the next one.
    pub(crate) version: u64,
    pub(crate) state: State,
    /// What is being done now, a short phrase for the user; empty when nothing is.
    pub(crate) step: String,
    /// Remarks for the user that must not get lost among the steps, in order.
    pub(crate) remarks: Vec<String>,
    /// PID 1 has answered: from now on the guest can be asked to power off.
    pub(crate) contacted: bool,
    /// The guest's last account of itself.
    pub(crate) guest: Option<guest::State>,
    /// The engine answers: connections to the docker socket are let in.
    pub(crate) docker_open: bool,
    /// The VM is up, but its engine will not come: why.
    pub(crate) engine_failure: Option<String>,
    /// How long the start took until Docker answered.
    pub(crate) ready_after: Option<Duration>,
    /// Set when all is over: the VM is gone and the machine's lock given up.
    pub(crate) outcome: Option<Outcome>,
    watchers: usize,
}

/// How the machine process's work ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As asked.
    Stopped,
    /// Not as asked: what failed, why, and what to do next.
    Failed { message: String },
}

impl Board {
    pub(crate) fn new() -> Board {
        Board {
            view: Mutex::new(View {
                version: 0,
                state: State::Starting,
                step: String::from("starting"),
                remarks: Vec::new(),
                contacted: false,
                guest: None,
                docker_open: false,
                engine_failure: None,
                ready_after: None,
                outcome: None,
                watchers: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Changes the board and wakes its watchers.
    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        let mut view = self.lock();
        change(&mut view);
        view.version += 1;
        self.changed.notify_all();
    }

    /// Says what is being done now.
    pub(crate) fn step(&self, step: &str) {
        tracing::info!("{step}");
        self.update(|view| step.clone_into(&mut view.step));
    }

    /// Tells the user something that is not a step.
    pub(crate) fn remark(&self, remark: String) {
        tracing::warn!("{remark}");
        self.update(|view| view.remarks.push(remark));
    }

    pub(crate) fn now(&self) -> View {
        self.lock().clone()
    }

    /// Blocks until the board says what is waited for.
    pub(crate) fn wait_until(&self, mut enough: impl FnMut(&View) -> bool) -> View {
        let view = self.changed.wait_while(self.lock(), |view| !enough(view));
        view.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts a watcher that wants to see the outcome; [`Board::await_watchers`] waits for it.
    pub(crate) fn watch(self: &Arc<Board>) -> Watcher {
        self.lock().watchers += 1;
        Watcher { board: Arc::clone(self) }
    }

    /// Blocks until all watchers are done, at most for `limit`.
    pub(crate) fn await_watchers(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut view = self.lock();
        while view.watchers > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            view = self.changed.wait_timeout(view, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A watcher that panicked has not harmed the view: every change is whole before it can.
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Board::watch`].
#[derive(Debug)]
pub(crate) struct Watcher {
    board: Arc<Board>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.board.update(|view| view.watchers -= 1);
    }
}
