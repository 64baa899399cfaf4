//! The machine's way out: its network card gets an address, a route and name servers by DHCP.
//!
//! It goes on beside everything else: neither the engine nor the host waits for it, and a machine without a network is
//! still one.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with, sockopt,
};

use wire::network::CARD;

use super::dhcp::{self, Kind, Lease};
use super::interface::Interface;

const RESOLV_CONF: &str = "/run/resolv.conf";

/// How long an answer may take at first; twice as long each time, up to the last.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);
const LAST_PATIENCE: Duration = Duration::from_secs(60);

/// Sets the network up on a thread of its own.
pub(crate) fn set_up() {
    let started = thread::Builder::new().name("network".to_owned()).spawn(|| match configure() {
        Ok(Some(lease)) => {
            tracing::info!("network: {} by {}", lease.address, lease.server);
        }
        Ok(None) => tracing::info!("this machine has no network card"),
        Err(error) => tracing::error!("no network: {error:#}"),
    });
    if let Err(error) = started {
        tracing::error!("no network: cannot start a thread: {error}");
    }
}

/// Brings the card up and gives it what the server says. `None` if there is no card.
fn configure() -> Result<Option<Lease>> {
    if !Path::new("/sys/class/net").join(CARD).exists() {
        return Ok(None);
    }
    // Once the engine has this machine forward IPv6 for its networks, the kernel would no longer listen to routers.
    if let Err(error) = fs::write(format!("/proc/sys/net/ipv6/conf/{CARD}/accept_ra"), "2") {
        tracing::warn!("IPv6 may be lost with the first network: {error}");
    }
    let card = Interface::new(CARD).context("no socket to set the network card up with")?;
    card.up().with_context(|| format!("cannot set {CARD} up"))?;
    let hardware = card.hardware_address().with_context(|| format!("{CARD} has no Ethernet address"))?;
    let lease = ask(hardware)?;
    if let Some(mtu) = lease.mtu {
        card.set_mtu(mtu).with_context(|| format!("cannot set {CARD}'s MTU to {mtu}"))?;
    }
    card.set_address(lease.address, lease.netmask)
        .with_context(|| format!("cannot give {CARD} the address {}", lease.address))?;
    if let Some(router) = lease.router {
        card.add_default_route(router).with_context(|| format!("cannot route by {router}"))?;
    }
    write_resolv_conf(&lease).with_context(|| format!("cannot write {RESOLV_CONF}"))?;
    Ok(Some(lease))
}

/// A socket that hears what is sent to everyone on the card's link.
fn socket() -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    bind_to_device(&socket, CARD)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, dhcp::CLIENT_PORT))?;
    Ok(socket)
}

/// Without an address there are no routes: packets go out and come in by the card and nowhere else (socket(7)).
fn bind_to_device(socket: &OwnedFd, name: &str) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let len = libc::socklen_t::try_from(name.len()).map_err(io::Error::other)?;
    // SAFETY: the option's value is `len` bytes of a name that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            name.as_ptr().cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks until a server has given an address.
fn ask(hardware: [u8; 6]) -> Result<Lease> {
    let socket = socket().context("no socket for DHCP")?;
    let mut patience = FIRST_PATIENCE;
    loop {
        // Tells answers to earlier questions from those to this one.
        let mut transaction = [0; 4];
        fs::File::open("/dev/urandom")
            .and_then(|mut random| io::Read::read_exact(&mut random, &mut transaction))
            .context("no random numbers")?;
        let transaction = u32::from_be_bytes(transaction);
        let offer =
            exchange(&socket, &dhcp::discover(transaction, hardware), transaction, hardware, patience)?;
        if let Some((Kind::Offer, offer)) = offer {
            let request = dhcp::request(transaction, hardware, &offer);
            match exchange(&socket, &request, transaction, hardware, patience)? {
                Some((Kind::Ack, lease)) => return Ok(lease),
                Some((Kind::Nak, _)) => tracing::warn!("the DHCP server took its offer back"),
                _ => {}
            }
        }
        if patience == FIRST_PATIENCE {
            tracing::warn!("no answer from a DHCP server yet");
        }
        patience = (patience * 2).min(LAST_PATIENCE);
    }
}

/// Sends a message and waits for an answer to it.
fn exchange(
    socket: &OwnedFd,
    message: &[u8],
    transaction: u32,
    hardware: [u8; 6],
    patience: Duration,
) -> Result<Option<(Kind, Lease)>> {
    let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, dhcp::SERVER_PORT);
    sendto(socket, message, SendFlags::empty(), &everyone).context("cannot send to a DHCP server")?;
    let deadline = Instant::now() + patience;
    let mut bytes = [0; dhcp::MESSAGE_BYTES];
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Ok(None);
        }
        // A time of zero would mean for ever, which `rest` is not.
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(rest))?;
        match recv(socket, &mut bytes, RecvFlags::empty()) {
            Ok((_, len)) => {
                let answer = bytes.get(..len).and_then(|bytes| dhcp::parse(bytes, transaction, hardware));
                if answer.is_some() {
                    return Ok(answer);
                }
            }
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => bail!("cannot receive from a DHCP server: {error}"),
        }
    }
}

/// Replaces the file whole: programs read it at any time.
fn write_resolv_conf(lease: &Lease) -> io::Result<()> {
    let mut text = String::new();
    for server in &lease.name_servers {
        text += &format!("nameserver {server}\n");
    }
    if !lease.search.is_empty() {
        text += &format!("search {}\n", lease.search.join(" "));
    }
    let draft = format!("{RESOLV_CONF}.new");
    fs::File::create(&draft)?.write_all(text.as_bytes())?;
    fs::rename(&draft, RESOLV_CONF)
}
