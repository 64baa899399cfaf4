use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use base64::Engine as _;
use tokio_stream::wrappers::ReceiverStream;
use wire::docker::container::{CommitResponse, ContainerConfig, FilesystemChange, PathStat};

use super::{
    Shared,
    containers::to_end,
    images::blocking,
    request::{OptionalJson, Params},
};
use crate::{
    container::{Commit, Extract},
    error::{Context, Error, Result},
    snapshot::ArchiveStream,
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/{name}/changes", get(changes))
        .route("/containers/{name}/export", get(export))
        .route("/containers/{name}/archive", get(archive).head(stat).put(extract))
        .route("/commit", post(commit))
}

async fn changes(
    State(engine): State<Shared>,
    Path(name): Path<String>,
) -> Result<Json<Option<Vec<FilesystemChange>>>> {
    engine.containers.changes(&name).await.map(Json)
}

async fn export(State(engine): State<Shared>, Path(name): Path<String>) -> Result<Response<Body>> {
    let stream = ReceiverStream::new(engine.containers.export(&name).await?);
    let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
    Ok((kind, Body::from_stream(stream)).into_response())
}

/// The path that is meant.
pub(super) fn wanted(params: &Params) -> Result<&str> {
    params.get("path").ok_or_else(|| Error::invalid("bad parameter: pathcannot be empty"))
}

const PATH_STAT: &str = "X-Docker-Container-Path-Stat";

fn stat_header(stat: &PathStat) -> Result<HeaderValue> {
    let what = || "encode what is at a path".to_owned();
    let json = serde_json::to_vec(stat).context(what)?;
    HeaderValue::try_from(base64::engine::general_purpose::STANDARD.encode(json)).context(what)
}

async fn stat(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    stat_response(&engine.containers.stat_path(&name, wanted(&params)?).await?)
}

/// What is at a path.
pub(super) fn stat_response(stat: &PathStat) -> Result<Response<Body>> {
    Ok(([(PATH_STAT, stat_header(stat)?)], ()).into_response())
}

async fn archive(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    let (stat, stream) = engine.containers.archive_path(&name, wanted(&params)?).await?;
    archive_response(&stat, stream)
}

/// An archive of what is at a path.
pub(super) fn archive_response(stat: &PathStat, stream: ArchiveStream) -> Result<Response<Body>> {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    let mut response = ([kind], Body::from_stream(ReceiverStream::new(stream))).into_response();
    response.headers_mut().insert(PATH_STAT, stat_header(stat)?);
    Ok(response)
}

async fn extract(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
    body: Body,
) -> Result<()> {
    let path = wanted(&params)?;
    let how = Extract {
        keep_kinds: params.flag("noOverwriteDirNonDir"),
        container_user: params.flag("copyUIDGID"),
    };
    engine.containers.extract(&name, path, how, blocking(body)).await
}

async fn commit(
    State(engine): State<Shared>,
    params: Params,
    OptionalJson(config): OptionalJson<Option<ContainerConfig>>,
) -> Result<(StatusCode, Json<CommitResponse>)> {
    let text = |name: &str| params.get(name).unwrap_or_default().to_owned();
    let commit = Commit {
        container: text("container"),
        repository: text("repo"),
        tag: text("tag"),
        author: text("author"),
        comment: text("comment"),
        changes: params.all("changes").map(str::to_owned).collect(),
        pause: params.flag_or("pause", true),
        // docker-py sends an empty one where it means none.
        config: config.filter(|config| *config != ContainerConfig::default()),
    };
    let id = to_end(async move { engine.containers.commit(commit).await }).await?;
    Ok((StatusCode::CREATED, Json(CommitResponse { id })))
}
