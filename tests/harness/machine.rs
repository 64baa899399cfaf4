//! A whole Coracle with a home of its own: the `coracle` command in private namespaces.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::engine::Client;
use crate::namespace::Namespace;
use crate::process::Program;
use crate::{leftovers, places, wait};

/// How long a start may take, on an emulated CPU beside other work.
const START: Duration = Duration::from_secs(180);

/// A home for machines, and the namespaces in which everything of it runs.
pub struct Machine {
    program: PathBuf,
    /// Short, because sockets below it have short paths.
    home: tempfile::TempDir,
    /// Stands for the user's home folder, where the docker context is written.
    user: tempfile::TempDir,
    namespace: Arc<Namespace>,
    /// Who runs it, if not the user of the tests.
    uid: Option<u32>,
}

impl Machine {
    /// A home without a machine.
    pub fn new() -> Result<Self> {
        let program = places::coracle()?;
        let home = leftovers::folder()?;
        let user = leftovers::folder()?;
        let config = user.path().join(".docker");
        std::fs::DirBuilder::new().mode(0o700).create(&config).context("making a docker configuration")?;
        Ok(Self { program, home, user, namespace: Arc::new(Namespace::new()?), uid: None })
    }

    /// One of a user that has no rights of his own, and can read what he needs wherever it was built.
    pub fn of_user(uid: u32) -> Result<Self> {
        let mut machine = Self::new()?;
        let tools = machine.user.path().join("coracle");
        let (bin, image) = (tools.join("bin"), tools.join("image"));
        let built = machine.program.parent().and_then(Path::parent).context("where was it built?")?;
        for folder in [&bin, &image] {
            std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        for name in ["bin/coracle", "image/vmlinux", "image/rootfs.erofs", "image/image.json"] {
            std::fs::copy(built.join(name), tools.join(name)).with_context(|| format!("copying {name}"))?;
        }
        for folder in [machine.home.path(), machine.user.path(), &machine.docker_config()] {
            std::os::unix::fs::chown(folder, Some(uid), Some(uid))?;
        }
        machine.program = bin.join("coracle");
        machine.uid = Some(uid);
        Ok(machine)
    }

    /// `CORACLE_HOME`.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// A file of the machine `default`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.path().join("default").join(name)
    }

    /// The socket of the machine `default` for `docker`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.file("docker.sock")
    }

    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The folder of the docker client's configuration as the `coracle` command sees it.
    #[must_use]
    pub fn docker_config(&self) -> PathBuf {
        self.user.path().join(".docker")
    }

    /// `coracle ARGS…`.
    pub fn coracle<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Program {
        let program = match self.uid {
            Some(uid) => {
                let ids = [format!("--reuid={uid}"), format!("--regid={uid}")];
                let program = self.namespace.program("setpriv").args(ids).arg("--clear-groups");
                program.arg("--").arg(&self.program)
            }
            None => self.namespace.program(&self.program),
        };
        program
            .args(args)
            .env("CORACLE_HOME", self.home.path())
            .env("HOME", self.user.path())
            .env("DOCKER_CONFIG", self.docker_config())
            .current_dir(self.user.path())
            .timeout(START)
    }

    /// Starts the machine `default`, small enough to stand beside others.
    pub fn start(&self) -> Result<()> {
        self.coracle(["start", "--cpus", "2", "--memory", "1G", "--disk", "8G"]).output()?.expect_code(0)?;
        Ok(())
    }

    /// `coracle ARGS…`, which must succeed; its standard output without the blanks around it.
    pub fn ok<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.coracle(args).output()?.text()
    }

    /// What `coracle status --json` prints of a machine that does not run.
    pub fn status_of_stopped(&self) -> Result<Value> {
        let output = self.coracle(["status", "--json"]).output()?.expect_code(3)?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("no JSON: {output}"))
    }

    /// What the data disk of the machine `default` takes on this machine, in bytes.
    pub fn disk_used(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let disk = self.file("disk.raw");
        let data = std::fs::metadata(&disk).with_context(|| format!("reading {}", disk.display()))?;
        // Blocks of 512 bytes, whatever the file system's own are: see stat(2).
        Ok(data.blocks() * 512)
    }

    /// What `coracle status --json` prints of a machine that runs.
    pub fn status(&self) -> Result<Value> {
        let text = self.ok(["status", "--json"])?;
        serde_json::from_str(&text)
            .with_context(|| format!("`coracle status --json` printed no JSON: {text}"))
    }

    /// The real `docker`, speaking to the machine `default`.
    pub fn client(&self) -> Result<Client> {
        Client::new(places::docker()?, &self.socket())
    }

    /// The pid of a process that the status names, as the namespace numbers it.
    pub fn pid(&self, field: &str) -> Result<i32> {
        let status = self.status()?;
        let pid = find(&status, field)
            .and_then(Value::as_i64)
            .with_context(|| format!("no {field} in {status}"))?;
        Ok(i32::try_from(pid)?)
    }

    /// Kills the machine process as `kill -9` does.
    pub fn kill_9(&self) -> Result<()> {
        let process = self.namespace.process(self.pid("pid")?)?;
        self.namespace.kill_9(&process)
    }

    /// Waits until nothing of the machine runs any more.
    pub fn expect_no_process(&self) -> Result<()> {
        let mut left = Vec::new();
        wait::eventually_true("every process of the machine is gone", Duration::from_secs(20), || {
            left = self.namespace.processes()?;
            left.retain(|process| !process.line.is_empty());
            Ok(left.is_empty())
        })
        .with_context(|| format!("still there: {left:?}"))
    }

    /// Kills the engine in the guest, which PID 1 then starts again.
    pub(crate) fn crash_engine(&self) -> Result<()> {
        let kill = "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline 2>/dev/null)\" in \
                    *coracle-agent\\ engine*) kill -9 ${p#/proc/};; esac; done";
        self.ok(["shell", "--", "sh", "-c", kill])?;
        Ok(())
    }
}

/// A field of an object, or of an object in it.
fn find<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(field).or_else(|| object.values().find_map(|inner| find(inner, field)))
}
