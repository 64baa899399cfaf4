//! Networks on a link of this machine, the parent: the drivers `macvlan` and `ipvlan`. Each container has a link
//! of its own there, with an address of its own, as if it were a machine beside this one. Nothing of them passes
//! this machine's rules, so that no ports are published.

use std::{collections::BTreeMap, io};

use super::{
    Network, State, mark,
    netlink::{Interface, Links, Upper},
    options::MAX_NAME,
};
use crate::error::{Context, Error, Result, errno_of, errno_text};

const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";
const IPVLAN_MODE: &str = "ipvlan_mode";
const IPVLAN_FLAG: &str = "ipvlan_flag";

/// `MACVLAN_MODE_*` of `linux/if_link.h`.
const MACVLAN_PRIVATE: u32 = 1;
const MACVLAN_VEPA: u32 = 2;
const MACVLAN_BRIDGE: u32 = 4;
const MACVLAN_PASSTHRU: u32 = 8;
/// `IPVLAN_MODE_*`.
const IPVLAN_L2: u16 = 0;
const IPVLAN_L3: u16 = 1;
const IPVLAN_L3S: u16 = 2;
/// `IPVLAN_F_*`.
const IPVLAN_PRIVATE: u16 = 1;
const IPVLAN_VEPA: u16 = 2;

/// What the options of a network on a parent say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ParentOptions {
    pub(super) kind: Upper,
    pub(super) parent: String,
    /// None was asked for: it is a link that leads nowhere.
    pub(super) is_dummy: bool,
}

impl ParentOptions {
    /// Reads the options of the network `id` of the driver `driver`, `macvlan` or `ipvlan`. Those that the driver
    /// does not know are left alone, as Docker does.
    ///
    /// # Errors
    /// Values that make no sense, in Docker's words.
    pub(super) fn parse(driver: &str, id: &str, options: &BTreeMap<String, String>) -> Result<Self> {
        let get = |name: &str| options.get(name).map(String::as_str).unwrap_or_default();
        let (kind, prefix) = match driver {
            "ipvlan" => (ipvlan(get(IPVLAN_MODE), get(IPVLAN_FLAG))?, "di-"),
            _ => (macvlan(get(MACVLAN_MODE))?, "dm-"),
        };
        let parent = get(PARENT);
        if parent == "lo" {
            return Err(Error::system(format!("loopback interface is not a valid {driver} parent link")));
        }
        let is_dummy = parent.is_empty();
        let parent =
            if is_dummy { format!("{prefix}{}", id.get(..12).unwrap_or(id)) } else { parent.to_owned() };
        Ok(Self { kind, parent, is_dummy })
    }

    /// Whether containers have link addresses of their own, not the parent's.
    pub(super) fn has_own_mac(&self) -> bool {
        matches!(self.kind, Upper::Macvlan { .. })
    }

    /// Whether what is for the world is sent to nobody in particular: the parent's machine routes it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.kind, Upper::Ipvlan { mode: IPVLAN_L3 | IPVLAN_L3S, .. })
    }

    fn is_passthru(&self) -> bool {
        self.kind == Upper::Macvlan { mode: MACVLAN_PASSTHRU }
    }

    /// The parent.
    ///
    /// # Errors
    /// It is not there, in Docker's words.
    pub(super) fn find(&self, links: &mut Links) -> Result<Interface> {
        find(links, &self.parent)?.ok_or_else(|| {
            Error::system(format!(
                "the requested parent interface {} was not found on the Docker host",
                self.parent
            ))
        })
    }

    /// Makes the parent.
    fn make(&self, links: &mut Links) -> Result<()> {
        let name = &self.parent;
        if self.is_dummy {
            return links.add_dummy(name).map_err(failed(format!("make the dummy link {name}")));
        }
        if !name.contains('.') {
            return Err(Error::system(format!(
                "invalid subinterface vlan name {name}, example formatting is eth0.10"
            )));
        }
        let Some((parent, id)) = name.split_once('.').filter(|(_, id)| !id.contains('.')) else {
            return Err(Error::system(format!(
                "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received {name}"
            )));
        };
        let id: i64 = id.parse().map_err(|_| {
            Error::system(format!("unable to parse a valid vlan id from: {id} (ex. eth0.10 for vlan 10)"))
        })?;
        let parent = find(links, parent)?.ok_or_else(|| {
            Error::system(format!("-o parent interface was not found on the host: {parent}"))
        })?;
        let Some(id) = u16::try_from(id).ok().filter(|id| (1..=4094).contains(id)) else {
            return Err(Error::system(format!("vlan id must be between 1-4094, received: {id}")));
        };
        links.add_vlan(name, parent.index, id).map_err(failed(format!("failed to create {name} vlan link")))
    }
}

/// What failed, with the kernel's reason in Docker's words.
pub(super) fn failed(what: String) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::system(format!("{what}: {}", errno_text(errno_of(&error))))
}

/// A name that no link can have is that of none.
fn find(links: &mut Links, name: &str) -> Result<Option<Interface>> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Ok(None);
    }
    links.find(name).context(|| format!("look for the interface {name}"))
}

