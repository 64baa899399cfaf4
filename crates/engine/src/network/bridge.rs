//! Bridges of this machine, and the rules about what passes them.

use std::fs;

use super::{
    Network, State,
    address::{Mac, Prefix},
    endpoint::{Endpoint, Sandbox},
    mark,
    netlink::{Links, Socket},
    nft::{BridgeRules, PublishedRule, Ruleset, Subnet},
    options::BridgeOptions,
};
use crate::error::{Context, Error, Result};

const FORWARD_V4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

impl Network {
    /// Sees to it that the network's bridge is there, up, and has its addresses. Returns its index.
    pub(super) fn bring_up_bridge(
        &self,
        options: &BridgeOptions,
        links: &mut Links,
        engine: &str,
    ) -> Result<u32> {
        let name = &options.interface;
        let what = || format!("make the bridge {name} of network {}", self.api.name);
        let found = match links.find(name).context(what)? {
            Some(found) => found,
            None => {
                links.add_bridge(name, Mac::random(), options.mtu).context(what)?;
                links.find(name).context(what)?.ok_or_else(|| Error::system(what()))?
            }
        };
        if found.kind != "bridge" {
            return Err(Error::system(what()).because(format!("existing interface {name} is not a bridge")));
        }
        if !self.is_foreign {
            mark::set(links, found.index, engine, &self.api.id, name)?;
        }
        // This machine has an address in a subnet of a family that the network has: Docker keeps others, and
        // ignores them.
        let is_here = |ipv4| self.has_family(ipv4) && options.is_here(ipv4);
        // Without IPv6 in the network, the machine's link-local address stays out of it, too.
        if !is_here(false) {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
        }
        links.set_up(found.index).context(what)?;
        for pool in self.pools.iter().filter(|pool| is_here(pool.subnet.is_ipv4())) {
            if let Some(gateway) = pool.gateway {
                links.add_address(found.index, Prefix::new(gateway, pool.subnet.length)).context(what)?;
            }
        }
        Ok(found.index)
    }

    /// Takes the addresses of the network's bridge, so that its subnets are free, and lets the kernel remove it
    /// while nobody waits. One that somebody else made stays.
    pub(super) fn take_down_later(&self) -> Result<()> {
        let Some(options) = self.bridge().filter(|_| !self.is_foreign) else { return Ok(()) };
        let what = || format!("remove the bridge {}", options.interface);
        let mut links = Links::open().context(what)?;
        let Some(found) = links.find(&options.interface).context(what)? else { return Ok(()) };
        for pool in &self.pools {
            if let Some(gateway) = pool.gateway {
                links.remove_address(found.index, Prefix::new(gateway, pool.subnet.length)).context(what)?;
            }
        }
        let name = options.interface.clone();
        std::thread::Builder::new()
            .name("remove-bridge".to_owned())
            .spawn(move || {
                if let Err(error) = links.remove(&name) {
                    tracing::warn!("remove the bridge {name}: {error}");
                }
            })
            .map(drop)
            .context(what)
    }

    /// Removes the network's bridge, unless somebody else made it.
    pub(super) fn take_down(&self, links: &mut Links) -> Result<()> {
        match self.bridge() {
            Some(options) if !self.is_foreign => {
                let name = &options.interface;
                links.remove(name).context(|| format!("remove the bridge {name}"))
            }
            _ => Ok(()),
        }
    }

    fn rules<'a>(&self, sandboxes: impl Iterator<Item = &'a Sandbox>) -> Option<BridgeRules> {
        let options = self.bridge()?;
        let published = sandboxes.flat_map(|sandbox| {
            let here = sandbox.endpoint(&self.api.id).into_iter().flat_map(Endpoint::addresses);
            let here: Vec<_> = here.collect();
            sandbox.published.iter().filter(move |mapping| here.contains(&mapping.container))
        });
        Some(BridgeRules {
            interface: options.interface.clone(),
            subnets: self
                .pools
                .iter()
                .map(|pool| Subnet {
                    prefix: pool.subnet,
                    gateway: pool.gateway,
                    mode: options.mode(pool.subnet.is_ipv4()),
                    host: options.host(pool.subnet.is_ipv4()),
                })
                .collect(),
            internal: self.api.internal,
            trusted: options.trusted.clone(),
            icc: options.icc,
            masquerade: options.masquerade,
            published: published
                .map(|mapping| PublishedRule {
                    host: mapping.host,
                    host_port: mapping.host_port,
                    container: mapping.container,
                    container_port: mapping.container_port,
                    protocol: mapping.protocol.number(),
                })
                .collect(),
        })
    }
}

impl State {
    /// Makes the machine route, if it does not.
    pub(super) fn enable_forwarding(&mut self, ipv6: bool) -> Result<()> {
        for (path, wanted) in [(FORWARD_V4, true), (FORWARD_V6, ipv6)] {
            if !wanted || fs::read_to_string(path).is_ok_and(|now| now.trim() == "1") {
                continue;
            }
            fs::write(path, "1").context(|| format!("enable IP forwarding: write {path}"))?;
            self.forwarding = true;
        }
        Ok(())
    }

    /// Gives the kernel the rules that this state wants.
    pub(super) fn apply_rules(&self) -> Result<()> {
        let bridges = self.networks.values().filter_map(|network| network.rules(self.sandboxes.values()));
        let rules =
            Ruleset { bridges: bridges.collect(), routes_only_bridges: self.forwarding, router: self.router };
        let what = || "set the machine's packet filter (nf_tables)".to_owned();
        let mut socket = match self.filter.take() {
            Some(socket) => socket,
            None => Socket::netfilter().context(what)?,
        };
        let applied = rules.apply(&mut socket).context(what);
        self.has_rules.set(applied.is_ok());
        // After a failure there may be answers that nobody waits for any more.
        self.filter.set(applied.is_ok().then_some(socket));
        applied
    }
}
