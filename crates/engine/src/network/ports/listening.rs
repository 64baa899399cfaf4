//! What listens in this machine's own network, and is no program of ours: containers with `--network host`.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
};

use super::{Protocol, dynamic_range};
use crate::network::netlink::{Message, Socket, attributes};

/// `sock_diag(7)`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
const INET_DIAG_CGROUP_ID: u16 = 21;
/// Of TCP.
const LISTEN: u32 = 10;
/// Of a UDP socket that is bound and takes what comes from anyone.
const CLOSE: u32 = 7;
/// Bytes of an `inet_diag_msg` before its attributes.
const FIXED: usize = 72;

/// Somebody listens here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listener {
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
}

/// A socket as the kernel describes it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    address: SocketAddr,
    /// Of an IPv6 socket: it takes no IPv4.
    only_v6: bool,
    /// The number of the control group that it was made in.
    group: u64,
}

/// Everyone who listens, but this machine's own programs.
pub(super) fn by_containers() -> io::Result<BTreeSet<Listener>> {
    let ours: Vec<u64> = ["self", "1"].into_iter().filter_map(group_of).collect();
    let dynamic = dynamic_range();
    let mut kernel = Socket::diagnostics()?;
    let mut listeners = BTreeSet::new();
    for (protocol, state) in [(Protocol::Tcp, LISTEN), (Protocol::Udp, CLOSE)] {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let sockets = kernel.dump(request(family, protocol, state))?;
            for socket in sockets.iter().filter_map(|socket| describe(socket)) {
                let port = socket.address.port();
                // A client's UDP socket looks like a server's, but for the port that the kernel gave it.
                let client = protocol == Protocol::Udp && (dynamic.0..=dynamic.1).contains(&port);
                if port != 0 && !client && !ours.contains(&socket.group) {
                    listeners.extend(socket.addresses().map(|address| Listener { protocol, address }));
                }
            }
        }
    }
    Ok(listeners)
}

impl Described {
    /// Where it listens, as two sockets of one family each would.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let any_v4 = (self.address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !self.only_v6)
            .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.address.port())));
        [self.address].into_iter().chain(any_v4)
    }
}

/// An `inet_diag_req_v2` that asks for all sockets of a kind.
fn request(family: i32, protocol: Protocol, state: u32) -> Message {
    let family = u8::try_from(family).unwrap_or_default();
    let mut fixed = vec![family, protocol.number(), 0, 0];
    fixed.extend((1u32 << state).to_ne_bytes());
    // Which socket: any.
    fixed.extend([0; 48]);
    Message::new(SOCK_DIAG_BY_FAMILY, 0).put(&fixed)
}

/// Reads an `inet_diag_msg`.
fn describe(message: &[u8]) -> Option<Described> {
    let family = i32::from(*message.first()?);
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address = message.get(8..24)?;
    let address: IpAddr = match family {
        libc::AF_INET => <[u8; 4]>::try_from(address.get(..4)?).ok()?.into(),
        libc::AF_INET6 => <[u8; 16]>::try_from(address).ok()?.into(),
        _ => return None,
    };
    let (mut only_v6, mut group) = (false, 0);
    for (kind, value) in attributes(message, FIXED) {
        match kind {
            INET_DIAG_SKV6ONLY => only_v6 = value != [0],
            INET_DIAG_CGROUP_ID => group = u64::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    Some(Described { address: SocketAddr::new(address, port), only_v6, group })
}

/// The number of a process's control group: that of its directory. `cgroups(7)`.
fn group_of(pid: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(fs::metadata(format!("/sys/fs/cgroup{path}")).ok()?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(family: i32, port: u16, address: &[u8], only_v6: u8) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(family).unwrap(), 10, 0, 0];
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(address);
        bytes.resize(FIXED, 0);
        bytes.extend([5, 0, 11, 0, only_v6, 0, 0, 0]);
        bytes.extend([12, 0, 21, 0]);
        bytes.extend(77u64.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_socket_of_both_families_listens_twice() {
        let both = describe(&message(libc::AF_INET6, 80, &[0; 16], 0)).unwrap();
        assert_eq!(both.group, 77);
        let addresses: Vec<String> = both.addresses().map(|address| address.to_string()).collect();
        assert_eq!(addresses, ["[::]:80", "0.0.0.0:80"]);
        let one = describe(&message(libc::AF_INET6, 80, &[0; 16], 1)).unwrap();
        assert_eq!(one.addresses().count(), 1);
        let v4 = describe(&message(libc::AF_INET, 53, &[127, 0, 0, 1], 0)).unwrap();
        assert_eq!(v4.addresses().collect::<Vec<_>>(), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn what_is_cut_short_is_no_socket() {
        let whole = message(libc::AF_INET6, 80, &[1; 16], 0);
        for length in 0..24 {
            assert_eq!(describe(&whole[..length]), None);
        }
        assert_eq!(describe(&message(libc::AF_UNIX, 80, &[0; 16], 0)), None);
    }
}
