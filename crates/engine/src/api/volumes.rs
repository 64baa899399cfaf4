use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{MethodRouter, get, post},
};
use wire::docker::volume::{CreateRequest, List, PruneReport, Volume};

use super::{
    Shared,
    filters::Filters,
    request::{OptionalJson, Params},
    version::ApiVersion,
};
use crate::{
    blocking,
    error::{Error, Kind, Result},
    volume::{LIST_FILTERS, New, PRUNE_FILTERS},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create).merge(named("create")))
        .route("/volumes/prune", post(prune).merge(named("prune")))
        .route("/volumes/{name}", get(inspect).put(update).delete(remove))
}

/// The other verbs of a route that is also a volume's name.
fn named(name: &'static str) -> MethodRouter<Shared> {
    let path = move || Path(name.to_owned());
    get(move |engine| inspect(engine, path()))
        .put(update)
        .delete(move |engine, params| remove(engine, path(), params))
}

async fn list(State(engine): State<Shared>, params: Params) -> Result<Json<List>> {
    let filters = Filters::parse(params.get("filters"), LIST_FILTERS)?;
    engine.volumes.list(&filters).map(Json)
}

async fn inspect(State(engine): State<Shared>, Path(name): Path<String>) -> Result<Json<Volume>> {
    engine.volumes.inspect(&name).map(Json)
}

async fn create(
    State(engine): State<Shared>,
    OptionalJson(request): OptionalJson<CreateRequest>,
) -> Result<(StatusCode, Json<Volume>)> {
    let made = blocking(move || {
        let CreateRequest { name, driver, driver_opts, labels } = request;
        let name = engine.volumes.create(New { name, driver, labels, options: driver_opts })?;
        engine.volumes.inspect(&name)
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn remove(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    blocking(move || engine.volumes.remove(&name, params.flag("force"))).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(
    State(engine): State<Shared>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> Result<Json<PruneReport>> {
    let filters = Filters::parse(params.get("filters"), PRUNE_FILTERS)?;
    // Before 1.42 volumes with names were pruned, too.
    blocking(move || engine.volumes.prune(&filters, !version.at_least(42))).await.map(Json)
}

/// Only volumes of a cluster have anything that could be changed.
async fn update() -> Error {
    Error::new(Kind::Unavailable, "volume update only valid for cluster volumes, but swarm is unavailable")
}
