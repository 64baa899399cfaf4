//! What a case gets: an engine, the real `docker` command line for it, its API, and names of its own.

use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde_json::Value;

use crate::engine::Engine;
use crate::leftovers;
use crate::process::{Output, Program, Running};

/// An engine as one case sees it. Everything that an [`Engine`] does can be asked of it.
pub struct Target {
    engine: Arc<Engine>,
    /// Short and unique in this run.
    prefix: String,
    made: Mutex<Vec<String>>,
    networks: Mutex<Vec<String>>,
    folder: tempfile::TempDir,
}

impl Deref for Target {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(1);

impl Target {
    pub(crate) fn new(engine: Arc<Engine>, case: &str) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let short = case.rsplit("::").next().unwrap_or(case).replace('_', "-");
        let folder = leftovers::folder()?;
        Ok(Self {
            engine,
            prefix: format!("{short}-{number}"),
            made: Mutex::default(),
            networks: Mutex::default(),
            folder,
        })
    }

    /// A name for something of this case. A container of that name is removed when the case ends.
    pub fn name(&self, what: &str) -> String {
        let name = format!("{}-{what}", self.prefix);
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        name
    }

    /// Makes a network with these arguments of `docker network create`; it is removed when the case ends.
    pub fn network(&self, what: &str, args: &[&str]) -> Result<String> {
        let name = format!("{}-{what}", self.prefix);
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        self.ok(["network", "create"].iter().chain(args).copied().chain([name.as_str()]))?;
        Ok(name)
    }

    /// A folder of this case on this machine.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `docker ARGS…`, which must succeed; its standard output without the blanks around it.
    pub fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.docker(args).output()?.text()
    }

    /// Every image with its ID, sorted: the client itself lists an image's names in no order.
    pub fn image_names(&self) -> Result<Vec<String>> {
        let text = self.ok(["images", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"])?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Ok(lines)
    }

    /// `docker ARGS…`, which must end with `code`.
    pub fn fails<S: AsRef<std::ffi::OsStr>>(
        &self,
        code: i32,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Output> {
        self.docker(args).output()?.expect_code(code)
    }

    /// A running container of this name that ends at once when it gets a SIGTERM; returns its id.
    pub fn sleeper(&self, name: &str) -> Result<String> {
        self.ok(["run", "-d", "--name", name, "busybox", "sh", "-c", SLEEP])
    }

    /// `GET /containers/NAME/json`.
    pub fn inspect(&self, container: &str) -> Result<Value> {
        self.api().get(format!("/containers/{container}/json")).send()?.expect(200)?.json()
    }

    /// Starts `docker ARGS…` and waits until it prints `text`.
    pub fn spawn_until<const N: usize>(&self, args: [&str; N], text: &str) -> Result<Running> {
        let running = self.docker(args).stdin_pipe().spawn()?;
        running.wait_for(text)?;
        Ok(running)
    }

    /// A program of the harness's own, with nothing of the user's environment.
    pub fn program(&self, path: &str) -> Program {
        Program::new(path).current_dir(self.folder.path())
    }

    /// Removes the containers and networks of this case.
    pub(crate) fn clean_up(&self) {
        for name in self.made.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // Most names were never containers, or are gone, and an engine that a case has killed answers nothing.
            let _ = self.api().delete(format!("/containers/{name}?force=true&v=true")).send();
        }
        for name in self.networks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = self.api().delete(format!("/networks/{name}")).send();
        }
    }
}

/// A shell that waits for ever, and ends at once with code 0 on SIGTERM.
pub const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
