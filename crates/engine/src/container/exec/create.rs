//! `POST /containers/{id}/exec`.

use wire::docker::exec::ExecCreateRequest;

use super::{Containers, DetachKeys, Progress, What};
use crate::{
    container::names,
    error::{Error, Result},
};

impl Containers {
    /// Prepares a process in a running container, and returns the exec's id.
    ///
    /// # Errors
    /// A container that cannot run it now, a user that does not exist, in Docker's words.
    pub(crate) async fn create_exec(&self, name: &str, request: ExecCreateRequest) -> Result<String> {
        let container = self.get(name)?;
        let Some((program, arguments)) = request.cmd.split_first() else {
            return Err(Error::invalid("No exec command specified"));
        };
        container.state().check_exec(&container.id, name)?;
        let record = container.record();
        let config = &record.config;
        if !request.user.is_empty() {
            self.check_user(&container, &request.user).await?;
        }
        let or_own = |asked: &str, own: &str| {
            if asked.is_empty() { own.to_owned() } else { asked.to_owned() }
        };
        let what = What {
            program: program.clone(),
            arguments: arguments.to_vec(),
            environment: request.env,
            working_dir: or_own(&request.working_dir, &config.working_dir),
            user: or_own(&request.user, &config.user),
            privileged: request.privileged,
            terminal: request.tty,
            size: request.console_size.map(super::start::terminal_size),
            stdin: request.attach_stdin,
            stdout: request.attach_stdout,
            stderr: request.attach_stderr,
            detach_keys: DetachKeys::for_exec(&request.detach_keys)?,
        };
        let line = what.line();
        let exec = self.add_exec(&container, names::random_id(), what, Progress::Created);
        self.emit(&container, &format!("exec_create: {line}"), &[("execID", &exec.id)]);
        Ok(exec.id.clone())
    }
}
