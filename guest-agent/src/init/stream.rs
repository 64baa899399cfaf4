//! A byte stream to the host, and the vsock port where such streams arrive.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

/// Connections the kernel keeps for us to accept.
const BACKLOG: libc::c_int = 128;

/// One end of a connected stream socket, of whatever family.
pub(crate) struct Stream(OwnedFd);

impl Stream {
    /// Connects to a vsock port; the kernel gives up after 2 s. vsock(7).
    pub(crate) fn connect(cid: u32, port: u32) -> io::Result<Stream> {
        let socket = vsock_socket()?;
        let (address, length) = vsock_address(cid, port);
        // SAFETY: the address is valid for its length, and the call only reads it.
        match unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) } {
            0 => Ok(Stream(socket)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Ends a blocking read that takes longer; `None` lets it block for ever.
    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Recv, timeout)?)
    }

    /// Ends a blocking write that takes longer.
    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.0, Timeout::Send, timeout)?)
    }

    /// Reads what is there, or fails with `WouldBlock`.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buffer, RecvFlags::DONTWAIT)?.1)
    }

    /// Writes what fits, or fails with `WouldBlock`.
    pub(crate) fn write_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    /// Tells the peer that nothing more comes.
    pub(crate) fn finish(&self) -> io::Result<()> {
        Ok(shutdown(&self.0, Shutdown::Write)?)
    }

    /// Ends both directions; who reads at this end reads no more.
    pub(crate) fn end(&self) -> io::Result<()> {
        Ok(shutdown(&self.0, Shutdown::Both)?)
    }
}

impl From<OwnedFd> for Stream {
    fn from(socket: OwnedFd) -> Stream {
        Stream(socket)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(&self.0, buffer, RecvFlags::empty())?.1)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A vsock port of this machine. vsock(7).
pub(crate) struct VsockListener(OwnedFd);

impl VsockListener {
    pub(crate) fn bind(port: u32) -> io::Result<VsockListener> {
        let socket = vsock_socket()?;
        let (address, length) = vsock_address(libc::VMADDR_CID_ANY, port);
        // SAFETY: the address is valid for its length, and both calls only read it.
        let result = unsafe {
            match libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) {
                0 => libc::listen(socket.as_raw_fd(), BACKLOG),
                error => error,
            }
        };
        if result == 0 { Ok(VsockListener(socket)) } else { Err(io::Error::last_os_error()) }
    }

    /// Blocks until a peer connects; gives its stream and its context id.
    pub(crate) fn accept(&self) -> io::Result<(Stream, u32)> {
        // SAFETY: all zeroes is a valid sockaddr_vm; `accept4` writes at most `length` bytes to it.
        let (fd, peer) = unsafe {
            let mut peer: libc::sockaddr_vm = std::mem::zeroed();
            let mut length = size_of_val(&peer) as libc::socklen_t;
            let fd = libc::accept4(
                self.0.as_raw_fd(),
                (&raw mut peer).cast(),
                &raw mut length,
                libc::SOCK_CLOEXEC,
            );
            (fd, peer)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `accept4` has just returned this descriptor, and nothing else owns it.
        Ok((Stream(unsafe { OwnedFd::from_raw_fd(fd) }), peer.svm_cid))
    }
}

fn vsock_socket() -> io::Result<OwnedFd> {
    // SAFETY: `socket` takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `socket` has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An address and its length in bytes.
fn vsock_address(cid: u32, port: u32) -> (libc::sockaddr_vm, libc::socklen_t) {
    // SAFETY: all zeroes is a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_cid = cid;
    address.svm_port = port;
    (address, size_of_val(&address) as libc::socklen_t)
}
