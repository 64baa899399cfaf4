use std::fmt;

use axum::http::{Method, Request, Uri, uri::PathAndQuery};
use wire::docker::{API_VERSION, MIN_API_VERSION};

use crate::error::{Error, Result};

/// The API version that a request's path names, `1.minor`; the newest when it names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u32,
    minor: u32,
}

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number =
            |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?;
        Some(Self { major: number(major)?, minor: number(minor)? })
    }

    fn known(text: &'static str) -> Self {
        Self::parse(text).unwrap_or(Self { major: 1, minor: 0 })
    }

    /// Whether the client speaks `1.minor` or later.
    pub(crate) fn at_least(self, minor: u32) -> bool {
        self >= Self { major: 1, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Takes the `/v1.NN` prefix off a request's path, so that routes are written once, and keeps the
/// version as an extension of the request.
///
/// # Errors
/// A version out of the range that this engine speaks, in Docker's words.
pub(super) fn strip<B>(request: &mut Request<B>) -> Result<()> {
    let mut version = ApiVersion::known(API_VERSION);
    let path = request.uri().path().to_owned();
    if let Some((named, rest)) = path.strip_prefix("/v").and_then(|path| path.split_once('/'))
        && let Some(parsed) = ApiVersion::parse(named)
    {
        if parsed < ApiVersion::known(MIN_API_VERSION) {
            return Err(Error::invalid(format!(
                "client version {parsed} is too old. Minimum supported API version is \
                 {MIN_API_VERSION}, please upgrade your client to a newer version"
            )));
        }
        if parsed > version {
            return Err(Error::invalid(format!(
                "client version {parsed} is too new. Maximum supported API version is {API_VERSION}"
            )));
        }
        version = parsed;
        set_path(request, &format!("/{rest}"))?;
    }
    if let Some(path) = link_as_name(request.method(), request.uri().path()) {
        set_path(request, &path)?;
    }
    request.extensions_mut().insert(version);
    Ok(())
}

fn set_path<B>(request: &mut Request<B>, path: &str) -> Result<()> {
    let whole = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let path_and_query = PathAndQuery::try_from(whole)
        .map_err(|error| Error::invalid(format!("invalid path {path}")).because(error))?;
    let mut parts = request.uri().clone().into_parts();
    parts.path_and_query = Some(path_and_query);
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|error| Error::invalid("invalid request target").because(error))?;
    Ok(())
}

/// A path in which a container is named by a link, `parent/alias`, with that name as one part, as routes have it.
fn link_as_name(method: &Method, path: &str) -> Option<String> {
    let parts: Vec<&str> = path.strip_prefix("/containers/")?.split('/').collect();
    match parts.as_slice() {
        [_, "attach", "ws"] => None,
        [parent, alias, verb] => Some(format!("/containers/{parent}%2F{alias}/{verb}")),
        [parent, alias] if *method == Method::DELETE => Some(format!("/containers/{parent}%2F{alias}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(uri: &str) -> Result<(String, ApiVersion)> {
        let mut request = Request::builder().uri(uri).body(()).unwrap();
        strip(&mut request)?;
        let version = *request.extensions().get::<ApiVersion>().unwrap();
        Ok((request.uri().to_string(), version))
    }

    #[test]
    fn the_prefix_goes_and_the_version_stays() {
        let (uri, version) = stripped("/v1.44/containers/json?all=1").unwrap();
        assert_eq!(uri, "/containers/json?all=1");
        assert!(version.at_least(44) && !version.at_least(45));
    }

    #[test]
    fn a_path_without_a_version_is_left_alone() {
        for uri in ["/_ping", "/volumes", "/v1", "/vx.y/info"] {
            let (left, version) = stripped(uri).unwrap();
            assert_eq!(left, uri);
            assert_eq!(version.to_string(), API_VERSION);
        }
    }

    #[test]
    fn versions_out_of_range_are_refused_in_dockers_words() {
        let old = stripped("/v1.24/info").unwrap_err().to_string();
        assert!(old.starts_with("client version 1.24 is too old. Minimum supported"), "{old}");
        let new = stripped("/v1.99/info").unwrap_err().to_string();
        assert!(new.starts_with("client version 1.99 is too new. Maximum supported"), "{new}");
    }

    #[test]
    fn links_are_names_of_containers() {
        let link = |method, path| link_as_name(&method, path);
        assert_eq!(link(Method::GET, "/containers/a/b/json").unwrap(), "/containers/a%2Fb/json");
        assert_eq!(link(Method::DELETE, "/containers/a/b").unwrap(), "/containers/a%2Fb");
        for path in ["/containers/a/json", "/containers/a/attach/ws", "/containers/json", "/images/a/b/json"]
        {
            assert_eq!(link(Method::GET, path), None, "{path}");
        }
    }
}
