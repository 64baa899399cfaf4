//! The means of running virtual CPUs: which there are on this host, and which one a machine gets.
//!
//! Today there is one, the emulator. A hypervisor becomes a module here: KVM, later Apple's.

use std::fmt;

use crate::config::Accel;

#[cfg(target_os = "linux")]
mod kvm;

/// A means of running virtual CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Accelerator {
    /// QEMU translates every instruction. Works everywhere, some ten times slower than the real thing.
    Qemu,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Accelerator::Qemu => f.pad("qemu"),
        }
    }
}

/// What a machine gets, and why: for the user to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    pub accelerator: Accelerator,
    /// A sentence without a full stop, such as "/dev/kvm is present but the CPU has neither vmx nor svm".
    pub reason: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.accelerator, self.reason)
    }
}

/// Why KVM cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvmUnusable {
    #[error(
        "/dev/kvm is missing although the CPU can virtualise: load the kernel module kvm_intel or kvm_amd"
    )]
    NoDevice,
    #[error("/dev/kvm is missing and the CPU has neither vmx nor svm")]
    NoDeviceNoCpuFlags,
    #[error("/dev/kvm is present but the CPU has neither vmx nor svm")]
    NoCpuFlags,
    #[error("/dev/kvm may not be opened: add this user to its group (kvm)")]
    NoPermission,
    #[error("/dev/kvm cannot be opened (error {errno})")]
    Broken { errno: i32 },
    #[error("KVM speaks API version {version}, not 12")]
    ApiVersion { version: i32 },
}

/// The accelerator that was asked for is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("KVM was asked for and cannot be used: {0}")]
    KvmUnusable(KvmUnusable),
    #[error(
        "KVM was asked for and is not built yet: this version runs CPUs in QEMU only (--accel auto or qemu)"
    )]
    KvmNotBuilt,
}

/// Chooses a means of running CPUs. Never hangs: it looks, and runs nothing.
pub fn probe(accel: Accel) -> Result<Choice, ProbeError> {
    if accel == Accel::Qemu {
        return choose(accel, Ok(()));
    }
    choose(accel, check_kvm())
}

#[cfg(target_os = "linux")]
fn check_kvm() -> Result<(), KvmUnusable> {
    kvm::check()
}

fn choose(accel: Accel, kvm: Result<(), KvmUnusable>) -> Result<Choice, ProbeError> {
    let reason = match (accel, kvm) {
        (Accel::Qemu, _) => "asked for".to_owned(),
        (Accel::Auto, Err(why)) => why.to_string(),
        (Accel::Auto, Ok(())) => "KVM looks usable, but this version runs CPUs in QEMU only".to_owned(),
        (Accel::Kvm, Err(why)) => return Err(ProbeError::KvmUnusable(why)),
        (Accel::Kvm, Ok(())) => return Err(ProbeError::KvmNotBuilt),
    };
    Ok(Choice { accelerator: Accelerator::Qemu, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_says_why_kvm_was_not_chosen() {
        let choice = choose(Accel::Auto, Err(KvmUnusable::NoCpuFlags)).unwrap();
        assert_eq!(choice.to_string(), "qemu: /dev/kvm is present but the CPU has neither vmx nor svm");
        assert!(choose(Accel::Auto, Ok(())).unwrap().reason.contains("QEMU only"));
    }

    #[test]
    fn kvm_is_never_replaced_silently() {
        assert!(matches!(choose(Accel::Kvm, Ok(())), Err(ProbeError::KvmNotBuilt)));
        let refused = choose(Accel::Kvm, Err(KvmUnusable::NoPermission)).unwrap_err();
        assert!(refused.to_string().contains("group"), "{refused}");
    }

    #[test]
    fn the_emulator_can_always_be_had() {
        assert_eq!(probe(Accel::Qemu).unwrap().to_string(), "qemu: asked for");
        assert_eq!(probe(Accel::Auto).unwrap().accelerator, Accelerator::Qemu);
    }
}
