//! Sockets and waiting on Linux.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

pub(crate) use rustix::event::epoll::Event;

const CLOSED_AND_NON_BLOCKING: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

fn socket(address: IpAddr, kind: SocketType, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(rustix::net::socket_with(family, kind, CLOSED_AND_NON_BLOCKING, protocol)?)
}

/// Begins a connection. It has come about, or failed, when the socket becomes writable: see [`outcome`].
pub(crate) fn dial(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address.ip(), SocketType::STREAM, None)?;
    // The guest has decided already what makes a packet.
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Two ends of a stream within this process.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, CLOSED_AND_NON_BLOCKING, None)?)
}

/// What became of a connection that was begun.
pub(crate) fn outcome(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::socket_error(socket)??)
}

/// Whether a connection has come about.
pub(crate) fn is_connected(socket: impl AsFd) -> bool {
    rustix::net::getpeername(socket).is_ok()
}

/// A socket for datagrams to and from one address.
pub(crate) fn datagram(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket(address.ip(), SocketType::DGRAM, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// A socket for pings to one address (icmp(7), "ping sockets"): whole ICMP messages go in and come out, with an
/// identifier of the kernel's. Fails with `PermissionDenied` where `net.ipv4.ping_group_range` leaves this process out.
pub(crate) fn ping(address: IpAddr) -> io::Result<OwnedFd> {
    let protocol = if address.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
    let socket = socket(address, SocketType::DGRAM, Some(protocol))?;
    rustix::net::connect(&socket, &SocketAddr::new(address, 0))?;
    Ok(socket)
}

/// Whether the kernel knows a way to the IPv6 internet. Nothing is sent.
pub(crate) fn has_ipv6() -> bool {
    // Any address of those that are routed globally (2000::/3) will do.
    datagram(SocketAddr::new(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1).into(), 9)).is_ok()
}

/// The host's own loopback address of the kind of `address`, and then the other one.
pub(crate) fn loopback(address: IpAddr) -> [IpAddr; 2] {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    if address.is_ipv4() { [v4, v6] } else { [v6, v4] }
}

/// Sends what the socket takes now.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| {
        rustix::net::send(&socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    })?)
}

/// Receives what the socket has now. Of a datagram that is longer than `bytes`, the true length is returned.
pub(crate) fn receive(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    let (_, len) = rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut *bytes, flags))?;
    Ok(len)
}

/// Receives bytes of a stream.
pub(crate) fn receive_stream(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<usize> {
    let (len, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut *bytes, RecvFlags::DONTWAIT))?;
    Ok(len)
}

/// Tells the other end that no more will come.
pub(crate) fn shut_writing(socket: impl AsFd) {
    // Fails only when the connection is gone, which the next receive tells.
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
}

/// Closes a connection with a reset.
pub(crate) fn reset(socket: OwnedFd) {
    // If it fails, the close is an ordinary one.
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
}

/// The limit of this process's open files.
pub(crate) fn open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// The kernel hands out memory in pieces of so many bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: it takes a number and touches no memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    // The kernel knows it.
    usize::try_from(size).unwrap_or(65_536)
}

/// Memory that costs nothing until it is written to, and is the kernel's again when this is dropped. What the allocator
/// hands out it may have to fill with zeroes first, which for a connection's buffers would be most of the work of a short
/// one.
pub(crate) struct Pages {
    start: *mut std::ffi::c_void,
    len: usize,
}

// SAFETY: it is plain memory, owned by this value alone.
unsafe impl Send for Pages {}

