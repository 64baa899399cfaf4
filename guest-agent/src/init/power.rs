//! The way down: containers, engine, everything else, file systems, and off.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::Signal;
use rustix::system::{RebootCommand, reboot};
use wire::guest::Stage;

use super::engine_process::EXEC_ROOT;
use super::reaper::Child;
use super::{Machine, disk, mounts};

/// What the engine has beyond the containers' time-out, for its own end.
const ENGINE_GRACE: Duration = Duration::from_secs(3);
/// How long other processes have after SIGTERM, and how long the kernel may take to end killed ones.
const TERM_GRACE: Duration = Duration::from_secs(2);
const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long the host's connections have to take the last word.
const FAREWELL: Duration = Duration::from_millis(500);

/// The I/O port that switches the machine off, and what is written to it. The same as the virtual
/// machine's: `vmm::POWER_OFF_PORT` and `vmm::POWER_OFF_VALUE`.
const POWER_OFF_PORT: u64 = 0xf4;
const POWER_OFF_VALUE: u8 = 0x10;

/// Detaches a loop device from its file. loop(4).
const LOOP_CLR_FD: libc::c_ulong = 0x4c01;

/// File systems that store to the data disk, wherever they are mounted.
const STORING: &[&str] = &["ext4", "overlay"];

/// Stops everything and ends the VM.
pub(crate) fn off(machine: &Machine, engine: Option<Child>, timeout: Duration) -> ! {
    machine.state.set(Stage::StoppingContainers);
    if let Some(engine) = engine
        && let Err(error) = stop_engine(&engine, timeout)
    {
        tracing::warn!("cannot stop the engine: {error}");
    }
    machine.state.set(Stage::Unmounting);
    end_processes(machine);
    rustix::fs::sync();
    detach_loop_devices();
    unmount_storage();
    machine.state.finish(FAREWELL);
    rustix::fs::sync();
    switch_off();
    // A machine without that port: a restart, which ends it, too.
    end()
}

/// Ends the VM at once, after writing what the kernel holds. To the host it ends as crashed.
pub(crate) fn end() -> ! {
    rustix::fs::sync();
    // A restart and not a power-off, which without ACPI would halt for ever. The VM runs such that a
    // restart ends it.
    if let Err(error) = reboot(RebootCommand::Restart) {
        tracing::error!("cannot end the VM: {error}");
    }
    // PID 1 must not return: the kernel would panic.
    loop {
        rustix::event::pause();
    }
}

/// Writes to the machine's power-off port, which ends it as switched off and not as crashed.
fn switch_off() {
    let written = fs::OpenOptions::new()
        .write(true)
        .open("/dev/port")
        .and_then(|ports| ports.write_at(&[POWER_OFF_VALUE], POWER_OFF_PORT));
    if let Err(error) = written {
        tracing::warn!("cannot write to the power-off port: {error}");
    }
}

/// Asks the engine to stop its containers and itself.
fn stop_engine(process: &Child, timeout: Duration) -> io::Result<()> {
    let limit = Path::new(EXEC_ROOT).join(engine::STOP_TIMEOUT_FILE);
    if let Err(error) = fs::write(&limit, timeout.as_secs().to_string()) {
        tracing::warn!("the engine takes its own time to stop: cannot write {}: {error}", limit.display());
    }
    process.signal(Signal::TERM)?;
    let patience = timeout.saturating_add(ENGINE_GRACE);
    if let Some(exit) = process.wait_for(patience)? {
        tracing::info!("the engine ended with {exit}");
    } else {
        tracing::warn!("the engine did not stop within {} s and is killed", patience.as_secs());
        process.signal(Signal::KILL)?;
        process.wait();
    }
    Ok(())
}

