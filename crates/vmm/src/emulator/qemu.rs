//! QEMU's command line for a `microvm` board: no PCI, no ACPI, no firmware tables, eight virtio-mmio slots.
//!
//! Without ACPI the board tells the kernel of its devices on the kernel's command line, from the last slot to the first.
//! Options are those of QEMU 7.2 and later.

use std::ffi::OsString;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use crate::devices::virtio::QUEUE_SIZE;

/// The program, and the Debian package it comes from.
#[cfg(target_arch = "x86_64")]
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
pub(crate) const PACKAGE: &str = "qemu-system-x86";

/// The I/O port by which the guest switches the machine off.
pub const POWER_OFF_PORT: u16 = 0xf4;

/// The byte that a guest writes to [`POWER_OFF_PORT`] to switch the machine off.
pub const POWER_OFF_VALUE: u8 = 0x10;

/// How QEMU exits when the guest switches the machine off. QEMU makes it of the value: twice that, plus one.
pub(crate) const POWER_OFF_EXIT_CODE: i32 = 0x21;

/// Memory for translated code, in MiB. QEMU's default, an eighth of the host's memory, would be filled and kept by a
/// busy guest.
const TRANSLATION_CACHE_MIB: u32 = 128;

/// The frequency of QEMU's local APIC timer.
const LAPIC_TIMER_KHZ: u32 = 1_000_000;

/// The guest kernel's `CONFIG_HZ`.
const TICKS_PER_SECOND: u64 = 100;

/// A device of ours that QEMU only passes on: its type in QEMU's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Blk,
    /// QEMU answers for its configuration space itself.
    Net {
        mac: [u8; 6],
        mtu: u16,
    },
    Vsock,
    Rng,
    /// Served by another process. QEMU answers for its configuration space itself.
    Fs {
        tag: &'static str,
    },
}

impl Kind {
    /// Whether QEMU has to open the socket by its path, as it does for networks: it does not see that one it has
    /// inherited can pass descriptors.
    pub(crate) fn is_opened_by_path(self) -> bool {
        matches!(self, Kind::Net { .. })
    }

    /// The value of `-device`, without its slot. `socket` names the character device that leads to us.
    fn driver(self, socket: &str) -> String {
        match self {
            Kind::Blk => format!("vhost-user-blk,num-queues=1,queue-size={QUEUE_SIZE},chardev={socket}"),
            Kind::Net { mac, mtu } => {
                let [a, b, c, d, e, f] = mac;
                format!(
                    "virtio-net-device,netdev={socket},mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x},\
                     host_mtu={mtu},rx_queue_size={QUEUE_SIZE},tx_queue_size={QUEUE_SIZE}"
                )
            }
            Kind::Vsock => format!("vhost-user-vsock-device,chardev={socket}"),
            Kind::Rng => format!("vhost-user-rng,chardev={socket}"),
            Kind::Fs { tag } => format!(
                "vhost-user-fs-device,tag={tag},num-request-queues=1,queue-size={QUEUE_SIZE},chardev={socket}"
            ),
        }
    }
}

/// A machine in QEMU's terms.
pub(crate) struct Board<'a> {
    pub(crate) cpus: u8,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: &'a Path,
    pub(crate) cmdline: &'a str,
    /// Ticks of the host's time stamp counter in a millisecond, where it is fit to be a clock. The guest sees the same.
    pub(crate) tsc_khz: Option<u64>,
    /// Our sockets, one for the console and one per device; the child inherits them under the same numbers.
    pub(crate) console: BorrowedFd<'a>,
    pub(crate) devices: Vec<Device<'a>>,
}

/// A device of ours in QEMU's terms.
pub(crate) struct Device<'a> {
    pub(crate) kind: Kind,
    /// Inherited in any case: it tells us of QEMU's end.
    pub(crate) socket: BorrowedFd<'a>,
    /// Where to connect to instead.
    pub(crate) path: Option<&'a Path>,
}

