//! The Docker Engine API over HTTP/1.1, as Docker 28.5 answers it (API 1.51).
//!
//! A handler parses, calls one function of [`crate::Engine`]'s parts, and encodes. Routes stand in one
//! table per resource (`routes()` in each module here), merged in `router`.

/// `/containers`.
mod containers;
/// Errors as HTTP answers.
mod error;
/// `/exec`.
mod exec;
/// `/containers/{name}/{archive,changes,export}`, `/commit`.
mod files;
/// The filters of list routes: `?filters={"label":["a=b"]}`.
pub mod filters;
/// Connections taken over from HTTP: attach and exec.
mod hijack;
/// `/images`.
mod images;
/// `/networks`.
mod networks;
/// Request parts as handlers want them.
mod request;
/// Accepting connections.
mod server;
/// `/_ping`, `/version`, `/info`, `/system/df`, `/events`, `/auth`.
mod system;
/// What Docker has and this engine has not.
mod unsupported;
/// `/v1.NN/…`: the version a client asks for.
mod version;
/// `/volumes`.
mod volumes;
/// Attach over a websocket.
mod websocket;

pub(crate) use server::serve;

use std::sync::Arc;

use axum::Router;

use crate::Engine;

/// What every handler gets.
pub(crate) type Shared = Arc<Engine>;

/// Every route of the API, without version prefix.
fn routes() -> Router<Shared> {
    Router::new()
        .merge(system::routes())
        .merge(images::routes())
        .merge(containers::routes())
        .merge(files::routes())
        .merge(exec::routes())
        .merge(networks::routes())
        .merge(volumes::routes())
        .merge(unsupported::routes())
        .fallback(error::no_such_route)
        .method_not_allowed_fallback(error::no_such_route)
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_resources_claim_one_route() {
        // Merging routes that overlap panics.
        let _ = super::routes();
    }
}
