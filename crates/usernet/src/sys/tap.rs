//! A network on a TAP interface: for namespaces, and to measure without a machine.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use crate::frames::{FRAME_BYTES, Frames, HEADER_BYTES, Offloads};
use crate::network::{Network, Progress};
use crate::sys::{Watch, no_event};

/// A TAP interface with virtio-net headers (Documentation/networking/tuntap.rst).
pub struct Tap(File);

impl Tap {
    /// Makes the interface `name` in the calling thread's network namespace. It needs CAP_NET_ADMIN there; the TAP stays
    /// there whatever the thread does then.
    pub fn open(name: &str) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interface's name is too long"));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        request.ifr_ifru.ifru_flags =
            libc::c_short::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let offloads = libc::c_ulong::from(libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6);
        let bytes = libc::c_int::try_from(HEADER_BYTES).unwrap_or(12);
        // SAFETY: the first takes an ifreq, whose name ends with a zero byte; the second a number; the third an int.
        let results = unsafe {
            [
                libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request),
                libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads),
                libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes),
            ]
        };
        if results.iter().any(|result| *result < 0) { Err(io::Error::last_os_error()) } else { Ok(Tap(file)) }
    }
}

impl Frames for Tap {
    fn receive(&mut self, frame: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.0.read(frame) {
                Ok(len) => return Ok(Some(len)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        match self.0.write(frame) {
            Ok(_) => Ok(true),
            // The interface is down, or the kernel short of memory: a lost frame.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::ENOMEM | libc::ENOBUFS)) => {
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn offloads(&self) -> Offloads {
        Offloads { checksum: true, tso4: true, tso6: true }
    }
}

/// Serves a network on a TAP interface until that fails, which is when its namespace ends.
pub fn run_on_tap(network: &mut Network, tap: &mut Tap) -> io::Result<()> {
    const NETWORK: u64 = 0;
    const TAP: u64 = 1;
    const { assert!(FRAME_BYTES > 65_535) };
    let watch = Watch::new()?;
    watch.readable(network.event_source(), NETWORK)?;
    watch.readable(&tap.0, TAP)?;
    let mut events = [no_event(); 2];
    loop {
        while network.exchange(tap)? == Progress::Again {}
        watch.wait(&mut events, None)?;
    }
}
