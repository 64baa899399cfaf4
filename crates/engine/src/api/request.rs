use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Request},
    http::{HeaderMap, header::CONTENT_TYPE, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The largest JSON body accepted, in bytes: a container's configuration with room to spare.
const MAX_JSON: usize = 4 << 20;

/// The query of a request, with Docker's idea of a boolean.
#[derive(Debug, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    /// The first value of `name`, if it is given and not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// Every value of `name`, in order.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// True unless `name` is absent, empty, `0`, `no`, `false` or `none`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// [`Params::flag`], or `default` when `name` is absent or empty.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |value| {
            !matches!(value.to_ascii_lowercase().trim(), "0" | "no" | "false" | "none")
        })
    }

    /// `name` as a whole number.
    ///
    /// # Errors
    /// A value that is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>> {
        self.get(name)
            .map(|value| {
                value.parse().map_err(|error| {
                    Error::invalid(format!("invalid value {value:?} for {name}")).because(error)
                })
            })
            .transpose()
    }
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default();
        serde_urlencoded::from_str(query)
            .map(Self)
            .map_err(|error| Error::invalid(format!("invalid query {query:?}")).because(error))
    }
}

/// A JSON body. `null` members count as absent.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        must_be_json(request.headers())?;
        let body = collect(request.into_body()).await?;
        if body.is_empty() {
            return Err(Error::invalid("invalid JSON: got EOF while reading request body"));
        }
        decode(&body).map(Self)
    }
}

/// A JSON body that may be left out.
#[derive(Debug)]
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let (parts, body) = request.into_parts();
        let body = collect(body).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        must_be_json(&parts.headers)?;
        decode(&body).map(Self)
    }
}

/// A body must say that it is JSON, in whatever character set.
fn must_be_json(headers: &HeaderMap) -> Result<()> {
    let kind = headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let kind = kind.unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Error::invalid(if essence.is_empty() {
        format!("malformed Content-Type header ({kind}): mime: no media type")
    } else {
        format!("unsupported Content-Type header ({kind}): must be 'application/json'")
    }))
}

async fn collect(body: Body) -> Result<Bytes> {
    axum::body::to_bytes(body, MAX_JSON).await.map_err(|error| {
        Error::invalid(format!("read the request body (at most {MAX_JSON} bytes)")).because(error)
    })
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    wire::docker::decode(body).map_err(|error| Error::invalid("invalid JSON").because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str) -> Params {
        Params(serde_urlencoded::from_str(query).unwrap())
    }

    #[test]
    fn booleans_are_dockers() {
        let params = params("a=1&b=0&c=&d=False&e=yes&f=none");
        assert!(params.flag("a") && params.flag("e"));
        for name in ["b", "c", "d", "f", "absent"] {
            assert!(!params.flag(name), "{name}");
        }
        assert!(params.flag_or("absent", true));
    }

    #[test]
    fn only_json_is_read_as_json() {
        let check = |kind: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
            must_be_json(&headers).map_err(|error| error.to_string())
        };
        assert_eq!(check("application/json"), Ok(()));
        assert_eq!(check("Application/JSON; charset=utf-8"), Ok(()));
        let refused = "unsupported Content-Type header (text/plain): must be 'application/json'";
        assert_eq!(check("text/plain").unwrap_err(), refused);
        let none = must_be_json(&HeaderMap::new()).unwrap_err().to_string();
        assert_eq!(none, "malformed Content-Type header (): mime: no media type");
    }

    #[test]
    fn names_may_repeat_and_numbers_are_checked() {
        let params = params("names=a&names=b&limit=-1&t=soon");
        assert_eq!(params.all("names").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(params.number("limit").unwrap(), Some(-1));
        assert!(params.number("t").unwrap_err().to_string().contains("\"soon\""));
    }
}
