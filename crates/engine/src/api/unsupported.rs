use axum::{
    Json, Router,
    extract::Path,
    routing::{any, get, post},
};

use super::Shared;
use crate::error::{Error, Kind, Result};

/// Routes that Docker has and this engine has not yet, or never will: each says which.
pub(super) fn routes() -> Router<Shared> {
    let swarm = ["swarm", "nodes", "services", "tasks", "secrets", "configs"];
    let mut routes = Router::new();
    for resource in swarm {
        routes = routes
            .route(&format!("/{resource}"), any(no_swarm))
            .route(&format!("/{resource}/{{*rest}}"), any(no_swarm));
    }
    routes
        .route("/build", post(|| not_yet("docker build")))
        .route("/build/prune", post(|| not_yet("docker builder prune")))
        .route("/build/cancel", post(|| not_yet("cancelling a build")))
        .route("/session", post(|| not_yet("BuildKit's session")))
        .route("/grpc", post(|| not_yet("BuildKit's protocol")))
        .route("/distribution/{*name}", get(|| not_yet("docker manifest inspect")))
        .route("/plugins", get(no_plugins))
        .route("/plugins/{name}/json", get(no_plugin))
        .route("/plugins/{name}", any(|| not_yet("docker plugin")))
        .route("/plugins/{name}/{verb}", any(|| not_yet("docker plugin")))
}

async fn not_yet(what: &'static str) -> Error {
    Error::not_implemented(format!("{what} is not implemented yet"))
}

/// None can be installed, so none is there.
async fn no_plugins() -> Json<[(); 0]> {
    Json([])
}

async fn no_plugin(Path(name): Path<String>) -> Error {
    Error::not_found(format!("plugin {name:?} not found"))
}

async fn no_swarm() -> Result<()> {
    Err(Error::new(
        Kind::Unavailable,
        "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
         connect this node to swarm and try again.",
    ))
}
