//! The Docker Engine API's JSON, version 1.51, a module per resource as in Docker's own reference.
//!
//! Answers carry every field that Docker's carry, also when empty: clients index them unasked. What
//! Docker answers with `null` when it was not given is an [`Option`] here. Requests are decoded
//! leniently: unknown fields are ignored and every field has a default. A `null` in a request means
//! "not given", as in Go; `decode` sees to that.

use serde::de::DeserializeOwned;
use serde_json::Value;

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

/// Decodes a request body, taking `null` fields for absent ones.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(body)?;
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}
