//! What the commands, the tray and the window share.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde::Deserialize;
use wire::app::{Response, State, Status};

use crate::{
    chosen::Chosen,
    engine::{calls::Calls, exchange::Engine, stream::Streams},
    error::{Error, Result},
    home::{Home, MACHINE},
    machine::{logs::Logs, status},
    platform::{Figures, Sampler},
    preferences::Store,
    program::Program,
};

/// The app's state. Of the machine it keeps nothing but what it last heard: the machine's process owns it.
pub(crate) struct Shell {
    pub(crate) home: Home,
    pub(crate) program: Program,
    pub(crate) engine: Engine,
    pub(crate) calls: Calls,
    pub(crate) streams: Streams,
    pub(crate) logs: Logs,
    pub(crate) chosen: Chosen,
    pub(crate) preferences: Store,
    sampler: Mutex<Sampler>,
    /// Whether the tray's icon is seen by anybody.
    tray: AtomicBool,
    /// Held while the machine is started or stopped from here.
    at_work: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verb {
    Start,
    Stop,
    Restart,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Verb::Start => "start",
            Verb::Stop => "stop",
            Verb::Restart => "restart",
        }
    }
}

impl Shell {
    pub(crate) fn new(home: Home) -> Shell {
        Shell {
            program: Program::find(home.clone()),
            engine: Engine::at(home.docker_socket()),
            calls: Calls::default(),
            streams: Streams::default(),
            logs: Logs::default(),
            chosen: Chosen::default(),
            preferences: Store::load(home.clone()),
            sampler: Mutex::default(),
            tray: AtomicBool::new(false),
            at_work: tokio::sync::Mutex::new(()),
            home,
        }
    }

    pub(crate) async fn status(&self) -> Result<Status> {
        status::now(&self.home, &self.program).await
    }

    /// Starts, stops or restarts the machine; returns when that is done.
    pub(crate) async fn run(&self, verb: Verb, tell: impl FnMut(Response)) -> Result<()> {
        let Ok(_at_work) = self.at_work.try_lock() else {
            return Err(Error::machine(
                "the machine is being started or stopped already; wait until that is done",
            ));
        };
        // `coracle start` refuses then: on a command line it may have come with options.
        if verb == Verb::Start && self.status().await?.state == State::Running {
            return Ok(());
        }
        self.program.follow(&[verb.name(), "--json", "--name", MACHINE], tell).await
    }

    pub(crate) async fn figures(&self) -> Result<Figures> {
        let (pid, emulator) = match self.status().await {
            Ok(status) => (status.pid, status.emulator_pid.unwrap_or(0)),
            // The host has figures all the same.
            Err(_) => (0, 0),
        };
        let mut sampler = self.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.look(&[pid, emulator], &self.home.machine())
    }

    pub(crate) fn has_tray(&self) -> bool {
        self.tray.load(Ordering::Acquire)
    }

    pub(crate) fn set_tray(&self, shown: bool) {
        self.tray.store(shown, Ordering::Release);
    }
}
