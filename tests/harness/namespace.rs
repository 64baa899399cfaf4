//! Private mount, network, IPC and PID namespaces for an engine under test.
//!
//! Nothing of this machine's mounts and network is touched from inside, and nothing outlives the harness: the first
//! process of the PID namespace ends when its pipe from the harness does, and the kernel then kills the rest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;

use crate::case::Skip;
use crate::process::Program;
use crate::{roles, wait};

/// A set of namespaces; dropping it kills everything that runs in them.
pub struct Namespace {
    holder: Child,
    /// Closing it ends the first process.
    alive: Option<ChildStdin>,
    /// The first process, as this machine numbers it.
    init: Pid,
}

/// A process in a [`Namespace`].
#[derive(Debug, Clone)]
pub struct Process {
    /// As this machine numbers it.
    pub pid: Pid,
    /// As the namespace numbers it.
    pub inner_pid: i32,
    /// Its arguments, separated by blanks; empty for one that has ended and was not reaped.
    pub line: String,
}

impl Namespace {
    pub fn new() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Skip::because("private namespaces need root").into());
        }
        let mut holder = Command::new(roles::own_binary())
            .arg(roles::HOLDER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C at the terminal is for the harness, whose end then ends the namespaces.
            .process_group(0)
            .spawn()
            .context("starting the holder of a namespace")?;
        let alive = holder.stdin.take();
        let stdout = holder.stdout.take().context("the holder has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut init = None;
        loop {
            match lines.next() {
                Some(Ok(line)) if line == roles::READY => break,
                Some(Ok(line)) => init = line.parse().ok().and_then(Pid::from_raw),
                _ => bail!("the namespaces could not be made; see the message above"),
            }
        }
        // The two lines come from two processes: the pid may come last.
        while init.is_none() {
            let line = lines.next().context("the holder of a namespace ended")??;
            init = line.parse().ok().and_then(Pid::from_raw);
        }
        let init = init.context("the holder told no pid")?;
        Ok(Self { holder, alive, init })
    }

    /// A program to run inside.
    #[must_use]
    pub fn program(&self, path: impl AsRef<OsStr>) -> Program {
        self.adopt(Program::new(path))
    }

    /// The same program, inside.
    #[must_use]
    pub fn adopt(&self, program: Program) -> Program {
        program.through([roles::ENTER.to_owned(), self.init.as_raw_nonzero().to_string()])
    }

    /// Runs `work` on a thread that is in the network namespace: sockets that it makes belong there for ever.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let place = format!("/proc/{}/ns/net", self.init.as_raw_nonzero());
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                let network = std::fs::File::open(&place).with_context(|| format!("opening {place}"))?;
                rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("entering a network namespace")?;
                work()
            });
            worker.join().map_err(|_| anyhow::anyhow!("a thread in a network namespace panicked"))?
        })
    }

    /// A connection to an address inside.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        self.in_network(|| {
            TcpStream::connect_timeout(&address, Duration::from_secs(10))
                .with_context(|| format!("connecting to {address} in the namespace"))
        })
    }

    /// Everything that runs inside, also in PID namespaces made there, but for the first process.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let space = |pid: Pid| std::fs::read_link(format!("/proc/{}/ns/pid", pid.as_raw_nonzero())).ok();
        let ours = space(self.init).context("the namespace's first process is gone")?;
        let mut all = HashMap::new();
        for entry in std::fs::read_dir("/proc").context("reading /proc")? {
            let name = entry?.file_name();
            let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            // A process may end while we look.
            if let Some((pid, seen)) = pid.and_then(|pid| Some((pid, Seen::read(pid)?))) {
                all.insert(pid, seen);
            }
        }
        let inside = |mut pid: Pid| loop {
            if space(pid).as_ref() == Some(&ours) {
                return true;
            }
            match all.get(&pid).and_then(|seen| seen.parent) {
                Some(parent) => pid = parent,
                None => return false,
            }
        };
        let found = all.iter().filter(|(pid, _)| **pid != self.init && inside(**pid));
        Ok(found
            .filter_map(|(pid, seen)| {
                Some(Process { pid: *pid, inner_pid: *seen.numbers.get(1)?, line: seen.line.clone() })
            })
            .collect())
    }

    /// The process that the namespace numbers `inner_pid`.
    pub fn process(&self, inner_pid: i32) -> Result<Process> {
        let found = self.processes()?.into_iter().find(|process| process.inner_pid == inner_pid);
        found.with_context(|| format!("no process {inner_pid} in the namespace"))
    }

    /// Kills a process as `kill -9` does, and waits until it is gone.
    pub fn kill_9(&self, process: &Process) -> Result<()> {
        rustix::process::kill_process(process.pid, Signal::KILL)
            .with_context(|| format!("killing `{}`", process.line))?;
        wait::eventually_true("a killed process is gone", Duration::from_secs(30), || {
            // A zombie counts as gone: whoever has to reap it may be slow.
            Ok(!self.processes()?.iter().any(|other| other.pid == process.pid && !other.line.is_empty()))
        })
    }

    /// Ends everything inside.
    pub fn end(&mut self) -> Result<()> {
        if self.alive.take().is_some() {
            let status = self.holder.wait().context("waiting for the end of a namespace")?;
            ensure!(status.success(), "the holder of a namespace ended with {status}");
        }
        Ok(())
    }
}

/// What `/proc` says of a process.
struct Seen {
    parent: Option<Pid>,
    /// Its pid in each PID namespace that it is in, outermost first.
    numbers: Vec<i32>,
    line: String,
}

impl Seen {
    fn read(pid: Pid) -> Option<Self> {
        let folder = format!("/proc/{}", pid.as_raw_nonzero());
        let status = std::fs::read_to_string(format!("{folder}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let line = std::fs::read(format!("{folder}/cmdline")).ok()?;
        Some(Self {
            parent: field("PPid:")?.trim().parse().ok().and_then(Pid::from_raw),
            numbers: field("NSpid:")?.split_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
            line: String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned(),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The kernel ends what is inside; there is no one left to tell about a failure.
        let _ = self.end();
    }
}
