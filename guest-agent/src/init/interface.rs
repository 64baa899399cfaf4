//! Network interfaces, by the requests of netdevice(7) and rtnetlink's elders: few, and each one call.

use std::io;
use std::mem::zeroed;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// linux/sockios.h.
const SIOCADDRT: libc::Ioctl = 0x890b;
/// linux/route.h: the route is to be used, and leads to a router.
const RTF_UP_AND_GATEWAY: libc::c_ushort = 0x3;

/// An interface of this network namespace.
pub(crate) struct Interface {
    socket: OwnedFd,
    name: &'static str,
}

impl Interface {
    pub(crate) fn new(name: &'static str) -> io::Result<Interface> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Interface { socket, name })
    }

    /// A request with the interface's name.
    fn request(&self) -> libc::ifreq {
        // SAFETY: all zeroes is a valid ifreq.
        let mut request: libc::ifreq = unsafe { zeroed() };
        // The last byte stays zero.
        let room = request.ifr_name.len() - 1;
        for (to, from) in request.ifr_name[..room].iter_mut().zip(self.name.bytes()) {
            *to = from.cast_signed();
        }
        request
    }

    fn call(&self, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the requests made here take an ifreq, which they read and write; its name ends with a zero byte.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), number, &raw mut *request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sets it up, so that it carries packets.
    pub(crate) fn up(&self) -> io::Result<()> {
        let mut request = self.request();
        self.call(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the call has just filled in this member.
        unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
        self.call(libc::SIOCSIFFLAGS, &mut request)
    }

    /// Its Ethernet address.
    pub(crate) fn hardware_address(&self) -> io::Result<[u8; 6]> {
        let mut request = self.request();
        self.call(libc::SIOCGIFHWADDR, &mut request)?;
        // SAFETY: the call has just filled in this member.
        let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
        Ok([data[0], data[1], data[2], data[3], data[4], data[5]].map(i8::cast_unsigned))
    }

    /// Gives it an address in a network.
    pub(crate) fn set_address(&self, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_addr = socket_address(address);
        self.call(libc::SIOCSIFADDR, &mut request)?;
        request.ifr_ifru.ifru_netmask = socket_address(netmask);
        self.call(libc::SIOCSIFNETMASK, &mut request)
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = mtu.into();
        self.call(libc::SIOCSIFMTU, &mut request)
    }

    /// Leads everything that is not on a network of this machine's through it to `router`.
    pub(crate) fn add_default_route(&self, router: Ipv4Addr) -> io::Result<()> {
        let mut name = self.request().ifr_name;
        // SAFETY: all zeroes is a valid rtentry: an IPv4 address of zeroes and a mask of zeroes are every network.
        let mut route: libc::rtentry = unsafe { zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(router);
        route.rt_flags = RTF_UP_AND_GATEWAY;
        route.rt_dev = name.as_mut_ptr();
        // SAFETY: the request takes an rtentry and reads it; the name it points to lives until then.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCADDRT, &raw const route) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// `struct sockaddr_in` without a port, as a `struct sockaddr` (ip(7)).
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from.cast_signed();
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}
