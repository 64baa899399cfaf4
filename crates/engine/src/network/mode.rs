//! `HostConfig.NetworkMode`.

/// How a container's network is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A namespace with a loopback interface only.
    None,
    /// The machine's own namespace.
    Host,
    /// The namespace of another container, by name or id.
    Container(String),
    /// A namespace with an interface for each of its networks; this one, by name or id, is where it is
    /// when nothing else is said.
    Network(String),
}

/// The name of the network that containers are in by default.
pub(crate) const BRIDGE: &str = "bridge";
/// The name of the machine's own network.
pub(super) const HOST: &str = "host";

impl Mode {
    pub(crate) fn of(network_mode: &str) -> Self {
        match network_mode {
            "none" => Self::None,
            HOST => Self::Host,
            "" | "default" => Self::Network(BRIDGE.to_owned()),
            name => match name.strip_prefix("container:") {
                Some(container) => Self::Container(container.to_owned()),
                None => Self::Network(name.to_owned()),
            },
        }
    }
}

/// Whether networks of this name are the engine's, not the user's.
pub(crate) fn is_predefined(name: &str) -> bool {
    matches!(name, BRIDGE | "none" | HOST | "default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_dockers() {
        assert_eq!(Mode::of("none"), Mode::None);
        assert_eq!(Mode::of("host"), Mode::Host);
        assert_eq!(Mode::of("default"), Mode::Network("bridge".to_owned()));
        assert_eq!(Mode::of("container:web"), Mode::Container("web".to_owned()));
        assert_eq!(Mode::of("backend"), Mode::Network("backend".to_owned()));
    }
}
