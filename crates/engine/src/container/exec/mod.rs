//! Further processes in a running container.

mod create;
mod inspect;
mod start;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Container, Containers, detach_keys::DetachKeys, streams::Hub};
use crate::error::{Error, Result};

pub(crate) use start::ExecStart;

/// How long an ended exec can be inspected at least.
const REMEMBERED: Duration = Duration::from_secs(300);

/// One exec.
#[derive(Debug)]
pub(super) struct Exec {
    id: String,
    container: Arc<Container>,
    what: What,
    progress: Mutex<Progress>,
    hub: Arc<Hub>,
}

/// What is to be run. It does not change.
#[derive(Debug, Clone, Default)]
pub(super) struct What {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<String>,
    pub(super) working_dir: String,
    pub(super) user: String,
    pub(super) privileged: bool,
    pub(super) terminal: bool,
    /// Rows, columns.
    pub(super) size: Option<(u16, u16)>,
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) detach_keys: DetachKeys,
}

/// How far an exec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Created,
    /// The runtime is at work.
    Starting,
    Running {
        pid: u32,
    },
    Ended {
        exit_code: i32,
        pid: u32,
        at: Instant,
    },
}

impl What {
    /// The command in one line, as events have it.
    fn line(&self) -> String {
        // Docker has a blank here even when there are no arguments.
        format!("{} {}", self.program, self.arguments.join(" "))
    }
}

impl Exec {
    pub(super) fn container_id(&self) -> &str {
        &self.container.id
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containers {
    fn exec(&self, id: &str) -> Result<Arc<Exec>> {
        self.execs().get(id).cloned().ok_or_else(|| Error::not_found(format!("No such exec instance: {id}")))
    }

    /// An exec whose container can run it now.
    fn active_exec(&self, id: &str) -> Result<Arc<Exec>> {
        let exec = self.exec(id)?;
        exec.container.state().check_exec(&exec.container.id, &exec.container.id)?;
        Ok(exec)
    }

    /// Registers an exec, and forgets those that ended long ago.
    fn add_exec(&self, container: &Arc<Container>, id: String, what: What, progress: Progress) -> Arc<Exec> {
        let exec = Arc::new(Exec {
            id: id.clone(),
            container: container.clone(),
            what,
            progress: Mutex::new(progress),
            hub: Hub::new(None),
        });
        let mut execs = self.execs();
        execs.retain(
            |_, exec| !matches!(*exec.progress(), Progress::Ended { at, .. } if at.elapsed() > REMEMBERED),
        );
        execs.insert(id.clone(), exec.clone());
        drop(execs);
        container.exec_ids().insert(id);
        exec
    }

    /// Execs end with their container, and those that never ran will not.
    pub(super) fn forget_execs(&self, container: &Container) {
        let ids = std::mem::take(&mut *container.exec_ids());
        let mut execs = self.execs();
        for id in ids {
            let never_ran = execs.get(&id).is_some_and(|exec| *exec.progress() == Progress::Created);
            if never_ran && let Some(exec) = execs.remove(&id) {
                exec.hub.close();
            }
        }
    }
}
