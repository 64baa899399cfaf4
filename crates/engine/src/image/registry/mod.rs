//! Registries, as a puller sees them (OCI distribution specification).
//!
//! What a registry answers is bounded: documents in size, blobs by the size their manifest gives.

/// Challenges and tokens.
mod auth;
/// Where a repository is looked for.
mod endpoint;
/// What a registry refuses.
mod error;
/// Proxies on the way to them.
mod proxy;

pub(crate) use auth::Credentials;
pub(super) use error::RegistryError;

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use reqwest::{Client, ClientBuilder, Response, StatusCode, header};
use tokio::sync::Mutex;
use wire::settings::Proxies;

use super::{
    RegistryOptions,
    config::{DOCKER_INDEX, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST},
    reference::Reference,
};
use crate::{
    error::{Context, Error, Result},
    snapshot::Digest,
};
use auth::Authorization;
use endpoint::{Endpoint, Network};

/// How long a registry may take to accept a connection, and to send the next bytes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes read of an error's body or a token.
const MAX_ERROR: u64 = 64 << 10;
/// Most tags of one repository that are pulled at once.
const MAX_TAGS: usize = 10_000;
const USER_AGENT: &str = concat!("docker/28.5.2 coracle/", env!("CARGO_PKG_VERSION"));

/// The registries that this engine may talk to.
#[derive(Debug)]
pub(super) struct Registries {
    insecure: Vec<Insecure>,
    mirrors: Vec<String>,
    /// Looked at when first used: an environment that makes no sense is no reason not to start.
    proxies: Proxies,
    /// Made when first used: reading the machine's certificates takes a while.
    strict: tokio::sync::OnceCell<Client>,
    lenient: tokio::sync::OnceCell<Client>,
}

/// A line of [`RegistryOptions::insecure`].
#[derive(Debug, Clone, PartialEq, Eq)]
enum Insecure {
    /// `host[:port]`.
    Host(String),
    Network(Network),
}

/// A repository at one endpoint.
#[derive(Debug)]
pub(super) struct Session {
    client: Client,
    endpoint: Endpoint,
    /// The repository within the registry.
    path: String,
    credentials: Credentials,
    authorization: Mutex<Option<Authorization>>,
}

/// A manifest or an index of them, as it was sent.
#[derive(Debug, Clone)]
pub(super) struct Document {
    pub(super) content: Bytes,
    pub(super) digest: Digest,
    pub(super) media_type: Option<String>,
}

impl Registries {
    /// # Errors
    /// An option that is none.
    pub(super) fn new(options: &RegistryOptions) -> Result<Self> {
        let insecure = options.insecure.iter().map(|text| match text.contains('/') {
            true => Network::parse(text).map(Insecure::Network).ok_or_else(|| {
                Error::invalid(format!("insecure registry {text} is not valid: no host or CIDR"))
            }),
            false => Ok(Insecure::Host(text.clone())),
        });
        let mirrors = options.mirrors.iter().map(|text| {
            match text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) {
                Some(host) if !host.is_empty() => Ok(text.trim_end_matches('/').to_owned()),
                _ => Err(Error::invalid(format!("invalid mirror: {text:?} is no http(s) URL"))),
            }
        });
        Ok(Self {
            insecure: insecure.collect::<Result<_>>()?,
            mirrors: mirrors.collect::<Result<_>>()?,
            proxies: options.proxies.clone(),
            strict: tokio::sync::OnceCell::new(),
            lenient: tokio::sync::OnceCell::new(),
        })
    }

    /// The places to look for a reference, in order.
    pub(super) async fn sessions(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<Session>> {
        let insecure = self.is_insecure(reference.domain()).await;
        let endpoints = endpoint::endpoints(reference, &self.mirrors, insecure);
        let mut sessions = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let client = match endpoint.lenient {
                true => self.lenient.get_or_try_init(|| client(true, &self.proxies)).await?,
                false => self.strict.get_or_try_init(|| client(false, &self.proxies)).await?,
            };
            // What opens a registry is not shown to its mirrors.
            let credentials = if endpoint.mirror { Credentials::default() } else { credentials.clone() };
            sessions.push(Session {
                client: client.clone(),
                endpoint,
                path: reference.path().to_owned(),
                credentials,
                authorization: Mutex::new(None),
            });
        }
        Ok(sessions)
    }

    /// A plain download, as `import` of a URL wants it.
    ///
    /// # Errors
    /// A URL that is none, a server that does not answer with success.
    pub(super) async fn download(
        &self,
        url: &str,
    ) -> Result<(Option<u64>, impl Stream<Item = Result<Bytes, reqwest::Error>> + Send + use<>)> {
        let client = self.strict.get_or_try_init(|| client(false, &self.proxies)).await?;
        let response = client
            .get(url)
            .send()
            .await
            .and_then(Response::error_for_status)
            .map_err(|error| Error::invalid(format!("download {url}")).because(error))?;
        Ok((response.content_length(), response.bytes_stream()))
    }

    async fn is_insecure(&self, domain: &str) -> bool {
        let host = endpoint::host(domain);
        if host == "localhost" || host.ends_with(".localhost") {
            return true;
        }
        let by_name = self.insecure.iter().any(|insecure| match insecure {
            Insecure::Host(name) => name == domain || name == host,
            Insecure::Network(_) => false,
        });
        if by_name {
            return true;
        }
        let addresses: Vec<IpAddr> = match host.parse() {
            Ok(address) => vec![address],
            // Names are looked up only when there are networks to find them in.
            Err(_) if self.insecure.iter().any(|one| matches!(one, Insecure::Network(_))) => {
                tokio::net::lookup_host((host, 0))
                    .await
                    .map_or_else(|_| Vec::new(), |found| found.map(|found| found.ip()).collect())
            }
            Err(_) => Vec::new(),
        };
        addresses.iter().any(|address| {
            address.is_loopback()
                || self.insecure.iter().any(|insecure| match insecure {
                    Insecure::Network(network) => network.contains(*address),
                    Insecure::Host(_) => false,
                })
        })
    }
}

