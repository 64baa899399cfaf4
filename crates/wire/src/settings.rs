//! What the host's user has chosen and the guest needs to know.
//!
//! PID 1 opens a stream to [`crate::vsock::SETTINGS_PORT`] before it starts the engine; the host writes one `Settings`
//! line and closes it.

use serde::{Deserialize, Serialize};

/// The host's line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub proxies: Proxies,
    /// Whether containers find the proxies in their environment.
    pub container_proxy: bool,
    /// In the order of their numbers in the root of the file system [`SHARES_TAG`].
    pub shares: Vec<Share>,
    /// The host has an ssh-agent ([`SSH_AGENT_SOCKET`]).
    pub ssh_agent: bool,
}

/// Where the guest has the socket of the host's ssh-agent, for containers to mount; Docker Desktop has it there.
pub const SSH_AGENT_SOCKET: &str = "/run/host-services/ssh-auth.sock";

/// The virtio-fs tag of the file system that holds the shares.
pub const SHARES_TAG: &str = "shares";

/// A folder of the host that the guest has at the same path. In text it is `PATH`, or `PATH:ro`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Absolute, without `.` and `..`.
    pub path: String,
    pub read_only: bool,
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.path, if self.read_only { ":ro" } else { "" })
    }
}

/// Proxies as the environment names them: `HTTP_PROXY`, `HTTPS_PROXY` (URLs, which may hold a password) and
/// `NO_PROXY` (a list of hosts, domains and CIDRs, separated by commas).
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxies {
    pub http: Option<String>,
    pub https: Option<String>,
    pub no: Option<String>,
}

/// Schemes of a proxy's URL; one that names none means the first.
pub const PROXY_SCHEMES: [&str; 4] = ["http", "https", "socks5", "socks5h"];

impl Proxies {
    /// Those that the environment names, in capitals or not.
    pub fn from_environment() -> Self {
        let variable = |name: &str| {
            let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase()));
            value.ok().filter(|value| !value.is_empty())
        };
        Self { http: variable("HTTP_PROXY"), https: variable("HTTPS_PROXY"), no: variable("NO_PROXY") }
    }

    /// Those of `self`, and of `other` what is missing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { http: self.http.or(other.http), https: self.https.or(other.https), no: self.no.or(other.no) }
    }

    /// Name and value of each variable, in capitals; nothing without a proxy.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let any = self.http.is_some() || self.https.is_some();
        [("HTTP_PROXY", &self.http), ("HTTPS_PROXY", &self.https), ("NO_PROXY", &self.no)]
            .into_iter()
            .filter_map(move |(name, value)| Some((name, value.as_deref().filter(|_| any)?)))
    }
}

/// A URL without its password, for logs and `docker info`, in Docker's form.
pub fn without_credentials(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1))) {
        Some((scheme, host)) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        None => url.to_owned(),
    }
}

impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies")
            .field("http", &self.http.as_deref().map(without_credentials))
            .field("https", &self.https.as_deref().map(without_credentials))
            .field("no", &self.no)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(url: &str) -> Proxies {
        Proxies { http: Some(url.to_owned()), ..Proxies::default() }
    }

    #[test]
    fn a_password_is_not_shown() {
        let proxies = http("http://me:p@ss@proxy.test:3128/");
        assert_eq!(
            without_credentials("http://me:p@ss@proxy.test:3128/"),
            "http://xxxxx:xxxxx@proxy.test:3128/"
        );
        assert_eq!(without_credentials("http://proxy.test:3128"), "http://proxy.test:3128");
        assert!(!format!("{proxies:?}").contains("p@ss"));
    }

    #[test]
    fn variables_are_those_of_a_proxy() {
        assert_eq!(Proxies { no: Some("a.test".to_owned()), ..Proxies::default() }.variables().count(), 0);
        let proxies = Proxies { no: Some("a.test".to_owned()), ..http("http://p:1") };
        let variables: Vec<_> = proxies.variables().collect();
        assert_eq!(variables, [("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "a.test")]);
        assert_eq!(http("http://p:1").or(http("http://p:2")), http("http://p:1"));
        assert_eq!(Proxies::default().or(http("http://p:2")), http("http://p:2"));
    }
}
