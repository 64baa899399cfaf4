//! Which packets pass between bridges, and between bridges and the rest of the world: as Docker does it, with
//! rules of our own.

use std::{io, net::IpAddr};

use super::{End, Hook, Rule, Table, Verdict};
use crate::network::{address::Prefix, netlink::Socket, options::GatewayMode, ports::Router};

/// The engine's table.
const TABLE: &str = "coracle";
/// The table in the namespace of a container that has the engine's resolver.
const RESOLVER_TABLE: &str = "coracle-resolver";

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
pub(in crate::network) const TCP: u8 = 6;
pub(in crate::network) const UDP: u8 = 17;

/// What a bridge wants.
#[derive(Debug, Clone)]
pub(in crate::network) struct BridgeRules {
    pub(in crate::network) interface: String,
    /// At most one of a family.
    pub(in crate::network) subnets: Vec<Subnet>,
    /// Nothing passes between it and the rest of the world.
    pub(in crate::network) internal: bool,
    /// Interfaces whose other sides route to its containers.
    pub(in crate::network) trusted: Vec<String>,
    /// Its containers reach each other.
    pub(in crate::network) icc: bool,
    /// Its containers appear to the world as this machine.
    pub(in crate::network) masquerade: bool,
    pub(in crate::network) published: Vec<PublishedRule>,
}

/// A subnet of a bridge.
#[derive(Debug, Clone, Copy)]
pub(in crate::network) struct Subnet {
    pub(in crate::network) prefix: Prefix,
    /// The bridge's own address.
    pub(in crate::network) gateway: Option<IpAddr>,
    pub(in crate::network) mode: GatewayMode,
    /// What containers appear as, instead of the address of the interface that they leave by.
    pub(in crate::network) host: Option<IpAddr>,
}

/// A port of this machine that leads to one of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::network) struct PublishedRule {
    /// Unspecified for any.
    pub(in crate::network) host: IpAddr,
    /// 0 where none of this machine's leads there: the container's is reached by itself.
    pub(in crate::network) host_port: u16,
    pub(in crate::network) container: IpAddr,
    pub(in crate::network) container_port: u16,
    /// The number of TCP or UDP.
    pub(in crate::network) protocol: u8,
}

/// Everything the table says.
#[derive(Debug, Clone, Default)]
pub(in crate::network) struct Ruleset {
    pub(in crate::network) bridges: Vec<BridgeRules>,
    /// This engine made a router of the machine: it routes for bridges alone.
    pub(in crate::network) routes_only_bridges: bool,
    /// Leads clients to published TCP ports by itself.
    pub(in crate::network) router: Option<Router>,
}

const LOOPBACK_V4: Prefix = Prefix { address: IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), length: 8 };
const LOOPBACK_V6: Prefix = Prefix { address: IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), length: 128 };

impl Ruleset {
    /// Makes these rules those of the kernel, in one transaction.
    pub(in crate::network) fn apply(&self, socket: &mut Socket) -> io::Result<()> {
        if self.bridges.is_empty() {
            return Table::removing(TABLE).commit(socket);
        }
        let mut table = Table::replacing(TABLE);
        table.base_chain("raw-prerouting", Hook::RawPrerouting);
        table.base_chain("prerouting", Hook::NatPrerouting);
        table.base_chain("output", Hook::NatOutput);
        table.base_chain("forward", Hook::Forward);
        table.base_chain("postrouting", Hook::NatPostrouting);
        table.chain("ports");
        table.chain("between");
        self.routed(&mut table);
        self.direct(&mut table);
        self.ports(&mut table);
        self.forward(&mut table);
        for bridge in self.bridges.iter().filter(|bridge| bridge.masquerade && !bridge.internal) {
            for subnet in bridge.subnets.iter().filter(|subnet| subnet.mode != GatewayMode::Routed) {
                let leaving = Rule::new().within(End::Source, subnet.prefix).goes_not_to(&bridge.interface);
                let leaving = match subnet.host {
                    Some(address) => leaving.appear_as(address),
                    None => leaving.masquerade(),
                };
                table.rule("postrouting", leaving);
            }
        }
        table.commit(socket)
    }

    /// Who the router leads to a published port comes from the bridge's address, as from the engine's listeners: whatever
    /// routes a container has, its answers find the way back.
    fn routed(&self, table: &mut Table) {
        let Some(Router { interface, address }) = self.router else { return };
        let router = Prefix::host(address);
        let may_be_led = |port: &&PublishedRule| {
            port.host_port != 0 && port.protocol == TCP && port.container.is_ipv4() == address.is_ipv4()
        };
        for bridge in &self.bridges {
            for port in bridge.published.iter().filter(may_be_led) {
                let rule = Rule::new()
                    .comes_from(interface)
                    .within(End::Source, router)
                    .within(End::Destination, Prefix::host(port.container))
                    .port(port.protocol, port.container_port);
                table.rule("raw-prerouting", rule.end(Verdict::Accept));
            }
            let led_in = Rule::new().goes_to(&bridge.interface).within(End::Source, router);
            table.rule("postrouting", led_in.masquerade());
        }
    }