/// `lenient` for registries that the user called insecure.
async fn client(lenient: bool, proxies: &Proxies) -> Result<Client> {
    let proxies = proxy::parse(proxies)?;
    let make = move || {
        // The program may have chosen one already; this is for those that did not.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // What the environment says is in the options already.
        let builder = proxies.into_iter().fold(Client::builder().no_proxy(), ClientBuilder::proxy);
        builder
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .tls_danger_accept_invalid_certs(lenient)
            .build()
    };
    tokio::task::spawn_blocking(make)
        .await
        .context(|| "prepare to talk to registries".to_owned())?
        .context(|| "prepare to talk to registries".to_owned())
}

impl Session {
    pub(super) fn is_mirror(&self) -> bool {
        self.endpoint.mirror
    }

    /// A manifest or index by tag or digest. One asked for by digest is what it says.
    pub(super) async fn manifest(&self, reference: &str) -> Result<Document, RegistryError> {
        let url = format!("{}/{}/manifests/{reference}", self.endpoint.base, self.path);
        let accept = format!("{DOCKER_MANIFEST}, {DOCKER_INDEX}, {OCI_INDEX}, {OCI_MANIFEST}");
        let response = self.get(&url, Some(&accept), 0).await?;
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
        let content = limited(&url, response, MAX_DOCUMENT).await?;
        let digest = Digest::of(&content);
        if let Ok(expected) = reference.parse::<Digest>()
            && expected != digest
        {
            return Err(RegistryError::Mismatch { expected, got: digest });
        }
        Ok(Document { content, digest, media_type })
    }

