//! From a machine's settings to a running VM.

use std::{
    io,
    net::SocketAddrV4,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Child,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use usernet::Entrance;
use wire::vsock::GUEST_CID;

use super::{
    config::{Config, Host},
    disk, file_server,
    image::GuestImage,
    lock::LockedHome,
    network,
    process::{Accelerator, Machine},
    vm::{Ended, OnStream, Vm},
};

/// The root is the first disk, read-only; the data disk is the second. A guest that panics ends, so
/// that its machine process can say so. Network devices that nobody asked for are not made. An idle guest
/// looks after its memory's statistics every 10 s, not every second.
const COMMAND_LINE: &str = "console=ttyS0 root=/dev/vda ro rootfstype=erofs init=/sbin/coracle-agent panic=-1 \
    reboot=t quiet dummy.numdummies=0 ifb.numifbs=0 sysctl.vm.stat_interval=10 \
    sysctl.vm.compaction_proactiveness=0";

/// Reads and remembers the settings, prepares what the VM needs, and starts it.
///
/// # Errors
/// What is wrong with the settings, the host or the files, in the user's terms. Nothing runs then.
pub(crate) fn start(locked: &LockedHome, machine: &Machine, overrides: Config) -> Result<Arc<dyn Vm>> {
    let dir = locked.dir();
    let image = GuestImage::find()?;
    let stored = Config::load(&dir.config_file())?;
    let disk_now = disk::current_size(&dir.disk_image())?;
    let chosen = stored.overridden_by(overrides.clone());
    let settings = chosen.clone().settle(&Host::this()?, disk_now)?;
    let choice = vmm::probe(settings.accel).context("no way to run the VM's CPUs")?;
    settings.shares.check()?;
    tracing::info!(?settings, "runs on {}: {}", choice.accelerator, choice.reason);
    let accelerator = Accelerator { name: choice.accelerator.to_string(), reason: choice.reason };
    // Remembered once they are known to be possible, and before anything is changed by them.
    overrides.save(&dir.config_file())?;
    // For who wants to know whether that file has changed since.
    chosen.save(&dir.started_config_file())?;
    machine.board.step("preparing the disk image");
    if let Some(warning) = disk::prepare(&dir.disk_image(), settings.disk)? {
        machine.board.remark(warning);
    }
    let (card, entrance) = network::card().context("cannot set up the guest's network")?;
    let shares = settings.shares.as_slice();
    let files = if shares.is_empty() { None } else { Some(file_server::start(shares)?) };
    let (files, file_server) = files.unzip();
    let config = vmm::VmConfig {
        cpus: settings.cpus,
        memory_mib: settings.memory.mib(),
        kernel: image.kernel(),
        cmdline: COMMAND_LINE.to_owned(),
        disks: vec![
            vmm::Disk { path: image.root(), read_only: true, id: "root".to_owned() },
            vmm::Disk { path: dir.disk_image(), read_only: false, id: "data".to_owned() },
        ],
        vsock: Some(vmm::VsockConfig { guest_cid: GUEST_CID }),
        net: Some(card),
        files,
        console_log: dir.console_log(),
        runtime_dir: dir.runtime_dir(),
        accel: settings.accel,
    };
    // Set once: a machine process starts one VM.
    let _ = machine.settings.set(settings);
    let _ = machine.accelerator.set(accelerator);
    machine.board.step("starting the VM");
    let vm = vmm::Vm::start(config).context("the VM did not start")?;
    let vm = Arc::new(RunningVm { vm, entrance, files_ended: OnceLock::new() });
    if let Some(file_server) = file_server {
        thread::Builder::new()
            .name("files".to_owned())
            .spawn({
                let vm = Arc::clone(&vm);
                move || vm.end_with_files(file_server)
            })
            .context("cannot start the thread 'files'")?;
    }
    Ok(vm)
}

struct RunningVm {
    vm: vmm::Vm,
    entrance: Entrance,
    /// Why the machine was ended: its files were gone.
    files_ended: OnceLock<String>,
}

impl RunningVm {
    /// Ends the machine when its file server does. A guest whose files do not answer hangs in every program that asks
    /// for one, and nothing brings them back.
    fn end_with_files(&self, mut server: Child) {
        let ended = server.wait();
        // The emulator hangs up on its devices, ends, and is noticed, one after the other.
        if matches!(&ended, Ok(status) if status.success()) {
            return;
        }
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::error!("the file server ended: {how}");
        let _ = self.files_ended.set(format!("the file server ended ({how}); see `coracle logs`"));
        self.vm.kill();
    }
}

impl Vm for RunningVm {
    fn connect(&self, port: u32, timeout: Duration) -> io::Result<UnixStream> {
        self.vm.vsock().connect(port, timeout)
    }

    fn connect_stream(&self, port: u32, stream: OwnedFd) {
        self.vm.vsock().connect_stream(port, stream);
    }

    fn lead(&self, address: SocketAddrV4, stream: OwnedFd) -> Result<(), OwnedFd> {
        self.entrance.lead(address, stream)
    }

    fn listen(&self, port: u32, on_connection: OnStream) {
        self.vm.vsock().listen(port, on_connection);
    }

    fn wait(&self) -> Ended {
        let reason = self.vm.wait();
        let told = self.files_ended.get().cloned();
        // A reset is none: the guest asks for it after a panic too, and a power-off has a way of its own.
        Ended {
            powered_off: matches!(reason, vmm::ExitReason::PoweredOff),
            reason: told.unwrap_or_else(|| reason.to_string()),
        }
    }

    fn kill(&self) {
        self.vm.kill();
    }

    fn emulator_pid(&self) -> Option<u32> {
        Some(self.vm.info().pid)
    }
}