/// Ends every process but this one.
fn end_processes(machine: &Machine) {
    for (signal, grace) in [(libc::SIGTERM, TERM_GRACE), (libc::SIGKILL, KILL_GRACE)] {
        // SAFETY: takes no pointers. -1 is every process but PID 1 and the caller, which are the same.
        unsafe { libc::kill(-1, signal) };
        if machine.children.wait_none(grace) {
            return;
        }
    }
    tracing::warn!("some processes do not end: {}", name_processes(|_| true).join(", "));
}

/// Detaches the files on the data disk that privileged containers have made into disks: each keeps its
/// file system busy. One that is still mounted is detached when it is unmounted.
fn detach_loop_devices() {
    let Ok(entries) = fs::read_dir("/sys/block") else { return };
    for entry in entries.flatten() {
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let node = Path::new("/dev").join(entry.file_name());
        let detached = fs::File::open(&node).and_then(|device| {
            // SAFETY: the request takes no pointer.
            match unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
        if let Err(error) = detached {
            tracing::warn!("cannot detach {} from {}: {error}", node.display(), file.trim());
        }
    }
}

/// Unmounts what stores to the data disk, innermost first.
fn unmount_storage() {
    let mounted = match mounts::current() {
        Ok(mounted) => mounted,
        Err(error) => {
            tracing::warn!("{error:#}");
            vec![mounts::Mount { at: PathBuf::from(disk::MOUNTED_AT), kind: "ext4".to_owned() }]
        }
    };
    for mount in mounted.iter().rev().filter(|mount| stores(mount)) {
        if let Err(error) = unmount(&mount.at, UnmountFlags::empty()) {
            tracing::warn!(
                "cannot unmount {}: {error}; it is used by: {}",
                mount.at.display(),
                name_processes(|link| link.starts_with(&mount.at)).join(", ")
            );
            // Read-only is as good for what is stored: nothing stays to be written.
            if let Err(error) = mount_remount(&mount.at, MountFlags::RDONLY, "") {
                tracing::warn!("cannot make {} read-only either: {error}", mount.at.display());
            }
        }
    }
}

fn stores(mount: &mounts::Mount) -> bool {
    mount.at != Path::new("/")
        && (mount.at.starts_with(disk::MOUNTED_AT) || STORING.contains(&mount.kind.as_str()))
}

/// Names the processes of which a working directory, root, program or open file is `wanted`.
fn name_processes(wanted: impl Fn(&Path) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            if pid == 1 {
                return None;
            }
            let process = PathBuf::from(format!("/proc/{pid}"));
            let mut links: Vec<_> = ["cwd", "root", "exe"].iter().map(|name| process.join(name)).collect();
            if let Ok(files) = fs::read_dir(process.join("fd")) {
                links.extend(files.flatten().map(|file| file.path()));
            }
            // Kernel threads have no links at all.
            links.iter().filter_map(|link| fs::read_link(link).ok()).find(|link| wanted(link))?;
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            Some(format!("{} ({pid})", name.trim()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stores_is_unmounted() {
        let mount = |at: &str, kind: &str| mounts::Mount { at: PathBuf::from(at), kind: kind.to_owned() };
        assert!(stores(&mount("/var/lib/coracle", "ext4")));
        assert!(stores(&mount("/var/lib/coracle/containers/a/shm", "tmpfs")));
        assert!(stores(&mount("/run/coracle/a/root", "overlay")));
        assert!(stores(&mount("/mnt", "ext4")));
        assert!(!stores(&mount("/", "ext4")));
        assert!(!stores(&mount("/run", "tmpfs")));
        assert!(!stores(&mount("/var/lib/coracle2", "tmpfs")));
    }

    #[test]
    fn users_of_a_path_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        assert_eq!(name_processes(|link| link.starts_with(&at)), Vec::<String>::new());
        let _open = fs::File::create(at.join("file")).unwrap();
        let me = std::process::id().to_string();
        let users = name_processes(|link| link.starts_with(&at));
        assert!(users.iter().any(|user| user.contains(&me)), "{users:?}");
    }
}