    /// All tags of the repository.
    pub(super) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let first = format!("{}/{}/tags/list", self.endpoint.base, self.path);
        let mut tags: Vec<String> = Vec::new();
        let mut query = String::new();
        loop {
            let url = format!("{first}{query}");
            let response = self.get(&url, None, 0).await?;
            // `Link: </v2/…/tags/list?last=…&n=…>; rel="next"`; only its query is taken, so that no
            // other place is asked.
            let next = response
                .headers()
                .get(header::LINK)
                .and_then(|link| link.to_str().ok()?.split_once('>')?.0.split_once('?'))
                .map(|(_, next)| format!("?{next}"));
            let content = limited(&url, response, MAX_DOCUMENT).await?;
            let page: Page = serde_json::from_slice(&content).map_err(|_| RegistryError::Refused {
                status: StatusCode::OK,
                code: "UNKNOWN".to_owned(),
                message: format!("{url} does not list tags"),
            })?;
            let before = tags.len();
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if tags.len() > before && tags.len() < MAX_TAGS && next != query => {
                    query = next;
                }
                _ => return Ok(tags),
            }
        }
    }

    /// A small blob as a whole.
    pub(super) async fn document(&self, digest: Digest) -> Result<Bytes, RegistryError> {
        let url = self.blob_url(digest);
        let response = self.get(&url, None, 0).await?;
        let content = limited(&url, response, MAX_DOCUMENT).await?;
        match Digest::of(&content) {
            got if got != digest => Err(RegistryError::Mismatch { expected: digest, got }),
            _ => Ok(content),
        }
    }

    /// A blob's bytes from `offset` on. The caller checks digest and size.
    pub(super) async fn blob(
        &self,
        digest: Digest,
        offset: u64,
    ) -> Result<impl Stream<Item = Result<Bytes, RegistryError>> + Send + Unpin + use<>, RegistryError> {
        let url = self.blob_url(digest);
        let response = self.get(&url, None, offset).await?;
        // A server may not know ranges (RFC 9110 §14.2) and begin again.
        let mut skip = if response.status() == StatusCode::PARTIAL_CONTENT { 0 } else { offset };
        let stream = response
            .bytes_stream()
            .map_err(move |source| RegistryError::Network { url: url.clone(), source })
            .map_ok(move |mut bytes| {
                let skipped = bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                skip -= skipped as u64;
                bytes.split_off(skipped)
            });
        Ok(stream.boxed())
    }

    fn blob_url(&self, digest: Digest) -> String {
        format!("{}/{}/blobs/{digest}", self.endpoint.base, self.path)
    }

    /// A request that brings the authorization the registry asks for.
    async fn get(&self, url: &str, accept: Option<&str>, offset: u64) -> Result<Response, RegistryError> {
        let mut renewed = false;
        loop {
            let mut request = self.client.get(url);
            if let Some(accept) = accept {
                request = request.header(header::ACCEPT, accept);
            }
            if offset > 0 {
                request = request.header(header::RANGE, format!("bytes={offset}-"));
            }
            let authorization = self.authorization.lock().await.clone();
            if let Some(authorization) = &authorization {
                request = request.header(header::AUTHORIZATION, authorization.header());
            }
            let network = |source| RegistryError::Network { url: url.to_owned(), source };
            let response = request.send().await.map_err(network)?;
            match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                StatusCode::UNAUTHORIZED if !renewed => {
                    let challenges = auth::challenges(response.headers());
                    let used = authorization.as_ref();
                    if !self.authorize(&challenges, used).await? {
                        return Err(error::from_response(url, response).await);
                    }
                    renewed = true;
                }
                _ => return Err(error::from_response(url, response).await),
            }
        }
    }

    /// Answers a challenge; `false` if there is nothing to answer it with. Downloads of one pull that are
    /// refused at once get one new token.
    async fn authorize(
        &self,
        challenges: &[auth::Challenge],
        used: Option<&Authorization>,
    ) -> Result<bool, RegistryError> {
        let mut authorization = self.authorization.lock().await;
        if authorization.as_ref() != used {
            return Ok(true);
        }
        let answer = auth::answer(&self.client, challenges, &self.credentials, &self.path).await?;
        let answered = answer.is_some() && answer.as_ref() != used;
        *authorization = answer;
        Ok(answered)
    }
}

/// A response's body, which MUST NOT be longer than `limit` bytes.
async fn limited(url: &str, response: Response, limit: u64) -> Result<Bytes, RegistryError> {
    let mut content = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|source| RegistryError::Network { url: url.to_owned(), source })?;
        if content.len() as u64 + bytes.len() as u64 > limit {
            return Err(RegistryError::TooLong { url: url.to_owned(), limit });
        }
        content.extend_from_slice(&bytes);
    }
    Ok(content.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_on_this_machine_or_called_so_is_insecure() {
        let options = RegistryOptions {
            insecure: vec!["reg.example:5000".to_owned(), "10.1.0.0/16".to_owned()],
            ..RegistryOptions::default()
        };
        let registries = Registries::new(&options).unwrap();
        for (domain, insecure) in [
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost:5000", true),
            ("reg.example:5000", true),
            ("reg.example:5001", false),
            ("10.1.2.3:443", true),
            ("10.2.2.3:443", false),
        ] {
            assert_eq!(registries.is_insecure(domain).await, insecure, "{domain}");
        }
    }

    #[tokio::test]
    async fn a_proxy_that_makes_no_sense_is_told_to_who_needs_it() {
        let proxies = Proxies { http: Some("ftp://p.test".to_owned()), ..Proxies::default() };
        let registries = Registries::new(&RegistryOptions { proxies, ..RegistryOptions::default() }).unwrap();
        let reference = Reference::parse("busybox").unwrap();
        let error = registries.sessions(&reference, &Credentials::default()).await.unwrap_err();
        assert!(error.to_string().contains("invalid proxy \"ftp://p.test\""), "{error}");
    }

    #[test]
    fn options_that_are_none_are_refused() {
        let with = |insecure: &str, mirror: &str| {
            let list = |text: &str| match text {
                "" => Vec::new(),
                text => vec![text.to_owned()],
            };
            let (insecure, mirrors) = (list(insecure), list(mirror));
            Registries::new(&RegistryOptions { insecure, mirrors, ..RegistryOptions::default() })
        };
        assert!(with("10.0.0.0/33", "").is_err());
        assert!(with("", "mirror.example").is_err());
        assert!(with("", "https://").is_err());
        assert!(with("::1/128", "http://127.0.0.1:5000/").is_ok());
    }
}