    /// Nobody outside of a bridge routes to its containers directly, past what is published, unless its mode is
    /// just that.
    fn direct(&self, table: &mut Table) {
        for bridge in &self.bridges {
            let is_closed = |subnet: &&Subnet| {
                bridge.internal || matches!(subnet.mode, GatewayMode::Nat | GatewayMode::Isolated)
            };
            for subnet in bridge.subnets.iter().filter(is_closed) {
                for interface in &bridge.trusted {
                    let rule = Rule::new().comes_from(interface).within(End::Destination, subnet.prefix);
                    table.rule("raw-prerouting", rule.end(Verdict::Accept));
                }
                let mut rule = Rule::new()
                    .comes_not_from(&bridge.interface)
                    .comes_not_from("lo")
                    .within(End::Destination, subnet.prefix);
                if let Some(gateway) = subnet.gateway {
                    rule = rule.outside(End::Destination, Prefix::host(gateway));
                }
                table.rule("raw-prerouting", rule.end(Verdict::Drop));
            }
        }
    }

    /// Published ports. Loopback's, and those that containers ask for, are served by the engine's own
    /// listeners.
    fn ports(&self, table: &mut Table) {
        table.rule("prerouting", Rule::new().for_here().end(Verdict::Jump("ports")));
        for loopback in [LOOPBACK_V4, LOOPBACK_V6] {
            let elsewhere = Rule::new().outside(End::Destination, loopback).for_here();
            table.rule("output", elsewhere.end(Verdict::Jump("ports")));
        }
        for bridge in &self.bridges {
            table.rule("ports", Rule::new().comes_from(&bridge.interface).end(Verdict::Return));
        }
        for port in self.bridges.iter().flat_map(|bridge| &bridge.published) {
            if port.host_port == 0 || port.host.is_ipv4() != port.container.is_ipv4() {
                // The listener carries what changes its family.
                continue;
            }
            let rule = if port.host.is_unspecified() {
                Rule::new().family(port.host.is_ipv4())
            } else {
                Rule::new().within(End::Destination, Prefix::host(port.host))
            };
            let rule = rule.port(port.protocol, port.host_port);
            table.rule("ports", rule.redirect(port.container, port.container_port));
        }
    }

    fn forward(&self, table: &mut Table) {
        for bridge in self.bridges.iter().filter(|bridge| bridge.internal) {
            let name = &bridge.interface;
            table.rule("forward", Rule::new().comes_from(name).goes_not_to(name).end(Verdict::Drop));
            table.rule("forward", Rule::new().goes_to(name).comes_not_from(name).end(Verdict::Drop));
        }
        for bridge in &self.bridges {
            let name = &bridge.interface;
            table.rule("forward", Rule::new().goes_to(name).of_old().end(Verdict::Accept));
        }
        for bridge in self.bridges.iter().filter(|bridge| !bridge.internal) {
            for subnet in bridge.subnets.iter().filter(|subnet| subnet.mode == GatewayMode::Routed) {
                // Other bridges are a part of the world.
                let rule = Rule::new().goes_to(&bridge.interface).family(subnet.prefix.is_ipv4());
                table.rule("between", rule.end(Verdict::Return));
            }
        }
        for bridge in &self.bridges {
            let name = &bridge.interface;
            let verdict = if bridge.icc { Verdict::Accept } else { Verdict::Drop };
            table.rule("forward", Rule::new().comes_from(name).goes_to(name).end(verdict));
            // Bridges do not reach each other, not even what they publish, but by the machine's ports.
            table.rule("forward", Rule::new().comes_from(name).end(Verdict::Jump("between")));
            table.rule("between", Rule::new().goes_to(name).end(Verdict::Drop));
        }
        for bridge in &self.bridges {
            let name = &bridge.interface;
            for port in &bridge.published {
                let rule = Rule::new().goes_to(name).within(End::Destination, Prefix::host(port.container));
                table.rule("forward", rule.port(port.protocol, port.container_port).end(Verdict::Accept));
            }
            for subnet in &bridge.subnets {
                let ipv4 = subnet.prefix.is_ipv4();
                let to_here = Rule::new().goes_to(name).family(ipv4);
                let accepted = match subnet.mode {
                    GatewayMode::NatUnprotected => to_here,
                    // Whoever is part of the world answers a ping, and hears of packets that are too big.
                    GatewayMode::Routed => to_here.protocol(if ipv4 { ICMP } else { ICMPV6 }),
                    GatewayMode::Nat | GatewayMode::Isolated => continue,
                };
                table.rule("forward", accepted.end(Verdict::Accept));
            }
            table.rule("forward", Rule::new().goes_to(name).end(Verdict::Drop));
        }
        if self.routes_only_bridges {
            for bridge in &self.bridges {
                table.rule("forward", Rule::new().comes_from(&bridge.interface).end(Verdict::Accept));
            }
            table.rule("forward", Rule::new().end(Verdict::Drop));
        }
    }
}

/// Leads what a container asks `address` at `port` to the sockets that serve it, in the container's own
/// namespace: port 53 itself may be the container's.
pub(in crate::network) fn resolver(
    socket: &mut Socket,
    address: IpAddr,
    port: u16,
    udp_port: u16,
    tcp_port: u16,
) -> io::Result<()> {
    let mut table = Table::replacing(RESOLVER_TABLE);
    table.base_chain("output", Hook::NatOutput);
    for (protocol, to) in [(UDP, udp_port), (TCP, tcp_port)] {
        let rule = Rule::new().within(End::Destination, Prefix::host(address)).port(protocol, port);
        table.rule("output", rule.redirect(address, to));
    }
    table.commit(socket)
}