fn macvlan(mode: &str) -> Result<Upper> {
    let mode = match mode {
        "" | "bridge" => MACVLAN_BRIDGE,
        "private" => MACVLAN_PRIVATE,
        "vepa" => MACVLAN_VEPA,
        "passthru" => MACVLAN_PASSTHRU,
        other => {
            return Err(Error::system(format!(
                "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
            )));
        }
    };
    Ok(Upper::Macvlan { mode })
}

fn ipvlan(mode: &str, flag: &str) -> Result<Upper> {
    let mode = match mode {
        "" | "l2" => IPVLAN_L2,
        "l3" => IPVLAN_L3,
        "l3s" => IPVLAN_L3S,
        other => {
            return Err(Error::system(format!(
                "requested ipvlan mode '{other}' is not valid, 'l2' mode is the ipvlan driver default"
            )));
        }
    };
    let flags = match flag {
        "" | "bridge" => 0,
        "private" => IPVLAN_PRIVATE,
        "vepa" => IPVLAN_VEPA,
        other => {
            return Err(Error::system(format!(
                "requested ipvlan flag '{other}' is not valid, 'bridge' is the ipvlan driver default"
            )));
        }
    };
    Ok(Upper::Ipvlan { mode, flags })
}

impl State {
    /// The networks of the same driver on the same parent.
    fn beside<'a>(
        &'a self,
        network: &'a Network,
        options: &'a ParentOptions,
    ) -> impl Iterator<Item = (&'a Network, &'a ParentOptions)> {
        let others = self.networks.values().filter_map(|other| Some((other, other.parent()?)));
        others.filter(move |(other, theirs)| {
            other.api.id != network.api.id
                && other.api.driver == network.api.driver
                && theirs.parent == options.parent
        })
    }

    /// Refuses a parent that another network wants for itself, and notes whose it is.
    ///
    /// # Errors
    /// In Docker's words.
    pub(super) fn check_parent(&self, network: &mut Network, options: &ParentOptions) -> Result<()> {
        let parent = &options.parent;
        let mut is_ours = false;
        for (other, theirs) in self.beside(network, options) {
            let id = &other.api.id;
            if !options.has_own_mac() {
                // Docker names the network by the link that it would have had.
                return Err(Error::system(format!(
                    "network di-{} is already using parent interface {parent}",
                    id.get(..12).unwrap_or(id)
                )));
            }
            if options.is_passthru() {
                return Err(Error::system(format!(
                    "cannot use mode passthru, macvlan network {id} is already using parent interface {parent}"
                )));
            }
            if theirs.is_passthru() {
                return Err(Error::system(format!(
                    "macvlan network {id} is already using parent interface {parent} in mode passthru"
                )));
            }
            is_ours |= !other.is_foreign;
        }
        let mut links = Links::open().context(|| "open a netlink socket".to_owned())?;
        network.is_foreign = find(&mut links, parent)?.is_some() && !is_ours;
        Ok(())
    }

    /// Removes the parent of a network that is no more, unless somebody else made it or uses it.
    pub(super) fn remove_parent(&self, network: &Network, options: &ParentOptions) -> Result<()> {
        if network.is_foreign || self.beside(network, options).next().is_some() {
            return Ok(());
        }
        let what = || format!("remove the interface {}", options.parent);
        Links::open().context(what)?.remove(&options.parent).context(what)
    }
}

impl Network {
    /// Sees to it that the network's parent is there.
    pub(super) fn bring_up_parent(
        &mut self,
        options: &ParentOptions,
        links: &mut Links,
        engine: &str,
    ) -> Result<()> {
        if find(links, &options.parent)?.is_some() {
            return Ok(());
        }
        options.make(links)?;
        self.is_foreign = false;
        let parent = options.find(links)?;
        mark::set(links, parent.index, engine, &self.api.id, &options.parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(driver: &str, options: &[(&str, &str)]) -> Result<ParentOptions> {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ParentOptions::parse(driver, "0123456789abcdef", &options.collect())
    }

    #[test]
    fn a_network_without_a_parent_has_one_that_leads_nowhere() {
        let macvlan = parse("macvlan", &[]).unwrap();
        assert_eq!((macvlan.parent.as_str(), macvlan.is_dummy), ("dm-0123456789ab", true));
        let ipvlan = parse("ipvlan", &[("parent", "eth0.7"), ("ipvlan_mode", "l3s")]).unwrap();
        assert_eq!((ipvlan.parent.as_str(), ipvlan.is_dummy), ("eth0.7", false));
        assert!(ipvlan.is_open() && !macvlan.is_open());
    }

    #[test]
    fn refusals_are_dockers() {
        for (driver, name, value, message) in [
            (
                "macvlan",
                MACVLAN_MODE,
                "l2",
                "requested macvlan mode 'l2' is not valid, 'bridge' mode is the macvlan driver default",
            ),
            (
                "ipvlan",
                IPVLAN_MODE,
                "vepa",
                "requested ipvlan mode 'vepa' is not valid, 'l2' mode is the ipvlan driver default",
            ),
            (
                "ipvlan",
                IPVLAN_FLAG,
                "x",
                "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default",
            ),
            ("macvlan", PARENT, "lo", "loopback interface is not a valid macvlan parent link"),
        ] {
            assert_eq!(parse(driver, &[(name, value)]).unwrap_err().to_string(), message);
        }
    }
}
