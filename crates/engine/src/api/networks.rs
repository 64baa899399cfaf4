use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use wire::docker::network::{
    ConnectRequest, CreateRequest, CreateResponse, DisconnectRequest, Network, PruneReport,
};

use super::{
    Shared,
    containers::to_end,
    filters::Filters,
    request::{Json as JsonBody, Params},
};
use crate::{
    blocking,
    error::Result,
    network::{LIST_FILTERS, PRUNE_FILTERS},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(create))
        .route("/networks/prune", post(prune))
        .route("/networks/{name}", get(inspect).delete(remove))
        .route("/networks/{name}/connect", post(connect))
        .route("/networks/{name}/disconnect", post(disconnect))
}

async fn list(State(engine): State<Shared>, params: Params) -> Result<Json<Vec<Network>>> {
    let filters = Filters::parse(params.get("filters"), LIST_FILTERS)?;
    blocking(move || engine.networks.list(&filters)).await.map(Json)
}

async fn inspect(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Network>> {
    blocking(move || engine.networks.inspect(&name, params.get("scope"))).await.map(Json)
}

async fn create(
    State(engine): State<Shared>,
    JsonBody(request): JsonBody<CreateRequest>,
) -> Result<(StatusCode, Json<CreateResponse>)> {
    let made = blocking(move || engine.networks.create(request)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn remove(State(engine): State<Shared>, Path(name): Path<String>) -> Result<StatusCode> {
    blocking(move || engine.networks.remove(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(State(engine): State<Shared>, params: Params) -> Result<Json<PruneReport>> {
    let filters = Filters::parse(params.get("filters"), PRUNE_FILTERS)?;
    blocking(move || engine.networks.prune(&filters)).await.map(Json)
}

async fn connect(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<ConnectRequest>,
) -> Result<()> {
    let ConnectRequest { container, endpoint_config } = request;
    to_end(async move { engine.containers.connect(&container, &name, endpoint_config).await }).await
}

async fn disconnect(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<DisconnectRequest>,
) -> Result<()> {
    let DisconnectRequest { container, force: _ } = request;
    to_end(async move { engine.containers.disconnect(&container, &name).await }).await
}
