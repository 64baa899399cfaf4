//! The Docker Engine API's JSON, version 1.51, a module per resource as in Docker's own reference.
//!
//! Answers carry every field that Docker's carry, also when empty: clients index them unasked. What
//! Docker answers with `null` when it was not given is an [`Option`] here. Requests are decoded
//! leniently: unknown fields are ignored and every field has a default. Names of members in any case, and
//! `null` for "not given", are `decode`'s matter.

use serde::de::DeserializeOwned;

/// `/containers`.
pub mod container;
/// `/events`.
pub mod event;
/// `/exec`.
pub mod exec;
/// A container's `HostConfig`.
pub mod host_config;
/// `/images`.
pub mod image;
/// Requests, read as Go reads JSON.
mod json;
/// `/networks`.
pub mod network;
/// `/containers/{id}/stats`.
pub mod stats;
/// `/version`, `/info`, `/system/df`.
pub mod system;
/// `/volumes`.
pub mod volume;

/// The API version this engine speaks.
pub const API_VERSION: &str = "1.51";
/// The oldest API version this engine accepts.
pub const MIN_API_VERSION: &str = "1.40";

/// What Docker writes for a time that never was.
pub const NEVER: &str = "0001-01-01T00:00:00Z";

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ErrorResponse {
    pub message: String,
}

/// Decodes a request body as Go does: names of members in any case, `null` ones as if they were absent.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    T::deserialize(serde_json::from_slice::<json::Json>(body)?)
}
