//! The data disk: found, checked or formatted, mounted, grown.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount};

use super::probe::{self, Finding, Superblock};
use super::reaper::{Children, Exit};
use super::waiting::PowerRequest;
use super::{format, tools};

/// The virtio serial number by which the VM marks the data disk.
const SERIAL: &str = "data";
/// Where it is mounted: the engine's data root.
pub(crate) const MOUNTED_AT: &str = "/var/lib/coracle";
/// A memory file system, for the formatting.
const SCRATCH: &str = "/run";

/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)`: grows a mounted ext4 to that many blocks.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;

/// Makes the data disk ready and mounts it at [`MOUNTED_AT`].
///
/// # Errors
/// Whatever keeps the disk from being used safely, worded for the user. The disk is then left as it is.
pub(crate) fn prepare(children: &Children, power: &PowerRequest) -> Result<()> {
    let device = Device::find(Path::new("/sys/block"))?;
    let disk = device.open()?;
    let finding = probe::probe(&disk, device.size)
        .with_context(|| format!("cannot read the data disk {}", device.name))?;
    let superblock = match finding {
        Finding::Blank => {
            let started = Instant::now();
            format::format(children, power, &disk, device.size, Path::new(SCRATCH))
                .context("cannot format the data disk")?;
            tracing::info!("formatted the data disk in {} ms", started.elapsed().as_millis());
            None
        }
        Finding::Ext4(superblock) => {
            refuse_truncated(superblock, device.size)?;
            if superblock.needs_check {
                check(children, power, &device)?;
            }
            Some(superblock)
        }
        Finding::Foreign(what) => bail!(
            "the data disk holds {what}, which is not Coracle's; it was left untouched. \
             Give the machine another disk, or delete the machine to start afresh"
        ),
    };
    drop(disk);
    mount_data(&device)?;
    if superblock.is_some_and(|superblock| device.size / superblock.block_size > superblock.blocks) {
        grow(&device, superblock.map_or(4096, |superblock| superblock.block_size));
    }
    Ok(())
}

/// A disk image that became shorter than its file system has lost data; mounting would lose more.
fn refuse_truncated(superblock: Superblock, size: u64) -> Result<()> {
    if superblock.bytes() > size {
        bail!(
            "the data disk has {size} bytes, but its file system needs {}: the disk image was cut \
             short. It was left untouched; restore it from a backup, or delete the machine",
            superblock.bytes()
        );
    }
    Ok(())
}

/// The data disk's block device.
struct Device {
    /// `vdb`.
    name: String,
    /// In bytes.
    size: u64,
    /// Whether the VM can give freed blocks back to the host.
    discards: bool,
}

impl Device {
    fn find(block: &Path) -> Result<Device> {
        let entries = fs::read_dir(block).with_context(|| format!("cannot list {}", block.display()))?;
        let mut seen = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Asking for a serial number is a request to the device; loop and RAM disks have none.
            let Ok(serial) = fs::read_to_string(entry.path().join("serial")) else { continue };
            // At most 20 bytes, padded with zeroes (virtio 1.2, 5.2.6).
            let serial = serial.trim_end_matches(['\n', '\0', ' ']);
            if serial == SERIAL {
                return Device::describe(name, &entry.path());
            }
            seen.push(format!("{name} ({serial:?})"));
        }
        bail!("the VM has no disk with the serial number {SERIAL:?}; it has: {}", seen.join(", "))
    }

    fn describe(name: String, sys: &Path) -> Result<Device> {
        let number = |file: &str| -> Result<u64> {
            let path = sys.join(file);
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            text.trim().parse().with_context(|| format!("{} holds {text:?}", path.display()))
        };
        // In sysfs a sector has 512 bytes, whatever the disk's are.
        let size = number("size")?.saturating_mul(512);
        let discards = number("queue/discard_max_bytes").is_ok_and(|max| max > 0);
        Ok(Device { name, size, discards })
    }

    fn node(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    fn open(&self) -> Result<File> {
        let node = self.node();
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&node)
            .with_context(|| format!("cannot open the data disk {}", node.display()))
    }
}

fn check(children: &Children, power: &PowerRequest, device: &Device) -> Result<()> {
    let started = Instant::now();
    let mut e2fsck = tools::command("e2fsck");
    e2fsck.arg("-p").arg(device.node());
    let outcome = tools::run(children, power, e2fsck)?;
    let verdict = judge_check(outcome.exit);
    tracing::info!(
        "checked the data disk in {} ms: {}, {}",
        started.elapsed().as_millis(),
        outcome.exit,
        outcome.output
    );
    match verdict {
        Verdict::Usable => Ok(()),
        Verdict::Damaged => bail!(
            "the data disk's file system is damaged and was not repaired automatically ({}). \
             `coracle shell -- e2fsck {}` repairs it with your consent; then `coracle restart`",
            outcome.output,
            device.node().display()
        ),
        Verdict::NotChecked => {
            bail!(
                "the data disk could not be checked: e2fsck ended with {}: {}",
                outcome.exit,
                outcome.output
            )
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Usable,
    Damaged,
    NotChecked,
}

/// e2fsck(8), EXIT CODE: a sum of 1 (errors corrected), 2 (corrected, reboot if it was mounted: it was
/// not), 4 (errors left), 8 (operational error), 16 (usage), 32 (cancelled), 128 (library).
fn judge_check(exit: Exit) -> Verdict {
    match exit {
        Exit::Code(0..=3) => Verdict::Usable,
        Exit::Code(code) if code & !0b111 == 0 => Verdict::Damaged,
        _ => Verdict::NotChecked,
    }
}

fn mount_data(device: &Device) -> Result<()> {
    let at = Path::new(MOUNTED_AT);
    fs::create_dir_all(at).with_context(|| format!("no directory {MOUNTED_AT} to mount the data disk on"))?;
    // noinit_itable: unused inode tables are zero already, see `format`; after growing, too.
    let mut options = "errors=remount-ro,noinit_itable".to_owned();
    if device.discards {
        options.push_str(",discard");
    }
    let options = std::ffi::CString::new(options)?;
    mount(device.node(), at, "ext4", MountFlags::NOATIME, options.as_c_str())
        .with_context(|| format!("cannot mount the data disk {} on {MOUNTED_AT}", device.node().display()))
}

/// Grows the mounted file system to the disk's size. When that fails the disk works as before, so it is
/// only logged.
fn grow(device: &Device, block_size: u64) {
    let blocks = device.size / block_size;
    let grown = File::open(MOUNTED_AT).and_then(|root| {
        // SAFETY: the request reads one u64 through the pointer.
        match unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    });
    match grown {
        Ok(()) => tracing::info!("grew the data disk to {} bytes", device.size),
        Err(error) => tracing::error!("cannot grow the data disk to {} bytes: {error}", device.size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e2fsck_codes() {
        for (exit, verdict) in [
            (Exit::Code(0), Verdict::Usable),
            (Exit::Code(1), Verdict::Usable),
            (Exit::Code(2), Verdict::Usable),
            (Exit::Code(3), Verdict::Usable),
            (Exit::Code(4), Verdict::Damaged),
            (Exit::Code(5), Verdict::Damaged),
            (Exit::Code(8), Verdict::NotChecked),
            (Exit::Code(12), Verdict::NotChecked),
            (Exit::Code(32), Verdict::NotChecked),
            (Exit::Code(127), Verdict::NotChecked),
            (Exit::Signal(9), Verdict::NotChecked),
        ] {
            assert_eq!(judge_check(exit), verdict, "{exit}");
        }
    }

    #[test]
    fn a_disk_shorter_than_its_file_system_is_refused() {
        let superblock = Superblock { block_size: 4096, blocks: 10, needs_check: false };
        refuse_truncated(superblock, 40_960).unwrap();
        let error = refuse_truncated(superblock, 40_959).unwrap_err().to_string();
        assert!(error.contains("40959") && error.contains("40960"), "{error}");
    }

    #[test]
    fn the_data_disk_is_found_by_its_serial_number() {
        let dir = tempfile::tempdir().unwrap();
        let add = |name: &str, serial: Option<&str>, size: &str, discard: &str| {
            let sys = dir.path().join(name);
            fs::create_dir_all(sys.join("queue")).unwrap();
            fs::write(sys.join("size"), size).unwrap();
            fs::write(sys.join("queue/discard_max_bytes"), discard).unwrap();
            if let Some(serial) = serial {
                fs::write(sys.join("serial"), serial).unwrap();
            }
        };
        add("loop0", None, "0\n", "0\n");
        add("vda", Some("root"), "100\n", "0\n");
        let error = Device::find(dir.path()).err().unwrap().to_string();
        assert!(error.ends_with("it has: vda (\"root\")"), "{error}");
        add("vdb", Some("data\n"), "2048\n", "4294966784\n");
        let device = Device::find(dir.path()).unwrap();
        assert_eq!(device.node(), Path::new("/dev/vdb"));
        assert_eq!((device.size, device.discards), (1 << 20, true));
    }
}
