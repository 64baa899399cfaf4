//! Proxies of the host's, and how a guest names them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Url;
use wire::{
    network::{HOST, HOST_NAMES},
    settings::{PROXY_SCHEMES, Proxies, without_credentials},
};

/// Says that there is to be no proxy, whatever the environment says.
pub(crate) const NONE: &str = "none";

/// A proxy as the user names it: `http://HOST:PORT`, or [`NONE`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub(crate) struct ProxyUrl(String);

impl ProxyUrl {
    pub(crate) fn into_url(self) -> Option<String> {
        unless_none(self.0)
    }
}

pub(crate) fn unless_none(text: String) -> Option<String> {
    (!text.is_empty() && text != NONE).then_some(text)
}

impl FromStr for ProxyUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == NONE || parse(text).is_some() {
            return Ok(ProxyUrl(text.to_owned()));
        }
        Err(format!("not a proxy: it is http://HOST:PORT, or {NONE} whatever the environment says"))
    }
}

impl TryFrom<String> for ProxyUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ProxyUrl> for String {
    fn from(proxy: ProxyUrl) -> String {
        proxy.0
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(&self.0))
    }
}

/// A proxy is often named without a scheme.
fn parse(text: &str) -> Option<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    Url::parse(&text).ok().filter(|url| url.has_host() && PROXY_SCHEMES.contains(&url.scheme()))
}

/// The same proxies as a guest reaches them: the host's loopback addresses have a name there, which no proxy knows.
pub(crate) fn for_guest(proxies: &Proxies) -> Proxies {
    let seen = |proxy: &Option<String>| {
        let text = proxy.as_deref()?;
        let Some(mut url) = parse(text).filter(is_loopback) else { return Some(text.to_owned()) };
        // Refused for URLs whose host cannot change, which none with a host is.
        url.set_host(Some(HOST_NAMES[0])).ok()?;
        Some(url.into())
    };
    let own = HOST_NAMES.iter().map(|name| (*name).to_owned()).chain([HOST.to_string()]);
    let no: Vec<String> = proxies.no.clone().into_iter().chain(own).collect();
    Proxies { http: seen(&proxies.http), https: seen(&proxies.https), no: Some(no.join(",")) }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_loopback_has_another_name_in_the_guest() {
        for (here, there) in [
            ("http://127.0.0.1:3128", "http://host.docker.internal:3128/"),
            ("localhost:3128", "http://host.docker.internal:3128/"),
            ("http://me:secret@[::1]:8080/", "http://me:secret@host.docker.internal:8080/"),
            ("http://proxy.test:3128", "http://proxy.test:3128"),
        ] {
            let proxies = Proxies { http: Some(here.to_owned()), ..Proxies::default() };
            let guest = for_guest(&proxies);
            assert_eq!(guest.http.as_deref(), Some(there));
            assert_eq!(guest.https, None);
            assert!(guest.no.unwrap().contains("host.docker.internal,"));
        }
    }

    #[test]
    fn a_proxy_is_a_url_or_none() {
        for text in ["none", "http://p.test:1", "p.test:3128", "socks5://[::1]:1080"] {
            assert!(text.parse::<ProxyUrl>().is_ok(), "{text}");
        }
        for text in ["", "http://", "http://p:99999", "http:// /", "ftp://p.test"] {
            assert!(text.parse::<ProxyUrl>().is_err(), "{text}");
        }
        assert!(!format!("{:?}", "http://me:secret@p.test".parse::<ProxyUrl>().unwrap()).contains("secret"));
    }
}