impl Pages {
    /// `len` bytes, all zero; more than none.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start =
            unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let pages = Pages { start, len };
        // A huge page would be taken whole for a single byte. A kernel that has none refuses, which is as good.
        // SAFETY: the advice changes how memory is taken, not what it holds.
        let _ = unsafe { madvise(pages.start, pages.len, Advice::LinuxNoHugepage) };
        Ok(pages)
    }

    /// Gives memory back until it is written to again; it is all zero then. Both numbers MUST be multiples of the page
    /// size.
    ///
    /// # Safety
    /// What was given out of these bytes may not be read any more before it is written to.
    pub(crate) unsafe fn give_back(&self, start: usize, len: usize) -> io::Result<()> {
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the range is this mapping's, and stays mapped; that its bytes change is the caller's promise.
        unsafe { madvise(self.start.wrapping_byte_add(start), len, Advice::LinuxDontNeed) }?;
        Ok(())
    }

    /// Bytes that the kernel has taken memory for.
    #[cfg(test)]
    pub(crate) fn resident(&self) -> usize {
        let page = page_size();
        let mut pages = vec![0_u8; self.len.div_ceil(page)];
        // SAFETY: the mapping is this value's, and there is a byte for each of its pages.
        let result = unsafe { libc::mincore(self.start, self.len, pages.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        pages.iter().filter(|page| *page & 1 != 0).count() * page
    }

    /// The bytes.
    ///
    /// # Safety
    /// Of what was given out before, and of what is given out now, nothing may be used any more when it is called again
    /// or this value is dropped.
    pub(crate) unsafe fn bytes(&mut self) -> &'static mut [u8] {
        // SAFETY: the mapping has `len` initialised bytes; that nothing else refers to them and that they last as long as
        // the reference is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and by the promise of `bytes` nothing refers to it any more.
        let unmapped = unsafe { munmap(self.start, self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping cannot be given back");
    }
}

/// An epoll instance: many descriptors in one.
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Watch(epoll::create(CreateFlags::CLOEXEC)?))
    }

    pub(crate) fn as_owned(&self) -> &OwnedFd {
        &self.0
    }

    /// Tells of each time when the descriptor becomes readable or writable. Ends when the descriptor is closed.
    pub(crate) fn changes(&self, descriptor: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.0, descriptor, EventData::new_u64(token), flags)?)
    }

    /// Tells as long as the descriptor is readable.
    pub(crate) fn readable(&self, descriptor: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.0, descriptor, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Fills `events` with what there is to tell. Without a time-out it waits.
    pub(crate) fn wait(&self, events: &mut [Event], timeout: Option<Duration>) -> io::Result<usize> {
        let timeout = timeout.map(timespec);
        match epoll::wait(&self.0, events, timeout.as_ref()) {
            Err(Errno::INTR) => Ok(0),
            result => Ok(result?),
        }
    }
}

/// An event that nothing has filled in yet.
pub(crate) fn no_event() -> Event {
    Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }
}

/// What an event tells: whose, whether there may be something to read, and room to write.
pub(crate) fn told(event: &Event) -> (u64, bool, bool) {
    // The structure is packed: copy before use.
    let (flags, token) = (event.flags, event.data.u64());
    let over = flags.intersects(EventFlags::ERR | EventFlags::HUP);
    (
        token,
        over || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
        over || flags.contains(EventFlags::OUT),
    )
}

/// Makes a descriptor readable from any thread. Watch it for changes: it stays readable.
pub(crate) struct Bell(OwnedFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    pub(crate) fn as_owned(&self) -> &OwnedFd {
        &self.0
    }

    pub(crate) fn ring(&self) {
        // It fails only when it was rung 2⁶⁴ times.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// A timer that makes a descriptor readable.
pub(crate) struct Timer(OwnedFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Timer(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    pub(crate) fn as_owned(&self) -> &OwnedFd {
        &self.0
    }

    pub(crate) fn set(&self, after: Duration) -> io::Result<()> {
        // Zero would stop it.
        let it_value = timespec(after.max(Duration::from_nanos(1)));
        let value = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &value)?;
        Ok(())
    }

    /// Makes it unreadable until it expires again.
    pub(crate) fn clear(&self) {
        // It fails only when the timer has not expired.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}
