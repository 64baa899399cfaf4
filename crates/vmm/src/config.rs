//! What a machine is made of.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;

use crate::devices::virtio::blk::ID_BYTES;
use crate::devices::virtio::net;

/// A machine to be started.
#[derive(Debug)]
pub struct VmConfig {
    /// Virtual CPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Memory in MiB, [`MIN_MEMORY_MIB`] at least.
    pub memory_mib: u64,
    /// An uncompressed x86-64 kernel (`vmlinux`, ELF with the PVH entry) or a `bzImage`.
    pub kernel: PathBuf,
    /// The kernel's command line: console, root and init are the caller's choice. The serial console is `ttyS0`, disks
    /// are `vda`, `vdb`, … in order. For a reboot to end the machine it needs `reboot=t` ([`Vm`](crate::Vm) says why);
    /// what tells the kernel of its devices is appended.
    pub cmdline: String,
    pub disks: Vec<Disk>,
    pub vsock: Option<VsockConfig>,
    pub net: Option<NetConfig>,
    pub files: Option<FsConfig>,
    /// What the guest writes to its console is appended here; bounded, with one older file beside it
    /// ([`console`](crate::emulator::console)).
    pub console_log: PathBuf,
    /// A directory of mode 0700 for files that live as long as the machine runs. Made if missing.
    pub runtime_dir: PathBuf,
    pub accel: Accel,
}

/// A raw disk image.
#[derive(Debug, Clone)]
pub struct Disk {
    pub path: PathBuf,
    pub read_only: bool,
    /// The serial number that the guest reads (`/sys/block/vd?/serial`), at most 20 bytes.
    pub id: String,
}

/// The socket device.
#[derive(Debug, Clone, Copy)]
pub struct VsockConfig {
    /// The guest's address: 3 or more. It need not differ between machines.
    pub guest_cid: u32,
}

/// The network device.
pub struct NetConfig {
    /// The guest's Ethernet address: a unicast one.
    pub mac: [u8; 6],
    /// The link's MTU, at least 68. What the two sides leave to each other may be longer.
    pub mtu: u16,
    /// Whom the guest's frames go to.
    pub network: Box<dyn net::Network>,
}

impl fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetConfig").field("mac", &self.mac).field("mtu", &self.mtu).finish_non_exhaustive()
    }
}

/// The file system device (section 5.11), which another process serves: it reads what a hostile guest sends, and can be
/// kept from everything but the files.
#[derive(Debug)]
pub struct FsConfig {
    /// By which the guest mounts it, at most 36 bytes.
    pub tag: &'static str,
    /// To that process, which speaks vhost-user ([`serve`](crate::devices::transport::vhost_user::serve)).
    pub socket: UnixStream,
}

/// Which means of running CPUs the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// The best that works on this host.
    #[default]
    Auto,
    Kvm,
    Qemu,
}

