use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Request, State},
    http::{Response, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use wire::docker::exec::{ExecCreateRequest, ExecCreateResponse, ExecInspect, ExecStartRequest};

use super::{
    Shared,
    containers::{knows_multiplexed, split_body, terminal_size, to_end},
    hijack::{StreamKind, hijack},
    request::{Json as JsonBody, Params},
};
use crate::{container::ExecStart, error::Result};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/{name}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

async fn create(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<ExecCreateRequest>,
) -> Result<(StatusCode, Json<ExecCreateResponse>)> {
    let id = engine.containers.create_exec(&name, request).await?;
    Ok((StatusCode::CREATED, Json(ExecCreateResponse { id })))
}

async fn start(
    State(engine): State<Shared>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response<Body>> {
    // An upgraded connection's bytes come after this body.
    let (request, mut options) = split_body::<ExecStartRequest>(request).await?;
    if !options.tty {
        options.console_size = None;
    }
    let started = to_end(async move { engine.containers.start_exec(&id, &options).await }).await?;
    let attachment = match started {
        ExecStart::Detached => return Ok(StatusCode::OK.into_response()),
        ExecStart::Attached(attachment) => attachment,
    };
    let multiplexed = !attachment.is_raw() && knows_multiplexed(&request);
    let kind = if multiplexed { StreamKind::Multiplexed } else { StreamKind::Raw };
    Ok(hijack(request, kind, move |connection| attachment.run(connection)))
}

async fn resize(State(engine): State<Shared>, Path(id): Path<String>, params: Params) -> Result<()> {
    let (rows, columns) = terminal_size(&params)?;
    engine.containers.resize_exec(&id, rows, columns)
}

async fn inspect(State(engine): State<Shared>, Path(id): Path<String>) -> Result<Json<ExecInspect>> {
    engine.containers.inspect_exec(&id).map(Json)
}
