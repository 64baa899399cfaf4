//! The engine's start: networks are read from the disk and brought into the kernel, and running containers keep
//! what they have.

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use tokio::{runtime::Handle, sync::watch};

use super::{
    Driver, Inner, Mode, Network, Networks, PortPublisher, Run, Served, State, endpoint::Sandbox,
    netlink::Links, ports::PublishedPort, resolver::Sockets, sandbox,
};
use crate::{
    error::{Context, Result},
    events::Events,
    store,
};

impl Networks {
    /// Reads the networks under `data_root`, and what running containers have from `exec_root`. `seed` is the
    /// engine's identity and `created` when its data root was made, RFC 3339. Blocks.
    ///
    /// What this machine does not have or allow is logged, and told to who asks for it later.
    ///
    /// # Errors
    /// A directory that cannot be made or read. A damaged network is logged and left alone.
    pub(crate) fn open(
        data_root: &Path,
        exec_root: &Path,
        seed: &str,
        created: &str,
        events: Events,
        publisher: Arc<dyn PortPublisher>,
        runtime: Handle,
    ) -> Result<Self> {
        let directory = data_root.join("networks");
        let run = Run {
            namespaces: exec_root.join("netns"),
            sandboxes: exec_root.join("sandboxes"),
            forwarding: exec_root.join("ip-forwarding-enabled"),
        };
        for path in [&directory, &run.namespaces, &run.sandboxes] {
            fs::create_dir_all(path).context(|| format!("create {}", path.display()))?;
        }
        let networks = Self(Arc::new(Inner {
            directory,
            run,
            events,
            publisher,
            runtime,
            names: Default::default(),
            own_network_used: watch::Sender::new(false),
            state: Default::default(),
        }));
        let mut state = networks.state();
        seed.clone_into(&mut state.engine);
        state.router = networks.0.publisher.router();
        let mut all_are_known = true;
        for path in files(&networks.0.directory)? {
            match Network::load(&path) {
                Ok(Some(network)) => {
                    state.networks.insert(network.api.id.clone(), network);
                }
                Ok(None) => {}
                Err(error) => {
                    all_are_known = false;
                    tracing::error!("a network is damaged, and left alone: {error}");
                }
            }
        }
        networks.make_predefined(&mut state, created)?;
        for path in files(&networks.0.run.sandboxes)? {
            match store::read_json::<Sandbox>(&path) {
                Ok(Some(sandbox)) => {
                    state.sandboxes.insert(sandbox.container.clone(), sandbox);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("a container's network is lost: {error}");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        // What a crash has left of a start or an end.
        let used: BTreeSet<_> = state.sandboxes.values().map(|sandbox| sandbox.namespace.clone()).collect();
        for stray in files(&networks.0.run.namespaces)?.into_iter().filter(|path| !used.contains(path)) {
            if let Err(error) = sandbox::remove(&stray) {
                tracing::warn!("{error}");
            }
        }
        state.forwarding = networks.0.run.forwarding.exists();
        state.bring_up_all(all_are_known);
        networks.keep_forwarding(&state);
        drop(state);
        Ok(networks)
    }

    /// Notes for the next engine that this one made a router of the machine.
    pub(super) fn keep_forwarding(&self, state: &State) {
        let path = &self.0.run.forwarding;
        if state.forwarding
            && !path.exists()
            && let Err(error) = fs::write(path, "")
        {
            tracing::warn!("write {}: {error}", path.display());
        }
    }

    /// Goes on with a container that an engine before this one started. Blocks.
    pub(crate) fn adopt(&self, container: &str, name: &str, mode: &Mode) {
        if matches!(mode, Mode::None | Mode::Host) {
            self.start_without(container, name, mode);
            return;
        }
        let mut state = self.state();
        let Some(sandbox) = state.sandboxes.get(container).cloned() else { return };
        let mut served = Served::default();
        for mapping in sandbox.published.iter().filter(|mapping| mapping.is_of_the_host()) {
            let Some(protocol) = mapping.protocol.carried() else { continue };
            let port = PublishedPort {
                host: (mapping.host, mapping.host_port).into(),
                container: (mapping.container, mapping.container_port).into(),
                protocol,
            };
            match self.0.publisher.publish(&port) {
                Ok(open) => served.ports.push(open),
                Err(error) => tracing::error!(container, "publish {} again: {error}", port.host),
            }
        }
        if sandbox.dns.resolver {
            let resolver = sandbox::enter(&sandbox.namespace, Sockets::open)
                .and_then(|sockets| self.serve_names(&sandbox, sockets));
            match resolver {
                Ok(resolver) => served.resolver = Some(resolver),
                Err(error) => tracing::error!(container, "serve its names again: {error}"),
            }
        }
        self.0.names.learn(&sandbox);
        state.served.insert(container.to_owned(), served);
    }

    /// Gives back what containers had that are gone. To be called when every other has said that it runs.
    pub(crate) fn settle(&self, exists: impl Fn(&str) -> bool) {
        let lost: Vec<String> =
            self.state().sandboxes.keys().filter(|container| !exists(container)).cloned().collect();
        for container in lost {
            self.stop(&container);
        }
    }
}

impl State {
    /// `all_are_known` when there is no network that could not be read.
    fn bring_up_all(&mut self, all_are_known: bool) {
        let mut links = match Links::open() {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!("no netlink: networks with addresses cannot be used: {error}");
                return;
            }
        };
        // Before they are in the way of others.
        if all_are_known && let Err(error) = self.remove_strays(&mut links) {
            tracing::warn!("{error}");
        }
        let mut ipv6 = false;
        for network in self.networks.values_mut() {
            let brought_up = match network.driver.clone() {
                Driver::None => Ok(()),
                Driver::Bridge(options) => {
                    ipv6 |= network.api.enable_ipv6;
                    network.bring_up_bridge(&options, &mut links, &self.engine).map(drop)
                }
                Driver::Parent(options) => network.bring_up_parent(&options, &mut links, &self.engine),
            };
            if let Err(error) = brought_up {
                tracing::warn!(network = network.api.name, "{error}");
            }
        }
        for error in [self.enable_forwarding(ipv6), self.apply_rules()].into_iter().filter_map(Result::err) {
            tracing::warn!("{error}");
        }
    }
}

/// The files in a directory.
fn files(directory: &Path) -> Result<Vec<std::path::PathBuf>> {
    let what = || format!("read {}", directory.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).context(what)? {
        let path = entry.context(what)?.path();
        if path.extension().is_none_or(|extension| extension != "new") {
            all.push(path);
        }
    }
    Ok(all)
}