impl Accel {
    const NAMES: [(Accel, &str); 3] = [(Accel::Auto, "auto"), (Accel::Kvm, "kvm"), (Accel::Qemu, "qemu")];
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Accel::NAMES.iter().find(|(accel, _)| accel == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

/// A name that is no [`Accel`].
#[derive(Debug, thiserror::Error)]
#[error("unknown accelerator {name:?}: expected auto, kvm or qemu")]
pub struct UnknownAccel {
    pub name: String,
}

impl FromStr for Accel {
    type Err = UnknownAccel;

    fn from_str(name: &str) -> Result<Self, UnknownAccel> {
        let known = Accel::NAMES.iter().find(|(_, known)| *known == name);
        known.map(|(accel, _)| *accel).ok_or_else(|| UnknownAccel { name: name.to_owned() })
    }
}

/// The most CPUs of a machine.
pub const MAX_CPUS: u8 = 64;

/// The least memory a kernel of ours can boot in.
pub const MIN_MEMORY_MIB: u64 = 64;

/// Disks beside the four other devices: the emulated board has eight slots.
pub const MAX_DISKS: usize = 4;

/// The least MTU of IPv4 (RFC 791).
const MIN_MTU: u16 = 68;

/// A machine that cannot be, whatever the host.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{cpus} CPUs: a machine has 1 to {MAX_CPUS}")]
    Cpus { cpus: u8 },
    #[error("{memory_mib} MiB of memory: a machine needs at least {MIN_MEMORY_MIB}")]
    Memory { memory_mib: u64 },
    #[error("{count} disks: a machine has at most {MAX_DISKS}")]
    Disks { count: usize },
    #[error("disk id {id:?} is longer than {ID_BYTES} bytes")]
    DiskId { id: String },
    #[error("guest CID {cid} is reserved")]
    Cid { cid: u32 },
    #[error("a network card cannot have the Ethernet address {mac:x?} and the MTU {mtu}")]
    Net { mac: [u8; 6], mtu: u16 },
    #[error("the kernel command line contains a NUL byte or is longer than 2047 bytes")]
    CommandLine,
}

impl VmConfig {
    /// Checks what can be checked without looking at the host.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(ConfigError::Cpus { cpus: self.cpus });
        }
        // The upper bound only keeps the number of bytes within 64 bits.
        if !(MIN_MEMORY_MIB..1 << 40).contains(&self.memory_mib) {
            return Err(ConfigError::Memory { memory_mib: self.memory_mib });
        }
        if self.disks.len() > MAX_DISKS {
            return Err(ConfigError::Disks { count: self.disks.len() });
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.id.len() > ID_BYTES) {
            return Err(ConfigError::DiskId { id: disk.id.clone() });
        }
        // 0 to 2 are the hypervisor, local and the host; the last is "any" (vsock(7)).
        if let Some(VsockConfig { guest_cid: cid @ (0..=2 | u32::MAX) }) = self.vsock {
            return Err(ConfigError::Cid { cid });
        }
        // The lowest bit marks an address of many.
        if let Some(NetConfig { mac, mtu, .. }) = self.net
            && (mac[0] & 1 != 0 || mtu < MIN_MTU)
        {
            return Err(ConfigError::Net { mac, mtu });
        }
        // COMMAND_LINE_SIZE of x86, which the devices share.
        if self.cmdline.contains('\0') || self.cmdline.len() > 2047 {
            return Err(ConfigError::CommandLine);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> VmConfig {
        VmConfig {
            cpus: 2,
            memory_mib: 512,
            kernel: "/boot/vmlinux".into(),
            cmdline: "console=ttyS0".into(),
            disks: vec![Disk { path: "/disk".into(), read_only: false, id: "data".into() }],
            vsock: Some(VsockConfig { guest_cid: 3 }),
            net: None,
            files: None,
            console_log: "/log".into(),
            runtime_dir: "/run".into(),
            accel: Accel::Auto,
        }
    }

    #[test]
    fn impossible_machines_are_refused() {
        config().validate().unwrap();
        let spoil: [fn(&mut VmConfig); 8] = [
            |c| c.cpus = 0,
            |c| c.cpus = 65,
            |c| c.memory_mib = 63,
            |c| c.memory_mib = u64::MAX,
            |c| c.disks = vec![c.disks[0].clone(); 6],
            |c| c.disks[0].id = "x".repeat(21),
            |c| c.vsock = Some(VsockConfig { guest_cid: 2 }),
            |c| c.cmdline = "a\0b".into(),
        ];
        for (index, spoil) in spoil.into_iter().enumerate() {
            let mut config = config();
            spoil(&mut config);
            assert!(config.validate().is_err(), "case {index}");
        }
    }

    #[test]
    fn accelerators_have_names() {
        for accel in [Accel::Auto, Accel::Kvm, Accel::Qemu] {
            assert_eq!(accel.to_string().parse::<Accel>().unwrap(), accel);
        }
        let error = "hvf".parse::<Accel>().unwrap_err();
        assert_eq!(error.to_string(), "unknown accelerator \"hvf\": expected auto, kvm or qemu");
    }
}
