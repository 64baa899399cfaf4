//! What the helper finds about a container, on disk below the exec root. A reboot ends it.
//!
//! * `bundles/ID/config.json`: the OCI specification without the [workload](super::workload);
//! * `bundles/ID/workload.json`, and `x-EXEC.json`, `x-EXEC.process.json` for each exec being started;
//! * `bundles/ID/cgroup`: the path of its control group;
//! * `bundles/ID/pid.json`: its first process.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{BoxBuilder, Process, Spec};
use serde::de::DeserializeOwned;

use super::{filter, streams::Stdio, workload::Workload};
use crate::{
    error::{Context, Error, Result},
    store::{self, Durability},
};

/// Where things are below the exec root.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Compiled system call filters.
    pub(crate) fn filters(&self) -> PathBuf {
        self.root.join("filters")
    }

    fn bundles(&self) -> PathBuf {
        self.root.join("bundles")
    }

    pub(crate) fn bundle(&self, id: &str) -> Bundle {
        Bundle { path: self.bundles().join(id) }
    }

    /// Makes the directories.
    pub(crate) fn create(&self) -> Result<()> {
        for path in [self.filters(), self.bundles()] {
            fs::create_dir_all(&path).context(|| format!("create {}", path.display()))?;
        }
        Ok(())
    }

    /// The containers that anything is left of.
    pub(crate) fn containers(&self) -> Result<Vec<String>> {
        let directory = self.bundles();
        let entries = fs::read_dir(&directory).context(|| format!("read {}", directory.display()))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }
}

/// A container's files.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    path: PathBuf,
}

impl Bundle {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn workload(&self) -> PathBuf {
        self.path.join("workload.json")
    }

    pub(crate) fn exec_workload(&self, exec: &str) -> PathBuf {
        self.path.join(format!("x-{exec}.json"))
    }

    pub(crate) fn exec_process(&self, exec: &str) -> PathBuf {
        self.path.join(format!("x-{exec}.process.json"))
    }

    /// Where the number of the container's first process is, once it runs its program.
    pub(crate) fn pid(&self) -> PathBuf {
        self.path.join("pid.json")
    }

    /// Writes all that `oci create` reads.
    ///
    /// # Errors
    /// A specification that is not a container's, or the disk's.
    pub(crate) fn write(&self, layout: &Layout, spec: &Spec, stdio: Stdio) -> Result<()> {
        let mut spec = spec.clone();
        if let Some(process) = spec.process_mut() {
            choose_terminal(process, stdio);
        }
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
        let group = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().clone())
            .ok_or_else(|| Error::invalid("the specification has no control group"))?;
        let mut workload = Workload::split_off_container(&mut spec)
            .ok_or_else(|| Error::invalid("the specification has no process"))?;
        if let Some(seccomp) = seccomp {
            workload.filter = Some(filter::store(&layout.filters(), &seccomp)?);
        }
        fs::create_dir_all(&self.path).context(|| format!("create {}", self.path.display()))?;
        // First what is needed to clean up.
        let group = group.to_str().ok_or_else(|| Error::invalid("the control group is not UTF-8"))?;
        store::replace(&self.path.join("cgroup"), group.as_bytes(), Durability::Renamed)
            .context(|| format!("write {}", self.path.display()))?;
        store::write_json(&self.path.join("config.json"), &spec, Durability::Renamed)?;
        store::write_json(&self.workload(), &workload, Durability::Renamed)
    }

    /// Writes all that `oci exec` reads.
    pub(crate) fn write_exec(&self, exec: &str, process: &Process, stdio: Stdio) -> Result<()> {
        let container: Workload = read(&self.workload())?;
        let mut process = process.clone();
        choose_terminal(&mut process, stdio);
        let mut workload = Workload::split_off(&mut process);
        workload.filter = container.filter;
        store::write_json(&self.exec_process(exec), &process, Durability::Renamed)?;
        store::write_json(&self.exec_workload(exec), &workload, Durability::Renamed)
    }

    /// Removes what `oci exec` has read.
    pub(crate) fn forget_exec(&self, exec: &str) {
        for path in [self.exec_process(exec), self.exec_workload(exec)] {
            // Gone with the bundle at the latest.
            let _ = fs::remove_file(path);
        }
    }

    /// The path of the container's control group, if a container was ever made from it.
    pub(crate) fn cgroup(&self) -> Result<Option<PathBuf>> {
        let path = self.path.join("cgroup");
        match fs::read_to_string(&path) {
            Ok(group) => Ok(Some(group.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("read {}", path.display())),
        }
    }
}

/// The streams decide whether there is a terminal, and its size unless they leave it open.
fn choose_terminal(process: &mut Process, stdio: Stdio) {
    process.set_terminal(Some(stdio.terminal.is_some()));
    if let Some((rows, columns)) = stdio.terminal.filter(|size| *size != (0, 0)) {
        // Building it cannot fail: every field has a default.
        process.set_console_size(BoxBuilder::default().height(rows).width(columns).build().ok());
    }
}

/// Reads what is surely there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    store::read_json(path)?.ok_or_else(|| Error::not_found(format!("{} is missing", path.display())))
}
