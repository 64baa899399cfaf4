//! Puts a machine together and starts it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::config::{ConfigError, FsConfig, VmConfig};
use crate::devices::transport::vhost_user::{self, ServeError};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::blk::{Blk, Image, ImageError};
use crate::devices::virtio::net::Net;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::vsock::{Vsock, VsockDevice};
use crate::emulator::console::{self, LOG_BYTES, Log};
use crate::emulator::process::{self, End};
use crate::emulator::qemu::{self, Board, Device, Kind};
use crate::emulator::tsc::Measurement;
use crate::hypervisor::{Accelerator, ProbeError, probe};
use crate::vm::{Shared, Vm, VmInfo};

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the machine's configuration is not valid")]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("{program} is not installed: install the package {package} (apt-get install {package})")]
    EmulatorMissing { program: &'static str, package: &'static str },
    #[error("cannot read the kernel {}", path.display())]
    Kernel { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("cannot prepare the directory {}", path.display())]
    RuntimeDir { path: PathBuf, source: io::Error },
    #[error("cannot open the console's log {}", path.display())]
    ConsoleLog { path: PathBuf, source: io::Error },
    #[error("cannot set up {what}")]
    Setup { what: &'static str, source: io::Error },
    #[error("cannot start {}", program.display())]
    Spawn { program: PathBuf, source: io::Error },
}

/// A device, and the emulator's end of its socket.
struct Attached {
    kind: Kind,
    emulator_end: UnixStream,
    /// Where the emulator connects to, if it does not use its end.
    path: Option<PathBuf>,
}

impl Attached {
    fn as_device(&self) -> Device<'_> {
        Device { kind: self.kind, socket: self.emulator_end.as_fd(), path: self.path.as_deref() }
    }
}

/// Our end of the way to a device's emulator.
struct DeviceEnd {
    socket: UnixStream,
    /// Where the emulator connects to instead; the socket then only tells of the emulator's end.
    listener: Option<Listener>,
}

/// A socket by a path, which is there only until the emulator has connected to it.
struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a device's socket cannot be removed");
        }
    }
}

impl DeviceEnd {
    /// The connection. `None` if the emulator ended before it made one.
    fn connect(self) -> io::Result<Option<UnixStream>> {
        let Some(listener) = self.listener else {
            return Ok(Some(self.socket));
        };
        loop {
            let mut waits =
                [PollFd::new(&listener.socket, PollFlags::IN), PollFd::new(&self.socket, PollFlags::empty())];
            retry_on_intr(|| poll(&mut waits, None))?;
            if !waits[0].revents().is_empty() {
                return listener.socket.accept().map(|(stream, _)| Some(stream));
            }
            if !waits[1].revents().is_empty() {
                return Ok(None);
            }
        }
    }
}

/// A socket at `path`, in place of what a machine that was killed has left there. The directory's mode keeps others away.
fn listen(path: &Path) -> Result<Listener, Error> {
    let listen = || {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Listener { socket: UnixListener::bind(path)?, path: path.to_owned() })
    };
    listen().map_err(|source| Error::Setup { what: "a device's socket", source })
}

