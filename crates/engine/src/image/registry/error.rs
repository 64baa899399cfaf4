use std::{error::Error as StdError, fmt};

use reqwest::{Response, StatusCode};
use rustix::io::Errno;
use serde::Deserialize;

use super::{MAX_ERROR, auth, limited};
use crate::{
    error::{Error, Kind, errno_text},
    image::reference::Reference,
    snapshot::Digest,
};

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(in crate::image) enum RegistryError {
    /// Nobody answered, or not to the end.
    #[error("Get {url:?}: {}", Reasons(.source))]
    Network { url: String, source: reqwest::Error },
    /// The registry refused, in the words of the distribution specification.
    #[error("{}: {message}", .code.to_ascii_lowercase().replace('_', " "))]
    Refused { status: StatusCode, code: String, message: String },
    #[error("the answer of {url} is longer than {limit} bytes")]
    TooLong { url: String, limit: u64 },
    #[error("manifest verification failed for digest {expected}: it is {got}")]
    Mismatch { expected: Digest, got: Digest },
}

/// The reasons of an error without the error itself, which repeats the URL; what the system says, in Go's
/// words and without who passed it on.
struct Reasons<'a>(&'a reqwest::Error);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(mut source) = StdError::source(self.0) else { return self.0.fmt(f) };
        let reasons = std::iter::successors(Some(source), |&reason| reason.source());
        let codes = reasons.filter_map(|reason| reason.downcast_ref::<std::io::Error>()?.raw_os_error());
        if let Some(code) = codes.last() {
            let doing = if self.0.is_connect() { "connect" } else { "read" };
            return write!(f, "{doing}: {}", errno_text(Errno::from_raw_os_error(code)));
        }
        loop {
            write!(f, "{source}")?;
            match source.source() {
                Some(next) => source = next,
                None => return Ok(()),
            }
            f.write_str(": ")?;
        }
    }
}

impl RegistryError {
    /// Whether the same request may do better in a while.
    pub(in crate::image) fn is_transient(&self) -> bool {
        match self {
            Self::Network { source, .. } => !source.is_builder(),
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::TooLong { .. } | Self::Mismatch { .. } => false,
        }
    }

    /// What a client that wanted `reference` is told, in Docker's words.
    pub(in crate::image) fn about(self, reference: &Reference) -> Error {
        let (kind, context) = match &self {
            Self::Refused { code, status, .. } => match code.as_str() {
                "DENIED" => (
                    Kind::NotFound,
                    Some(format!(
                        "pull access denied for {}, repository does not exist or may require \
                         'docker login'",
                        reference.familiar_name()
                    )),
                ),
                "MANIFEST_UNKNOWN" => {
                    (Kind::NotFound, Some(format!("manifest for {} not found", reference.familiar())))
                }
                "NAME_UNKNOWN" => {
                    (Kind::NotFound, Some(format!("repository {} not found", reference.familiar_name())))
                }
                "UNAUTHORIZED" => (Kind::Unauthorized, None),
                _ if *status == StatusCode::NOT_FOUND => (Kind::NotFound, None),
                _ if *status == StatusCode::TOO_MANY_REQUESTS => (Kind::Unavailable, None),
                _ => (Kind::System, None),
            },
            Self::Network { .. } | Self::TooLong { .. } | Self::Mismatch { .. } => (Kind::System, None),
        };
        let message = match context {
            Some(context) => format!("{context}: {self}"),
            None => self.to_string(),
        };
        Error::new(kind, message)
    }
}

/// What a response that is no success says.
pub(super) async fn from_response(url: &str, response: Response) -> RegistryError {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Line>,
        // What token servers and some proxies write instead.
        #[serde(default)]
        details: Option<String>,
        #[serde(default)]
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct Line {
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    // RFC 6750 §3.1: the challenge may say more than the body.
    for challenge in auth::challenges(response.headers()) {
        let (code, message) = match challenge.parameter("error") {
            Some("insufficient_scope") => ("DENIED", "requested access to the resource is denied"),
            Some("invalid_token") => ("UNAUTHORIZED", "authentication required"),
            _ => continue,
        };
        let message = challenge.parameter("error_description").unwrap_or(message).to_owned();
        return RegistryError::Refused { status, code: code.to_owned(), message };
    }
    let body = match limited(url, response, MAX_ERROR).await {
        Ok(body) => body,
        Err(error) => return error,
    };
    let body: Body =
        serde_json::from_slice(&body).unwrap_or(Body { errors: Vec::new(), details: None, message: None });
    if let Some(Line { code, message }) = body.errors.into_iter().next() {
        let message = if message.is_empty() { code.to_ascii_lowercase() } else { message };
        return RegistryError::Refused { status, code, message };
    }
    let (code, message) = match status {
        StatusCode::UNAUTHORIZED => ("UNAUTHORIZED", "authentication required".to_owned()),
        StatusCode::FORBIDDEN => ("DENIED", "requested access to the resource is denied".to_owned()),
        StatusCode::TOO_MANY_REQUESTS => ("TOOMANYREQUESTS", "too many requests".to_owned()),
        StatusCode::NOT_FOUND if url.contains("/manifests/") => {
            ("MANIFEST_UNKNOWN", "manifest unknown".to_owned())
        }
        status => ("UNKNOWN", format!("unexpected status from GET request to {url}: {status}")),
    };
    let message = body.details.or(body.message).unwrap_or(message);
    RegistryError::Refused { status, code: code.to_owned(), message }
}
