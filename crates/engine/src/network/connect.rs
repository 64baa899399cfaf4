//! `network connect` and `network disconnect`, and other changes to a container that runs.

use std::net::IpAddr;

use wire::docker::network::EndpointSettings;

use super::{
    Driver, Networks, Served, Started,
    endpoint::{Endpoint, Sandbox},
    join::{not_joinable, set_routes},
    resolver::Sockets,
    sandbox, validate,
};
use crate::error::{Context, Error, Result};

impl Networks {
    /// Checks what a container wants of a network that it will be in.
    ///
    /// # Errors
    /// No such network; settings that make no sense for it, in Docker's words.
    pub(crate) fn check_endpoint(&self, network: &str, settings: &EndpointSettings) -> Result<()> {
        let state = self.state();
        validate::mac(&settings.mac_address)?;
        let network = state.get(network)?;
        if network.driver == Driver::None {
            return Err(not_joinable(network));
        }
        validate::endpoint(network, settings)
    }

    /// Checks an address of a link, of which no network is needed.
    ///
    /// # Errors
    /// What is none, in Docker's words.
    pub(crate) fn check_mac(text: &str) -> Result<()> {
        validate::mac(text).map(drop)
    }

    /// Puts a running container into another network. Blocks.
    ///
    /// # Errors
    /// As of [`Networks::start`]. The container is then as before.
    pub(crate) fn connect(
        &self,
        container: &str,
        network: &str,
        settings: &EndpointSettings,
        hostname: &str,
    ) -> Result<Started> {
        let mut state = self.state();
        let network = state.get(network)?.api.clone();
        let mut sandbox = state.sandboxes.get(container).cloned().ok_or_else(|| no_sandbox(container))?;
        let before = sandbox.clone();
        state.join(&mut sandbox, &network.id, settings, hostname)?;
        let mut served = state.served.remove(container).unwrap_or_default();
        let address: Vec<_> =
            sandbox.endpoint(&network.id).into_iter().flat_map(Endpoint::addresses).collect();
        let finished = self.rearrange(&mut state, &before, &mut sandbox, &mut served);
        if let Err(error) = finished {
            self.leave(&mut sandbox, &network.id);
            if let Err(error) = self.rearrange(&mut state, &before, &mut sandbox, &mut served) {
                tracing::warn!(container, "undo its connection: {error}");
            }
            state.served.insert(container.to_owned(), served);
            state.sandboxes.insert(container.to_owned(), sandbox);
            return Err(error);
        }
        let started = Started {
            namespace: sandbox.namespace.clone(),
            addresses: address,
            resolver: served.resolver.is_some(),
        };
        state.served.insert(container.to_owned(), served);
        state.sandboxes.insert(container.to_owned(), sandbox);
        state.apply_rules()?;
        drop(state);
        self.emit(&network, "connect", Some(container));
        Ok(started)
    }

    /// Takes a running container out of a network. Blocks. Returns the addresses that it had there.
    ///
    /// # Errors
    /// It is not in the network.
    pub(crate) fn disconnect(&self, container: &str, network: &str) -> Result<Vec<IpAddr>> {
        let mut state = self.state();
        let network = state.get(network)?.api.clone();
        let mut sandbox = state.sandboxes.get(container).cloned().ok_or_else(|| no_sandbox(container))?;
        let before = sandbox.clone();
        let gone: Vec<_> = sandbox.endpoint(&network.id).into_iter().flat_map(Endpoint::addresses).collect();
        let mut served = state.served.remove(container).unwrap_or_default();
        self.leave(&mut sandbox, &network.id);
        if let Err(error) = self.rearrange(&mut state, &before, &mut sandbox, &mut served) {
            tracing::warn!(container, "after leaving network {}: {error}", network.name);
        }
        state.served.insert(container.to_owned(), served);
        state.sandboxes.insert(container.to_owned(), sandbox);
        state.apply_rules()?;
        drop(state);
        self.emit(&network, "disconnect", Some(container));
        Ok(gone)
    }

    fn leave(&self, sandbox: &mut Sandbox, network: &str) {
        for endpoint in sandbox.endpoints.extract_if(.., |endpoint| endpoint.network == network) {
            if let Err(error) = endpoint.remove_link(&sandbox.namespace) {
                tracing::warn!(container = sandbox.container, "remove {}: {error}", endpoint.interface);
            }
        }
    }

    /// After an endpoint came or went: routes, ports, names.
    fn rearrange(
        &self,
        state: &mut super::State,
        before: &Sandbox,
        sandbox: &mut Sandbox,
        served: &mut Served,
    ) -> Result<()> {
        set_routes(sandbox)?;
        let id = |endpoint: Option<&Endpoint>| endpoint.map(|endpoint| endpoint.id.clone());
        let leading = |sandbox: &Sandbox| {
            let (v4, v6) = sandbox.gateways();
            (id(v4), id(v6))
        };
        if leading(before) != leading(sandbox) {
            self.open_ports(state, sandbox, served)?;
        }
        // Once there, it stays: the container has been told of it.
        if sandbox.wants_resolver() && served.resolver.is_none() {
            let sockets = sandbox::enter(&sandbox.namespace, Sockets::open)
                .context(|| "open the container's resolver".to_owned())?;
            served.resolver = Some(self.serve_names(sandbox, sockets)?);
            sandbox.dns.resolver = true;
        }
        self.keep_sandbox(sandbox)?;
        self.0.names.learn(sandbox);
        Ok(())
    }

    /// A running container is called something else from now on.
    pub(crate) fn rename(&self, container: &str, name: &str) {
        let mut state = self.state();
        let Some(sandbox) = state.sandboxes.get_mut(container) else { return };
        let old = std::mem::replace(&mut sandbox.name, name.to_owned());
        for known in sandbox.endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.names) {
            if *known == old {
                name.clone_into(known);
            }
        }
        if !sandbox.namespace.as_os_str().is_empty()
            && let Err(error) = self.keep_sandbox(sandbox)
        {
            tracing::warn!(container, "rename: {error}");
        }
        self.0.names.learn(sandbox);
    }
}

fn no_sandbox(container: &str) -> Error {
    Error::conflict(format!("container {container} has no network of its own"))
}
