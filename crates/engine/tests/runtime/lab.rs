//! A runtime with a root file system to run things in, and what it takes to look at the outcome.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use engine::runtime::{
    Exit, Held, Running, Runtime, Stdio, Streams,
    spec::{self, Files, Join, Machine, RequestedMount, User},
};
use tokio::{io::unix::AsyncFd, time::timeout};
use wire::docker::{container::ContainerConfig, host_config::HostConfig};

/// Must be static: nothing else is in the root file system.
pub(crate) const BUSYBOX: &str = "/bin/busybox";
/// Names another program to be used as shim and helper: the real one, to be measured.
const PROGRAM: &str = "CORACLE_TEST_PROGRAM";
/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers containers.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// See the module.
pub(crate) struct Lab {
    pub(crate) runtime: Runtime,
    pub(crate) machine: Machine,
    pub(crate) root: PathBuf,
    /// The exec root.
    pub(crate) run: PathBuf,
}

/// What is run.
#[derive(Clone, Default)]
pub(crate) struct Job {
    pub(crate) config: ContainerConfig,
    pub(crate) host: HostConfig,
    pub(crate) stdio: Stdio,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Lab {
    /// A lab on a new tmpfs; a root file system made of busybox.
    pub(crate) fn prepare(root: &Path) -> Result<()> {
        fs::create_dir_all(root)?;
        rustix::mount::mount("tmpfs", root, "tmpfs", rustix::mount::MountFlags::empty(), c"mode=755")?;
        let rootfs = root.join("rootfs");
        for directory in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "sbin", "home/u"] {
            fs::create_dir_all(rootfs.join(directory))?;
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox"))?;
        let applets = Command::new(BUSYBOX).arg("--list").output()?;
        for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|name| *name != "busybox") {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:\nu:x:1000:1000::/home/u:\n")?;
        fs::write(rootfs.join("etc/group"), "root:x:0:\nu:x:1000:\nextra:x:77:u\n")?;
        fs::write(rootfs.join("bin/plain"), "text")?;
        fs::write(rootfs.join("bin/strange"), b"\x7fELF nothing that runs")?;
        fs::write(rootfs.join("bin/orphan"), "#!/nosuch/interpreter\n")?;
        for name in ["strange", "orphan"] {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(rootfs.join("bin").join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Connects to the runtime with this exec root in the lab.
    pub(crate) async fn connect(root: &Path, run: &Path) -> Result<(Self, Vec<Held>)> {
        let program = program()?;
        let (runtime, held) = Runtime::connect(run, &program).await?;
        let machine = Machine::read(runtime.cgroups())?;
        Ok((Self { runtime, machine, root: root.to_owned(), run: run.to_owned() }, held))
    }

    /// Containers' control groups are below this one.
    pub(crate) fn cgroup_parent(&self) -> String {
        let name = self.run.file_name().unwrap_or_default().to_string_lossy();
        format!("/{}/{name}", group_name(&self.root))
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.root.join("rootfs")
    }

    pub(crate) fn new_id(&self) -> String {
        format!("c{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) async fn start(&self, id: &str, job: &Job) -> engine::error::Result<Running> {
        self.start_joined(id, job, Join::default()).await
    }

    pub(crate) async fn start_joined(
        &self,
        id: &str,
        job: &Job,
        join: Join,
    ) -> engine::error::Result<Running> {
        let mut host = job.host.clone();
        host.resources.cgroup_parent = self.cgroup_parent();
        if host.network_mode.is_empty() {
            host.network_mode = "none".to_owned();
        }
        if let Some((rows, columns)) = job.stdio.terminal {
            host.console_size = [rows.into(), columns.into()];
        }
        let mut config = job.config.clone();
        config.tty = job.stdio.terminal.is_some();
        if config.hostname.is_empty() {
            config.hostname = "lab".to_owned();
        }
        spec::check(&config, &host, &self.machine)?;
        let rootfs = self.rootfs();
        let groups = host.group_add.clone().unwrap_or_default();
        let user = User::resolve(&rootfs, &config.user, &groups)?;
        let mounts = spec::mounts::requested(&host)?;
        mounts.iter().try_for_each(RequestedMount::prepare)?;
        let program = program().unwrap_or_default();
        let request = spec::Request {
            id,
            config: &config,
            host: &host,
            rootfs: &rootfs,
            user: &user,
            files: Files::default(),
            mounts: &mounts,
            join,
            program: &program,
        };
        let spec = spec::build(&request, &self.machine)?;
        self.runtime.start(id, &spec, job.stdio).await
    }

    /// Runs a job to its end, and removes it.
    pub(crate) async fn run(&self, job: &Job) -> Result<Outcome> {
        let id = self.new_id();
        let running = self.start(&id, job).await?;
        let outcome = finish(running).await;
        self.runtime.release(&id, None);
        self.runtime.delete(&id).await?;
        outcome
    }

    /// Runs a shell script with Docker's defaults.
    pub(crate) async fn script(&self, script: &str) -> Result<Outcome> {
        self.run(&Job::script(script)).await
    }

    /// The error of a container that does not start.
    pub(crate) async fn refusal(&self, job: &Job) -> Result<engine::error::Error> {
        match self.start(&self.new_id(), job).await {
            Ok(_) => bail!("it starts"),
            Err(error) => Ok(error),
        }
    }

    /// The control groups that are left of containers.
    pub(crate) fn groups_left(&self) -> Vec<PathBuf> {
        let parent = self.cgroup_parent();
        hierarchies()
            .into_iter()
            .flat_map(|root| groups_in(&root.join(parent.trim_start_matches('/'))))
            .collect()
    }
}

fn program() -> io::Result<PathBuf> {
    std::env::var_os(PROGRAM).map_or_else(std::env::current_exe, |path| Ok(path.into()))
}

fn group_name(root: &Path) -> String {
    format!("test-{}", root.file_name().unwrap_or_default().to_string_lossy())
}

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let below = groups_in(&root);
    std::iter::once(root).chain(below).collect()
}

fn groups_in(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes every control group that a lab in this directory may have left.
pub(crate) fn remove_groups(root: &Path) {
    fn remove(group: &Path) {
        groups_in(group).iter().for_each(|below| remove(below));
        let _ = fs::remove_dir(group);
    }
    hierarchies().iter().for_each(|hierarchy| remove(&hierarchy.join(group_name(root))));
}

impl Job {
    pub(crate) fn command(words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let config = ContainerConfig { cmd: Some(words), ..ContainerConfig::default() };
        Self { config, ..Self::default() }
    }

    pub(crate) fn script(script: &str) -> Self {
        Self::command(&["sh", "-c", script])
    }

    pub(crate) fn with_host(mut self, change: impl FnOnce(&mut HostConfig)) -> Self {
        change(&mut self.host);
        self
    }

    pub(crate) fn with_config(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    pub(crate) fn with_terminal(mut self, rows: u16, columns: u16) -> Self {
        self.stdio.terminal = Some((rows, columns));
        self
    }

    pub(crate) fn with_stdin(mut self) -> Self {
        self.stdio.stdin = true;
        self
    }
}

impl Outcome {
    /// Fails unless it ended so.
    pub(crate) fn expect(&self, code: i32, out: &str) -> Result<()> {
        if self.exit.code == code && self.out == out && self.exit.known {
            return Ok(());
        }
        bail!("expected {code} and {out:?}, got {self:?}")
    }
}

/// Reads all there is, then the exit.
pub(crate) async fn finish(running: Running) -> Result<Outcome> {
    let Running { streams, exit, .. } = running;
    let Streams { stdin, stdout, stderr, terminal } = streams;
    drop(stdin);
    let all = async {
        let (out, err) = tokio::join!(read_all(terminal.or(stdout)), read_all(stderr));
        Ok::<_, anyhow::Error>(Outcome { exit: exit.wait().await, out: out?, err: err? })
    };
    timeout(PATIENCE, all).await.context("it does not end")?
}

/// Reads to the end; a terminal ends with EIO.
pub(crate) async fn read_all(fd: Option<OwnedFd>) -> Result<String> {
    let mut text = Vec::new();
    if let Some(fd) = fd {
        let mut reader = Reader::new(fd)?;
        while reader.read_some(&mut text).await? {}
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reads bit by bit.
pub(crate) struct Reader(AsyncFd<OwnedFd>);

impl Reader {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self> {
        // SAFETY: it owns its one descriptor and keeps it.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }

    /// Whether there may be more.
    async fn read_some(&mut self, text: &mut Vec<u8>) -> Result<bool> {
        let mut bytes = [0; 4096];
        let read =
            self.0.async_io(tokio::io::Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut bytes)?)).await;
        match read {
            Ok(0) => Ok(false),
            Ok(count) => {
                text.extend(bytes.iter().take(count));
                Ok(true)
            }
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads until `wanted` has come.
    pub(crate) async fn until(&mut self, wanted: &str) -> Result<String> {
        let mut text = Vec::new();
        let read = async {
            while !String::from_utf8_lossy(&text).contains(wanted) {
                if !self.read_some(&mut text).await? {
                    bail!("the stream ends before {wanted:?}: {:?}", String::from_utf8_lossy(&text));
                }
            }
            Ok(())
        };
        timeout(PATIENCE, read).await.with_context(|| format!("no {wanted:?} comes"))??;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Writes everything.
pub(crate) async fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::AGAIN) => tokio::task::yield_now().await,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> io::Result<bool>) -> Result<()> {
    let wait = async {
        while !is_so()? {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, wait).await.with_context(|| format!("not in time: {what}"))?
}
