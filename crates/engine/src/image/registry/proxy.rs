//! Proxies on the way to registries.

use reqwest::{NoProxy, Proxy, Url};
use wire::settings::{PROXY_SCHEMES, Proxies, without_credentials};

use crate::error::{Error, Result};

/// Never asked of a proxy, as by any program written in Go: the proxy would look for them on its own machine.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// # Errors
/// A URL that is none.
pub(super) fn parse(proxies: &Proxies) -> Result<Vec<Proxy>> {
    let no_proxy = NoProxy::from_string(&match &proxies.no {
        Some(list) => format!("{LOOPBACK},{list}"),
        None => LOOPBACK.to_owned(),
    });
    let mut parsed = Vec::new();
    if let Some(url) = &proxies.http {
        parsed.push(Proxy::http(address(url)?));
    }
    if let Some(url) = &proxies.https {
        parsed.push(Proxy::https(address(url)?));
    }
    parsed
        .into_iter()
        .map(|proxy| match proxy {
            Ok(proxy) => Ok(proxy.no_proxy(no_proxy.clone())),
            Err(error) => Err(Error::invalid("a proxy that cannot be used").because(error)),
        })
        .collect()
}

/// A proxy is often named without a scheme.
fn address(text: &str) -> Result<Url> {
    let url = match text.contains("://") {
        true => Url::parse(text),
        false => Url::parse(&format!("http://{text}")),
    };
    match url {
        Ok(url) if PROXY_SCHEMES.contains(&url.scheme()) && url.has_host() => Ok(url),
        _ => Err(Error::invalid(format!(
            "invalid proxy {:?}: a proxy is named as http://HOST:PORT; known schemes are {}",
            without_credentials(text),
            PROXY_SCHEMES.join(", ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Result<Vec<Proxy>> {
        parse(&Proxies { https: Some(url.to_owned()), ..Proxies::default() })
    }

    #[test]
    fn a_proxy_has_a_host_and_a_known_scheme() {
        for url in
            ["http://p.test:3128", "p.test:3128", "http://me:secret@p.test", "socks5h://127.0.0.1:1080"]
        {
            assert_eq!(of(url).unwrap().len(), 1, "{url}");
        }
        for url in ["ftp://p.test", "http://", "http://p.test:99999"] {
            assert!(of(url).is_err(), "{url}");
        }
        assert!(!of("ftp://me:secret@p.test").unwrap_err().to_string().contains("secret"));
        assert!(parse(&Proxies::default()).unwrap().is_empty());
    }
}
