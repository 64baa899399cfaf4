use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, State},
    http::{Response, StatusCode},
    routing::{MethodRouter, get, post},
};
use wire::docker::volume::{CreateRequest, File, List, PruneReport, Volume};

use super::{
    Shared,
    files::{archive_response, stat_response, wanted},
    filters::Filters,
    images,
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
        // Docker has none of these: there, files of a volume need a container.
        .route("/volumes/{name}/files", get(files))
        .route("/volumes/{name}/archive", get(archive).head(stat).put(extract))
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

async fn files(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Vec<File>>> {
    let path = params.get("path").unwrap_or_default().to_owned();
    blocking(move || engine.volumes.files(&name, &path)).await.map(Json)
}

async fn stat(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    let path = wanted(&params)?.to_owned();
    stat_response(&blocking(move || engine.volumes.stat_path(&name, &path)).await?)
}

async fn archive(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    let (stat, stream) = engine.volumes.archive_path(&name, wanted(&params)?).await?;
    archive_response(&stat, stream)
}

async fn extract(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
    body: Body,
) -> Result<()> {
    let (path, archive) = (wanted(&params)?.to_owned(), images::blocking(body));
    blocking(move || engine.volumes.extract(&name, &path, archive)).await
}

/// Only volumes of a cluster have anything that could be changed.
async fn update() -> Error {
    Error::new(Kind::Unavailable, "volume update only valid for cluster volumes, but swarm is unavailable")
}
