//! What this engine notes at the links that it makes, so that those of networks that are no more can be told from
//! somebody else's.

use super::{Network, State, netlink::Links};
use crate::error::{Context, Result};

/// The note at a network's link. It holds the link's name, so that one that has been given another is nobody's.
fn mark(engine: &str, network: &str, name: &str) -> String {
    format!("coracle {engine} {network} {name}")
}

/// The network that a link was made for by this engine.
fn network_of<'a>(engine: &str, name: &str, alias: &'a str) -> Option<&'a str> {
    let network = alias.strip_prefix("coracle ")?.strip_prefix(engine)?.strip_prefix(' ')?;
    network.strip_suffix(name)?.strip_suffix(' ')
}

/// Notes at a link that it was made for a network.
pub(super) fn set(links: &mut Links, index: u32, engine: &str, network: &str, name: &str) -> Result<()> {
    links
        .set_alias(index, &mark(engine, network, name))
        .context(|| format!("mark the interface {name} as this engine's"))
}

impl State {
    /// Removes the links of networks that are no more: what a crash between the removal of the two has left.
    pub(super) fn remove_strays(&self, links: &mut Links) -> Result<()> {
        for link in links.all().context(|| "list the machine's interfaces".to_owned())? {
            let Some(network) = network_of(&self.engine, &link.name, &link.alias) else { continue };
            // One that several networks were on outlives the first.
            let is_parent =
                self.networks.values().filter_map(Network::parent).any(|other| other.parent == link.name);
            if !is_parent && !self.networks.contains_key(network) {
                tracing::info!("remove the interface {} of a network that is no more", link.name);
                links.remove(&link.name).context(|| format!("remove the interface {}", link.name))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_engine_and_one_link() {
        let alias = mark("engine", "0123", "br-0123");
        assert_eq!(network_of("engine", "br-0123", &alias), Some("0123"));
        assert_eq!(network_of("other", "br-0123", &alias), None);
        assert_eq!(network_of("engine", "eth0", &alias), None);
        assert_eq!(network_of("engine", "br-0123", "somebody's own"), None);
    }
}
