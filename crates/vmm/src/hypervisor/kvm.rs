//! Whether this host's KVM can be used: the device, and the hardware behind it.
//!
//! A device is not enough. Some hosts, virtual machines themselves, offer /dev/kvm on a CPU that cannot virtualise; a
//! guest then crawls, or dies at the first instruction that their emulation does not know.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;

use super::KvmUnusable;

/// KVM_GET_API_VERSION, `_IO(0xAE, 0x00)` of linux/kvm.h. Takes no argument.
const GET_API_VERSION: libc::c_ulong = 0xae00;

/// The only version there ever was; the kernel's documentation asks callers to refuse others.
const API_VERSION: libc::c_int = 12;

/// Says why KVM cannot be used, if it cannot.
pub(super) fn check() -> Result<(), KvmUnusable> {
    let device = open_device();
    // The flags of a CPU that can virtualise but is not allowed to (by the firmware) are hidden by the kernel.
    let cpu = if cfg!(target_arch = "x86_64") {
        fs::read_to_string("/proc/cpuinfo").is_ok_and(|cpuinfo| has_virtualisation_flag(&cpuinfo))
    } else {
        true
    };
    judge(device, cpu)
}

/// The API version of /dev/kvm.
fn open_device() -> io::Result<i32> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: the request takes no argument and touches no memory of ours.
    match unsafe { libc::ioctl(kvm.as_raw_fd(), GET_API_VERSION, 0) } {
        -1 => Err(io::Error::last_os_error()),
        version => Ok(version),
    }
}

fn has_virtualisation_flag(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .flat_map(str::split_whitespace)
        .any(|flag| matches!(flag, "vmx" | "svm"))
}

fn judge(device: io::Result<i32>, cpu: bool) -> Result<(), KvmUnusable> {
    match device {
        Ok(API_VERSION) if cpu => Ok(()),
        Ok(API_VERSION) => Err(KvmUnusable::NoCpuFlags),
        Ok(version) => Err(KvmUnusable::ApiVersion { version }),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound if cpu => KvmUnusable::NoDevice,
            io::ErrorKind::NotFound => KvmUnusable::NoDeviceNoCpuFlags,
            io::ErrorKind::PermissionDenied => KvmUnusable::NoPermission,
            _ => KvmUnusable::Broken { errno: error.raw_os_error().unwrap_or(0) },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words_of_the_flags_lines() {
        assert!(has_virtualisation_flag("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation_flag("flags\t\t: fpu svm\n"));
        assert!(!has_virtualisation_flag("flags\t\t: fpu svm_lock vmxoff\n"));
        assert!(!has_virtualisation_flag("model name\t: vmx 3000\nvmx flags\t: vnmi\nflags\t\t: fpu\n"));
    }

    #[test]
    fn each_obstacle_has_its_name() {
        let error = |kind: io::ErrorKind| Err(io::Error::from(kind));
        assert_eq!(judge(Ok(12), true), Ok(()));
        assert_eq!(judge(Ok(12), false), Err(KvmUnusable::NoCpuFlags));
        assert_eq!(judge(Ok(11), true), Err(KvmUnusable::ApiVersion { version: 11 }));
        assert_eq!(judge(error(io::ErrorKind::NotFound), true), Err(KvmUnusable::NoDevice));
        assert_eq!(judge(error(io::ErrorKind::NotFound), false), Err(KvmUnusable::NoDeviceNoCpuFlags));
        assert_eq!(judge(error(io::ErrorKind::PermissionDenied), true), Err(KvmUnusable::NoPermission));
        let busy = Err(io::Error::from_raw_os_error(libc::EBUSY));
        assert_eq!(judge(busy, true), Err(KvmUnusable::Broken { errno: libc::EBUSY }));
    }
}
