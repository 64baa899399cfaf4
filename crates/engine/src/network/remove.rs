//! `network rm` and `network prune`.

use std::fs;

use wire::docker::network::PruneReport;

use super::{Driver, Network, Networks, State, is_predefined};
use crate::{
    api::filters::Filters,
    container::parse_until,
    error::{Context, Error, Kind, Result},
    store,
};

impl Networks {
    /// Removes a network. Blocks.
    ///
    /// # Errors
    /// None of that name, the engine's own, and one that a container is in, in Docker's words.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let mut state = self.state();
        let id = state.get(name)?.api.id.clone();
        self.remove_locked(&mut state, &id)
    }

    fn remove_locked(&self, state: &mut State, id: &str) -> Result<()> {
        let Some(network) = state.networks.get(id) else { return Err(super::not_found(id)) };
        let name = &network.api.name;
        if is_predefined(name) {
            let message = format!("{name} is a pre-defined network and cannot be removed");
            return Err(Error::new(Kind::Forbidden, message));
        }
        let active: Vec<String> = state
            .endpoints(id)
            .map(|(sandbox, endpoint)| {
                format!("name:{:?} id:{:?}", sandbox.name, endpoint.id.get(..12).unwrap_or_default())
            })
            .collect();
        if !active.is_empty() {
            return Err(Error::new(
                Kind::Forbidden,
                format!(
                    "error while removing network: network {name} has active endpoints ({})",
                    active.join(", ")
                ),
            ));
        }
        let dependents = state.networks.values().any(|other| other.api.config_from.network == *name);
        if network.api.config_only && dependents {
            let message = format!("configuration network {name:?} is in use");
            return Err(Error::new(Kind::Forbidden, message));
        }
        // Gone for good first: an engine that comes after a crash here finds a bridge without an owner at
        // worst, not a network that was said to be removed.
        self.forget(id)?;
        let Some(network) = state.networks.remove(id) else { return Ok(()) };
        let warn = |error| tracing::warn!(network = network.api.name, "remove: {error}");
        match &network.driver {
            Driver::None => {}
            Driver::Bridge(options) => {
                let taken_down = [network.take_down_later(), state.apply_rules()];
                taken_down.into_iter().filter_map(Result::err).for_each(warn);
                // Only a name that the user chose may come again.
                let own = format!("br-{}", id.get(..12).unwrap_or(id));
                if options.interface != own {
                    state.doomed.insert(options.interface.clone());
                }
            }
            Driver::Parent(options) => {
                state.remove_parent(&network, options).err().into_iter().for_each(warn);
            }
        }
        self.emit(&network.api, "destroy", None);
        Ok(())
    }

    /// Removes a network from the disk.
    pub(super) fn forget(&self, id: &str) -> Result<()> {
        let what = || format!("remove {}", self.file(id).display());
        fs::remove_file(self.file(id)).context(what)?;
        store::sync_directory(&self.0.directory).context(what)
    }

    /// Removes every network of the user's that no container is in. Blocks.
    ///
    /// # Errors
    /// An `until` that is no time, in Docker's words.
    pub(crate) fn prune(&self, filters: &Filters) -> Result<PruneReport> {
        let until = match filters.get("until") {
            [] => None,
            [text] => Some(parse_until(text)?),
            _ => return Err(Error::invalid("more than one until filter specified")),
        };
        let mut state = self.state();
        let wanted = |network: &Network| {
            let api = &network.api;
            let created = crate::system::parse_timestamp(&api.created).unwrap_or_default();
            !is_predefined(&api.name)
                && !api.config_only
                && until.is_none_or(|until| created <= until)
                && filters.labels("label", &api.labels)
                && !(filters.has("label!") && filters.labels("label!", &api.labels))
        };
        let unused: Vec<(String, String)> = state
            .networks
            .values()
            .filter(|network| wanted(network) && state.endpoints(&network.api.id).next().is_none())
            .map(|network| (network.api.id.clone(), network.api.name.clone()))
            .collect();
        let mut deleted = Vec::new();
        for (id, name) in unused {
            match self.remove_locked(&mut state, &id) {
                Ok(()) => deleted.push(name),
                Err(error) => tracing::warn!("prune: {error}"),
            }
        }
        drop(state);
        self.0.events.emit("network", "prune", "", [("reclaimed", "0")]);
        Ok(PruneReport { networks_deleted: (!deleted.is_empty()).then_some(deleted) })
    }
}
