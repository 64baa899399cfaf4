//! Links, addresses and routes: what this engine asks of rtnetlink.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Socket, attributes};
use crate::network::address::{Mac, Prefix};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_F_NODAD: u8 = 2;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_NOWHERE: u8 = 255;
const RTN_UNICAST: u8 = 1;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;

const IFF_UP: u32 = 1;
/// Bytes of `struct ifinfomsg` and `struct ifaddrmsg`.
const IFINFO: usize = 16;
const IFADDR: usize = 8;

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) struct Interface {
    pub(in crate::network) index: u32,
    pub(in crate::network) name: String,
    pub(in crate::network) kind: String,
    /// What somebody has noted there.
    pub(in crate::network) alias: String,
}

impl Interface {
    /// From what the kernel tells of a link.
    fn read(payload: &[u8]) -> Option<Self> {
        let index = u32::from_ne_bytes(*payload.get(4..8)?.first_chunk()?);
        let get = |wanted| attributes(payload, IFINFO).find(|(kind, _)| *kind == wanted);
        let text = |attribute: Option<(u16, &[u8])>| {
            let text = attribute.map_or(&[][..], |(_, text)| text);
            String::from_utf8_lossy(text).trim_end_matches('\0').to_owned()
        };
        let info = get(IFLA_LINKINFO);
        let kind = info.and_then(|(_, info)| attributes(info, 0).find(|(kind, _)| *kind == IFLA_INFO_KIND));
        Some(Self { index, name: text(get(IFLA_IFNAME)), kind: text(kind), alias: text(get(IFLA_IFALIAS)) })
    }
}

/// A pair of links to be made: one here, in a bridge, and one in another namespace.
#[derive(Debug)]
pub(in crate::network) struct NewVeth<'a> {
    pub(in crate::network) name: &'a str,
    /// The index of the bridge.
    pub(in crate::network) bridge: u32,
    pub(in crate::network) mtu: Option<u32>,
    pub(in crate::network) peer_name: &'a str,
    pub(in crate::network) peer_mac: Mac,
    pub(in crate::network) peer_namespace: BorrowedFd<'a>,
}

/// What a link on another one is, in the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) enum Upper {
    Macvlan { mode: u32 },
    Ipvlan { mode: u16, flags: u16 },
}

/// A link to be made in another namespace, on one that is here.
#[derive(Debug)]
pub(in crate::network) struct NewUpper<'a> {
    pub(in crate::network) name: &'a str,
    pub(in crate::network) kind: Upper,
    /// The index of the link that it is on.
    pub(in crate::network) parent: u32,
    /// One of an `ipvlan` has its parent's.
    pub(in crate::network) mac: Option<Mac>,
    pub(in crate::network) namespace: BorrowedFd<'a>,
}

/// The links of one network namespace.
#[derive(Debug)]
pub(in crate::network) struct Links(Socket);