/// See [`Vm::start`].
pub(crate) fn start(config: VmConfig) -> Result<Vm, Error> {
    config.validate()?;
    let tsc = Measurement::begin();
    let accelerator = probe(config.accel)?;
    let Accelerator::Qemu = accelerator.accelerator;
    let program = process::find(qemu::PROGRAM, std::env::var_os("PATH"))
        .ok_or(Error::EmulatorMissing { program: qemu::PROGRAM, package: qemu::PACKAGE })?;
    let kernel = readable(&config.kernel)?;
    prepare_runtime_dir(&config.runtime_dir)?;
    let log = Log::open(&config.console_log, LOG_BYTES)
        .map_err(|source| Error::ConsoleLog { path: config.console_log.clone(), source })?;

    // The order is that of the slots: what the guest calls vda, vdb, … are the disks in theirs.
    let mut devices: Vec<(Kind, Box<dyn VirtioDevice>)> = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let image = Image::open(&disk.path, disk.read_only)?;
        devices.push((Kind::Blk, Box::new(Blk::new(index, image, &disk.id))));
    }
    let (vsock_device, vsock) = vsock(&config)?;
    if let Some(device) = vsock_device {
        devices.push((Kind::Vsock, Box::new(device)));
    }
    if let Some(net) = config.net {
        let (mac, mtu) = (net.mac, net.mtu);
        devices.push((Kind::Net { mac, mtu }, Box::new(Net::new(mac, mtu, net.network))));
    }
    devices.push((Kind::Rng, Box::new(Rng::default())));

    let console_log = config.console_log.clone();
    let shared = Arc::new(Shared::default());
    let (console, console_emulator_end) = pair("the console")?;
    let mut attached = Vec::new();
    let mut threads = Vec::new();
    for (kind, device) in devices {
        let (device_end, emulator_end) = pair("a device's socket")?;
        let path =
            kind.is_opened_by_path().then(|| config.runtime_dir.join(format!("{}.sock", device.name())));
        let listener = path.as_deref().map(listen).transpose()?;
        threads.push(serve(kind, device, DeviceEnd { socket: device_end, listener }, Arc::clone(&shared))?);
        attached.push(Attached { kind, emulator_end, path });
    }
    if let Some(FsConfig { tag, socket }) = config.files {
        attached.push(Attached { kind: Kind::Fs { tag }, emulator_end: socket, path: None });
    }

    let (report, started) = mpsc::sync_channel(1);
    let supervisor = {
        let shared = Arc::clone(&shared);
        let program = program.clone();
        let supervise = move || {
            let board = Board {
                cpus: config.cpus,
                memory_mib: config.memory_mib,
                kernel: &kernel,
                cmdline: &config.cmdline,
                tsc_khz: tsc.and_then(Measurement::finish),
                console: console_emulator_end.as_fd(),
                devices: attached.iter().map(Attached::as_device).collect(),
            };
            let child = spawn(&program, &board, &shared);
            // From here on the emulator has the only copy of its ends: its death closes them.
            drop(board);
            drop((attached, console_emulator_end));
            match child {
                Ok(child) => {
                    // The starter waits for this, so it cannot have gone.
                    let _ = report.send(Ok(child.id()));
                    shared.end(supervise(child, console, log, threads));
                }
                Err(source) => {
                    join_all(threads);
                    let _ = report.send(Err(source));
                }
            }
        };
        spawn_thread("vmm-vm", supervise)?
    };
    let pid = match started.recv() {
        Ok(Ok(pid)) => pid,
        Ok(Err(source)) => return Err(Error::Spawn { program, source }),
        Err(mpsc::RecvError) => {
            let source = io::Error::other("the machine's thread ended early");
            return Err(Error::Spawn { program, source });
        }
    };
    let info = VmInfo { pid, accelerator, console_log };
    Ok(Vm::new(shared, vsock, info, supervisor))
}

/// The kernel's path, made absolute: the emulator runs in another directory.
fn readable(kernel: &Path) -> Result<PathBuf, Error> {
    let open = || {
        File::open(kernel)?;
        fs::canonicalize(kernel)
    };
    open().map_err(|source| Error::Kernel { path: kernel.to_path_buf(), source })
}

fn prepare_runtime_dir(path: &Path) -> Result<(), Error> {
    let prepare = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // It may be older, and then of any mode.
        fs::set_permissions(path, Permissions::from_mode(0o700))
    };
    prepare().map_err(|source| Error::RuntimeDir { path: path.to_path_buf(), source })
}

/// The socket device, if the machine is to have one, and a handle in any case.
fn vsock(config: &VmConfig) -> Result<(Option<VsockDevice>, Vsock), Error> {
    let guest_cid = config.vsock.map(|vsock| vsock.guest_cid);
    let (device, handle) = VsockDevice::new(guest_cid.unwrap_or(0))
        .map_err(|source| Error::Setup { what: "the socket device", source })?;
    // The handle of a device that is dropped refuses everything.
    Ok((guest_cid.map(|_| device), handle))
}

