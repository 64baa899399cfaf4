//! `GET /exec/{id}/json`, and the size of an exec's terminal.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use wire::docker::exec::{ExecInspect, ExecProcessConfig};

use super::{Containers, Progress};
use crate::error::{Context, Error, Result};

impl Containers {
    /// Everything about an exec.
    ///
    /// # Errors
    /// No such exec, or none any more.
    pub(crate) fn inspect_exec(&self, id: &str) -> Result<ExecInspect> {
        let exec = self.exec(id)?;
        let progress = *exec.progress();
        let (running, exit_code, pid) = match progress {
            Progress::Created => (false, None, 0),
            Progress::Starting => (true, None, 0),
            Progress::Running { pid } => (true, None, pid),
            Progress::Ended { exit_code, pid, .. } => (false, Some(exit_code.into()), pid),
        };
        let what = &exec.what;
        Ok(ExecInspect {
            id: exec.id.clone(),
            running,
            exit_code,
            process_config: ExecProcessConfig {
                tty: what.terminal,
                entrypoint: what.program.clone(),
                arguments: what.arguments.clone(),
                privileged: what.privileged,
                user: what.user.clone(),
            },
            open_stdin: what.stdin,
            open_stderr: what.stderr,
            open_stdout: what.stdout,
            can_remove: false,
            container_id: exec.container.id.clone(),
            // Docker shows none where the default is used.
            detach_keys: if what.detach_keys == Default::default() {
                String::new()
            } else {
                STANDARD.encode(what.detach_keys.bytes())
            },
            pid: pid.into(),
        })
    }

    /// Sets the size of a running exec's terminal.
    ///
    /// # Errors
    /// An exec that does not run, in Docker's words.
    pub(crate) fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.active_exec(id)?;
        match *exec.progress() {
            Progress::Running { .. } => {}
            _ => return Err(Error::invalid("exec process is not started")),
        }
        exec.hub.resize(rows, columns).context(|| format!("resize the terminal of exec {id}"))
    }
}