fn ifinfo(family: u8, index: u32, up: Option<bool>) -> [u8; IFINFO] {
    let mut head = [0; IFINFO];
    head[0] = family;
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = up {
        head[8..12].copy_from_slice(&u32::from(up).to_ne_bytes());
        head[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    head
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

impl Links {
    /// Those of this thread's namespace, wherever they are used from later.
    pub(in crate::network) fn open() -> io::Result<Self> {
        Socket::route().map(Self)
    }

    /// The link of that name; `None` when there is none.
    pub(in crate::network) fn find(&mut self, name: &str) -> io::Result<Option<Interface>> {
        let message = Message::new(RTM_GETLINK, 0).put(&ifinfo(AF_UNSPEC, 0, None)).text(IFLA_IFNAME, name);
        let answer = match self.0.get(message) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            Err(error) => return Err(error),
        };
        Interface::read(&answer.payload).map(Some).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADMSG))
    }

    /// Every link there is.
    pub(in crate::network) fn all(&mut self) -> io::Result<Vec<Interface>> {
        let all = self.0.dump(Message::new(RTM_GETLINK, 0).put(&ifinfo(AF_UNSPEC, 0, None)))?;
        Ok(all.iter().filter_map(|link| Interface::read(link)).collect())
    }

    /// The first IPv4 address of a link.
    pub(in crate::network) fn address_v4(&mut self, index: u32) -> io::Result<Option<Prefix>> {
        let all = self.0.dump(Message::new(RTM_GETADDR, 0).put(&[AF_INET, 0, 0, 0, 0, 0, 0, 0]))?;
        Ok(all.iter().find_map(|address| {
            let head: &[u8; IFADDR] = address.first_chunk()?;
            let (_, local) = attributes(address, IFADDR).find(|(kind, _)| *kind == IFA_LOCAL)?;
            let local: [u8; 4] = local.try_into().ok()?;
            (head[4..] == index.to_ne_bytes()).then(|| Prefix::new(local.into(), head[1]))
        }))
    }

    /// Notes something at a link.
    pub(in crate::network) fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, 0).put(&ifinfo(AF_UNSPEC, index, None));
        self.0.request(message.bytes(IFLA_IFALIAS, alias.as_bytes()))
    }

    /// Makes a bridge, down. One without ports has no carrier, and routes none the less.
    pub(in crate::network) fn add_bridge(
        &mut self,
        name: &str,
        mac: Mac,
        mtu: Option<u32>,
    ) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
            .put(&ifinfo(AF_UNSPEC, 0, None))
            .text(IFLA_IFNAME, name)
            .bytes(IFLA_ADDRESS, &mac.0);
        if let Some(mtu) = mtu {
            message = message.u32(IFLA_MTU, mtu);
        }
        self.0.request(message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge")))
    }

    /// Makes a pair of links, the one here up.
    pub(in crate::network) fn add_veth(&mut self, veth: &NewVeth<'_>) -> io::Result<()> {
        let namespace = u32::try_from(veth.peer_namespace.as_raw_fd()).unwrap_or_default();
        let mtu = |message: Message| match veth.mtu {
            Some(mtu) => message.u32(IFLA_MTU, mtu),
            None => message,
        };
        let message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
            .put(&ifinfo(AF_UNSPEC, 0, Some(true)))
            .text(IFLA_IFNAME, veth.name)
            .u32(IFLA_MASTER, veth.bridge);
        self.0.request(mtu(message).nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
                data.nest(VETH_INFO_PEER, |peer| {
                    let peer = peer
                        .put(&ifinfo(AF_UNSPEC, 0, None))
                        .text(IFLA_IFNAME, veth.peer_name)
                        .bytes(IFLA_ADDRESS, &veth.peer_mac.0)
                        .u32(IFLA_NET_NS_FD, namespace);
                    mtu(peer)
                })
            })
        }))
    }

    /// Makes a link in another namespace, down, on one that is here.
    pub(in crate::network) fn add_upper(&mut self, upper: &NewUpper<'_>) -> io::Result<()> {
        let namespace = u32::try_from(upper.namespace.as_raw_fd()).unwrap_or_default();
        let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
            .put(&ifinfo(AF_UNSPEC, 0, None))
            .text(IFLA_IFNAME, upper.name)
            .u32(IFLA_LINK, upper.parent)
            .u32(IFLA_NET_NS_FD, namespace);
        if let Some(mac) = upper.mac {
            message = message.bytes(IFLA_ADDRESS, &mac.0);
        }
        self.0.request(message.nest(IFLA_LINKINFO, |info| {
            match upper.kind {
                Upper::Macvlan { mode } => info
                    .text(IFLA_INFO_KIND, "macvlan")
                    .nest(IFLA_INFO_DATA, |data| data.u32(IFLA_MACVLAN_MODE, mode)),
                Upper::Ipvlan { mode, flags } => {
                    info.text(IFLA_INFO_KIND, "ipvlan").nest(IFLA_INFO_DATA, |data| {
                        data.u16(IFLA_IPVLAN_MODE, mode).u16(IFLA_IPVLAN_FLAGS, flags)
                    })
                }
            }
        }))
    }

    /// Makes a link that leads nowhere, up.
    pub(in crate::network) fn add_dummy(&mut self, name: &str) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
            .put(&ifinfo(AF_UNSPEC, 0, Some(true)))
            .text(IFLA_IFNAME, name);
        self.0.request(message.nest(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "dummy")))
    }

    /// Makes a link for the frames of `parent` that are tagged with `id` (IEEE 802.1Q), up.
    pub(in crate::network) fn add_vlan(&mut self, name: &str, parent: u32, id: u16) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)
            .put(&ifinfo(AF_UNSPEC, 0, Some(true)))
            .text(IFLA_IFNAME, name)
            .u32(IFLA_LINK, parent);
        self.0.request(message.nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "vlan").nest(IFLA_INFO_DATA, |data| data.u16(IFLA_VLAN_ID, id))
        }))
    }

    /// Gives a link another name. It must be down.
    pub(in crate::network) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let found = self.find(from)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
        let message = Message::new(RTM_NEWLINK, 0).put(&ifinfo(AF_UNSPEC, found.index, None));
        self.0.request(message.text(IFLA_IFNAME, to))
    }

    /// Gives a link another address.
    pub(in crate::network) fn set_mac(&mut self, index: u32, mac: Mac) -> io::Result<()> {
        let message = Message::new(RTM_NEWLINK, 0).put(&ifinfo(AF_UNSPEC, index, None));
        self.0.request(message.bytes(IFLA_ADDRESS, &mac.0))
    }

    /// Removes a link, and with it the other end of a pair.
    pub(in crate::network) fn remove(&mut self, name: &str) -> io::Result<()> {
        let message = Message::new(RTM_DELLINK, 0).put(&ifinfo(AF_UNSPEC, 0, None)).text(IFLA_IFNAME, name);
        match self.0.request(message) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            removed => removed,
        }
    }

    pub(in crate::network) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.0.request(Message::new(RTM_NEWLINK, 0).put(&ifinfo(AF_UNSPEC, index, Some(true))))
    }

    /// Keeps the ports of a bridge that are so from reaching each other.
    pub(in crate::network) fn isolate_port(&mut self, index: u32) -> io::Result<()> {
        let message = Message::new(RTM_SETLINK, 0).put(&ifinfo(AF_BRIDGE, index, None));
        self.0.request(message.nest(IFLA_PROTINFO, |port| port.u8(IFLA_BRPORT_ISOLATED, 1)))
    }

    /// Gives a link an address; it may have it already. IPv6 is not probed for duplicates: addresses are
    /// given by the engine, and a probe would delay a container's start by a second.
    pub(in crate::network) fn add_address(&mut self, index: u32, address: Prefix) -> io::Result<()> {
        let ip = address.address;
        let flags = if ip.is_ipv4() { 0 } else { IFA_F_NODAD };
        let scope = 0;
        let mut head = vec![family(ip), address.length, flags, scope];
        head.extend(index.to_ne_bytes());
        let mut message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)
            .put(&head)
            .bytes(IFA_LOCAL, &octets(ip))
            .bytes(IFA_ADDRESS, &octets(ip));
        if let (IpAddr::V4(_), IpAddr::V4(last)) = (ip, address.last())
            && address.length < 31
        {
            message = message.bytes(IFA_BROADCAST, &last.octets());
        }
        self.0.request(message)
    }

    /// Takes an address from a link, if it has it.
    pub(in crate::network) fn remove_address(&mut self, index: u32, address: Prefix) -> io::Result<()> {
        let ip = address.address;
        let mut head = vec![family(ip), address.length, 0, 0];
        head.extend(index.to_ne_bytes());
        let message = Message::new(RTM_DELADDR, 0)
            .put(&head)
            .bytes(IFA_LOCAL, &octets(ip))
            .bytes(IFA_ADDRESS, &octets(ip));
        match self.0.request(message) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            removed => removed,
        }
    }

    /// Sends by `gateway` what no other route fits, instead of what did before.
    pub(in crate::network) fn set_default_route(&mut self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
            .put(&default_route(gateway.is_ipv4(), RT_SCOPE_UNIVERSE))
            .bytes(RTA_GATEWAY, &octets(gateway))
            .u32(RTA_OIF, index);
        self.0.request(message)
    }

    /// Sends by a link, to nobody in particular, what no other route fits.
    pub(in crate::network) fn set_default_link(&mut self, index: u32, ipv4: bool) -> io::Result<()> {
        let message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)
            .put(&default_route(ipv4, RT_SCOPE_LINK))
            .u32(RTA_OIF, index);
        self.0.request(message)
    }

    /// Removes the default route of a family, if there is one.
    pub(in crate::network) fn remove_default_route(&mut self, ipv4: bool) -> io::Result<()> {
        // Of whatever scope.
        let route = default_route(ipv4, RT_SCOPE_NOWHERE);
        match self.0.request(Message::new(RTM_DELROUTE, 0).put(&route)) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            removed => removed,
        }
    }
}

/// `struct rtmsg` of a default route.
fn default_route(ipv4: bool, scope: u8) -> [u8; 12] {
    let family = if ipv4 { AF_INET } else { AF_INET6 };
    [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0, 0, 0, 0]
}
