//! What the host's kernel cannot reach, in a network namespace where that is known: this program again, started there.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use smoltcp::socket::tcp;
use smoltcp::wire::{Icmpv4Message, IpProtocol};

use super::{guest, icmp_messages};
use crate::testing::{GATEWAY, GUEST, frame, syn, udp_bytes};

/// Says that the test is in its namespace.
const INSIDE: &str = "USERNET_TEST_INSIDE";

/// A link behind which nobody is, and addresses that have no way, or may not be reached.
const NETWORK: &str = "
    ip link set lo up
    ip link add void type veth peer name end
    ip link set end up
    ip link set void up
    ip address add 198.18.0.1/32 dev void
    ip route add 203.0.113.5 dev void
    ip neighbour add 203.0.113.5 lladdr 02:00:00:00:00:01 dev void nud permanent
    ip route add unreachable 198.51.100.1
    ip route add prohibit 198.51.100.2
    ip -6 route add unreachable 2001:db8::1
    ip -6 route add prohibit 2001:db8::2
    # Two requests, after three seconds it gives up.
    echo 1 > /proc/sys/net/ipv4/tcp_syn_retries
    exec \"$@\"";

/// Runs a test of this file in the namespace; true if this is there.
fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let status = Command::new("unshare")
        .args(["--map-root-user", "--net", "sh", "-e", "-c", NETWORK, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::unreachable::{test}"), "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "in a network namespace: {status}");
    false
}

#[test]
fn what_cannot_be_reached_is_told() {
    if !is_inside("what_cannot_be_reached_is_told") {
        return;
    }
    let mut guest = guest();
    guest.wire.seen = Some(Vec::new());
    for (address, code) in [("9.9.9.9", 0), ("198.51.100.1", 1), ("198.51.100.2", 13)] {
        let address: Ipv4Addr = address.parse().unwrap();
        guest.inject(frame(GUEST, address, IpProtocol::Tcp, &syn(1, 80)));
        guest.inject(frame(GUEST, address, IpProtocol::Udp, &udp_bytes(1, 80, b"x")));
        let told = (GATEWAY, Icmpv4Message::DstUnreachable, code);
        assert_eq!(icmp_messages(&mut guest), [told, told], "{address}");
    }
    let source: IpAddr = "fd63:6f72:6163:6c65::77".parse().unwrap();
    for (address, code) in [("2620:fe::fe", 0), ("2001:db8::1", 3), ("2001:db8::2", 1)] {
        let target: IpAddr = address.parse().unwrap();
        guest.wire.seen = Some(Vec::new());
        guest.inject(frame(source, target, IpProtocol::Tcp, &syn(1, 80)));
        let seen = guest.wire.seen.take().unwrap();
        // ICMPv6 "destination unreachable" (RFC 4443, section 3.1).
        assert_eq!(
            seen.iter().map(|frame| [frame[54], frame[55]]).collect::<Vec<_>>(),
            [[1, code]],
            "{address}"
        );
    }
    assert_eq!(guest.network.conversations(), (0, 0));
}

#[test]
fn silence_is_silence() {
    if !is_inside("silence_is_silence") {
        return;
    }
    let mut guest = guest();
    guest.wire.seen = Some(Vec::new());
    let handle = guest.dial(Ipv4Addr::new(203, 0, 113, 5), 80);
    guest.work();
    assert_eq!((guest.tcp(handle).state(), guest.network.conversations()), (tcp::State::SynSent, (1, 0)));
    // The guest's own request is taken back, so that only what the network does is seen.
    let ip = |frame: &&Vec<u8>| frame[12..14] == [8, 0];
    let request = guest.sockets.remove(handle);
    drop(request);
    guest.until("the host gives up", |guest| guest.network.conversations() == (0, 0));
    assert_eq!(guest.wire.seen.take().unwrap().iter().filter(ip).count(), 0, "the guest was told something");

    // A guest that gives up before the host does.
    guest.inject(frame(GUEST, Ipv4Addr::new(203, 0, 113, 5), IpProtocol::Tcp, &syn(1, 80)));
    assert_eq!(guest.network.conversations(), (1, 0));
    let mut reset = syn(1, 80);
    reset[13] = 0x04;
    guest.inject(frame(GUEST, Ipv4Addr::new(203, 0, 113, 5), IpProtocol::Tcp, &reset));
    assert_eq!(guest.network.conversations(), (0, 0));
}