fn pair(what: &'static str) -> Result<(UnixStream, UnixStream), Error> {
    UnixStream::pair().map_err(|source| Error::Setup { what, source })
}

/// Serves a device on a thread of its own until the emulator closes the other end.
fn serve(
    kind: Kind,
    device: Box<dyn VirtioDevice>,
    end: DeviceEnd,
    shared: Arc<Shared>,
) -> Result<JoinHandle<()>, Error> {
    let name = device.name().to_owned();
    spawn_thread(&format!("vmm-{name}"), move || {
        let config = match kind {
            Kind::Net { .. } | Kind::Fs { .. } => vhost_user::Config::Known,
            Kind::Blk | Kind::Vsock | Kind::Rng => vhost_user::Config::Asked,
        };
        let result = match end.connect() {
            Ok(Some(socket)) => vhost_user::serve(device, socket, config),
            Ok(None) => Ok(()),
            Err(error) => Err(ServeError::EventLoop(error)),
        };
        shared.device_ended(&name, result);
    })
}

/// Starts the emulator. The calling thread MUST live as long as it does: its end kills it.
fn spawn(program: &Path, board: &Board<'_>, shared: &Shared) -> io::Result<Child> {
    let mut inherited: Vec<BorrowedFd<'_>> = vec![board.console];
    inherited.extend(board.devices.iter().map(|device| device.socket));
    let mut child = process::spawn(program, &board.arguments(), &inherited)?;
    let process = Pid::from_child(&child);
    match pidfd_open(process, PidfdFlags::empty()) {
        Ok(process) => {
            shared.started(process);
            Ok(child)
        }
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error.into())
        }
    }
}

/// Stays with the emulator to its end, then waits for everything that served it.
fn supervise(mut child: Child, console: UnixStream, log: Log, threads: Vec<JoinHandle<()>>) -> End {
    // Standard error is piped by `process::spawn`.
    let stderr = child.stderr.take();
    let recorder = stderr.and_then(|stderr| {
        let record = move || console::record(console, stderr, log);
        thread::Builder::new().name("vmm-console".to_owned()).spawn(record).ok()
    });
    let status = child.wait();
    join_all(threads);
    let output = recorder.and_then(|recorder| recorder.join().ok()).unwrap_or_default();
    match status {
        Ok(status) => process::understand(status, output),
        // Someone else in this process reaped our child: its end is a fact, its status is lost.
        Err(_) => End::Failed { code: -1, stderr: output.stderr },
    }
}

fn join_all(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A panic was caught inside the thread and reported from there.
        let _ = thread.join();
    }
}

fn spawn_thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map_err(|source| Error::Setup { what: "a thread", source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Accel, Disk};

    fn config(directory: &Path) -> VmConfig {
        let kernel = directory.join("kernel");
        fs::write(&kernel, "not a kernel").unwrap();
        VmConfig {
            cpus: 1,
            memory_mib: 64,
            kernel,
            cmdline: String::new(),
            disks: Vec::new(),
            vsock: None,
            net: None,
            files: None,
            console_log: directory.join("console.log"),
            runtime_dir: directory.join("run"),
            accel: Accel::Qemu,
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        if process::find(qemu::PROGRAM, std::env::var_os("PATH")).is_none() {
            let missing = start(config(directory.path())).err().unwrap().to_string();
            assert!(missing.contains("apt-get install"), "{missing}");
            return;
        }
        let disk = Disk { path: directory.path().join("none.raw"), read_only: true, id: "d".into() };
        let good = || config(directory.path());
        let spoilt = [
            ("cannot read the kernel", VmConfig { kernel: directory.path().join("none"), ..good() }),
            ("cannot open disk image", VmConfig { disks: vec![disk], ..good() }),
            ("cannot prepare the directory", VmConfig { runtime_dir: good().kernel.join("below"), ..good() }),
            (
                "cannot open the console's log",
                VmConfig { console_log: directory.path().join("no/dir"), ..good() },
            ),
        ];
        for (expected, config) in spoilt {
            let error = start(config).err().expect(expected);
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        let mode = fs::metadata(directory.path().join("run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