impl Board<'_> {
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Arguments(Vec::new());
        arguments.flags(&["-no-user-config", "-nodefaults", "-no-reboot"]);
        arguments.option("-machine", "microvm,acpi=off,memory-backend=memory");
        arguments.option("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_CACHE_MIB}"));
        // A kernel that finds SVM spends 0.1 s on getting ready for machines in the machine. One that finds quick
        // string moves copies by them, and without these a guest's connections carry two thirds more.
        arguments.option("-cpu", "max,-svm,-erms,-fsrm");
        arguments.option("-smp", self.cpus.to_string());
        arguments.option("-m", format!("{}M", self.memory_mib));
        // Shared, so that the devices' process can map it.
        arguments
            .option("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", self.memory_mib));
        arguments.option("-display", "none");
        arguments.option("-monitor", "none");
        // A guest that breaks out of QEMU finds no fork, no exec and no way to more privileges.
        arguments
            .option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        arguments.option("-global", "virtio-mmio.force-legacy=false");
        arguments.option("-device", format!("isa-debug-exit,iobase={POWER_OFF_PORT:#x},iosize=4"));
        arguments.option("-chardev", format!("socket,id=console,fd={}", self.console.as_raw_fd()));
        arguments.option("-serial", "chardev:console");
        // The guest meets the devices in the order given: the first is in the last slot.
        for (slot, Device { kind, socket, path }) in (0..self.devices.len()).rev().zip(&self.devices) {
            let mut chardev = OsString::from(format!("socket,id=device{slot},"));
            match path {
                Some(path) => {
                    chardev.push("path=");
                    chardev.push(value(path));
                }
                None => chardev.push(format!("fd={}", socket.as_raw_fd())),
            }
            arguments.option("-chardev", chardev);
            let socket = format!("device{slot}");
            if let Kind::Net { .. } = kind {
                // Names of network and character devices do not meet.
                arguments.option("-netdev", format!("vhost-user,id={socket},chardev={socket}"));
            }
            arguments.option("-device", format!("{},bus=virtio-mmio-bus.{slot}", kind.driver(&socket)));
        }
        arguments.option("-kernel", self.kernel);
        arguments.option("-append", format!("{} {}", self.emulated_processor(), self.cmdline));
        arguments.0
    }

    /// What the kernel is told of a processor that it cannot measure. It stands first, so that the caller's choice wins.
    fn emulated_processor(&self) -> String {
        // By -no-reboot a reset ends QEMU, and a triple fault is the only one this board knows; a panic shall end the
        // machine as well, instead of halting it for ever. An emulated processor does not speculate.
        let mut parameters = "reboot=t panic=-1 mitigations=off".to_owned();
        // Otherwise the guest measures its timer against another emulated one, and on a busy host finds it useless: then
        // it has 100 interrupts a second to the end of its days.
        parameters += &format!(" lapic_timer_khz={LAPIC_TIMER_KHZ}");
        if let Some(khz) = self.tsc_khz {
            // The same with its clock, which would have steps of a tick.
            parameters += &format!(" tsc=reliable tsc_early_khz={khz} lpj={}", khz * 1000 / TICKS_PER_SECOND);
        }
        parameters
    }
}

/// A path inside an option, where a comma would end it.
fn value(path: &Path) -> OsString {
    let doubled = path.as_os_str().as_bytes().split_inclusive(|byte| *byte == b',');
    let bytes: Vec<u8> = doubled.fold(Vec::new(), |mut bytes, part| {
        bytes.extend_from_slice(part);
        if part.ends_with(b",") {
            bytes.push(b',');
        }
        bytes
    });
    OsString::from_vec(bytes)
}

struct Arguments(Vec<OsString>);

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.extend([name.into(), value.into()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn devices_take_the_slots_from_the_last_to_the_first() {
        let file = tempfile::tempfile().unwrap();
        let fd = file.as_fd();
        let number = fd.as_raw_fd();
        let device = |kind| Device { kind, socket: fd, path: None };
        let board = Board {
            cpus: 2,
            memory_mib: 512,
            kernel: Path::new("/k,1"),
            cmdline: "root=/dev/vda",
            tsc_khz: Some(2_600_000),
            console: fd,
            devices: vec![
                device(Kind::Blk),
                device(Kind::Blk),
                device(Kind::Vsock),
                Device {
                    path: Some(Path::new("/a,b/net")),
                    ..device(Kind::Net { mac: [2, 0, 0, 0, 0, 0xab], mtu: 1500 })
                },
                device(Kind::Rng),
                device(Kind::Fs { tag: "files" }),
            ],
        };
        let arguments: Vec<String> =
            board.arguments().into_iter().map(|argument| argument.into_string().unwrap()).collect();
        let values = |name: &str| -> Vec<&str> {
            arguments.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].as_str()).collect()
        };
        let devices = values("-device");
        assert_eq!(devices.len(), 7);
        assert!(
            devices[2].starts_with("vhost-user-blk,")
                && devices[2].ends_with("chardev=device4,bus=virtio-mmio-bus.4")
        );
        assert!(
            devices[4].starts_with("virtio-net-device,netdev=device2,mac=02:00:00:00:00:ab,host_mtu=1500,")
                && devices[4].ends_with(",bus=virtio-mmio-bus.2")
        );
        assert_eq!(values("-chardev")[4], "socket,id=device2,path=/a,,b/net");
        assert_eq!(values("-netdev"), ["vhost-user,id=device2,chardev=device2"]);
        assert_eq!(devices[5], "vhost-user-rng,chardev=device1,bus=virtio-mmio-bus.1");
        assert!(
            devices[6].starts_with("vhost-user-fs-device,tag=files,num-request-queues=1,")
                && devices[6].ends_with("chardev=device0,bus=virtio-mmio-bus.0")
        );
        assert_eq!(values("-chardev")[0], format!("socket,id=console,fd={number}"));
        assert_eq!(
            values("-append"),
            ["reboot=t panic=-1 mitigations=off lapic_timer_khz=1000000 tsc=reliable tsc_early_khz=2600000 \
              lpj=26000000 root=/dev/vda"]
        );
        assert_eq!(values("-kernel"), ["/k,1"]);
    }

    #[test]
    fn the_exit_code_is_that_of_the_value() {
        assert_eq!(POWER_OFF_EXIT_CODE, i32::from(POWER_OFF_VALUE) << 1 | 1);
    }
}
