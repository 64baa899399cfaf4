use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{
        FromRequest, Path, Request, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{Response, StatusCode, header},
    response::IntoResponse,
    routing::{MethodRouter, delete, get, post},
};
use serde::de::DeserializeOwned;
use wire::docker::{
    container::{
        CreateRequest, CreateResponse, Inspect, PruneReport, Summary, Top, UpdateRequest, UpdateResponse,
        WaitError, WaitResponse,
    },
    host_config::HostConfig,
};

use super::{
    Shared,
    filters::Filters,
    hijack::{StreamKind, hijack},
    request::{Json as JsonBody, OptionalJson, Params},
    version::ApiVersion,
    websocket,
};
use crate::{
    container::{
        AttachRequest, Condition, DetachKeys, LIST_FILTERS, ListQuery, LogQuery, PRUNE_FILTERS,
        RemoveOptions, StopOptions,
    },
    error::{Error, Result},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/json", get(list).merge(named("json")))
        .route("/containers/create", post(create).merge(named("create")))
        .route("/containers/prune", post(prune).merge(named("prune")))
        .route("/containers/{name}", delete(remove))
        .route("/containers/{name}/json", get(inspect))
        .route("/containers/{name}/top", get(top))
        .route("/containers/{name}/logs", get(logs))
        .route("/containers/{name}/start", post(start))
        .route("/containers/{name}/stop", post(stop))
        .route("/containers/{name}/restart", post(restart))
        .route("/containers/{name}/kill", post(kill))
        .route("/containers/{name}/pause", post(pause))
        .route("/containers/{name}/unpause", post(unpause))
        .route("/containers/{name}/rename", post(rename))
        .route("/containers/{name}/update", post(update))
        .route("/containers/{name}/resize", post(resize))
        .route("/containers/{name}/wait", post(wait))
        .route("/containers/{name}/attach", post(attach))
        .route("/containers/{name}/attach/ws", get(attach_by_websocket))
        .route("/containers/{name}/stats", get(stats))
        .route("/containers/{name}/checkpoints", get(checkpoints).post(checkpoints))
}

/// The other verb of a route that is also a container's name.
fn named(name: &'static str) -> MethodRouter<Shared> {
    delete(move |engine, params| remove(engine, Path(name.to_owned()), params))
}

/// Runs what changes something to its end, even if the client leaves before.
pub(super) async fn to_end<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(change).await {
        Ok(result) => result,
        Err(error) => Err(Error::system("a task of the engine panicked").because(error)),
    }
}

/// A request's JSON body, if it has one, and the request without it.
pub(super) async fn split_body<T: DeserializeOwned + Default>(request: Request) -> Result<(Request, T)> {
    let (parts, body) = request.into_parts();
    let with_body = Request::from_parts(parts.clone(), body);
    let OptionalJson(value) = OptionalJson::from_request(with_body, &()).await?;
    Ok((Request::from_parts(parts, Body::empty()), value))
}

/// `h` and `w`: rows and columns. Nobody has more than fit.
pub(super) fn terminal_size(params: &Params) -> Result<(u16, u16)> {
    let number = |name: &str, what: &str| -> Result<u16> {
        let text = params.get(name).unwrap_or_default();
        let number: u32 = text.parse().map_err(|error: std::num::ParseIntError| {
            Error::invalid(format!("invalid resize {what} {text:?}")).because(error)
        })?;
        Ok(u16::try_from(number).unwrap_or(u16::MAX))
    };
    Ok((number("h", "height")?, number("w", "width")?))
}

async fn list(State(engine): State<Shared>, params: Params) -> Result<Json<Vec<Summary>>> {
    let query = ListQuery {
        all: params.flag("all"),
        limit: usize::try_from(params.number("limit")?.unwrap_or(0)).unwrap_or(0),
        size: params.flag("size"),
        filters: Filters::parse(params.get("filters"), LIST_FILTERS)?,
    };
    engine.containers.list(query).await.map(Json)
}

/// Ignores or refuses, as Docker does, what the API's `version` does not know of mounts.
fn adapt_mounts(version: ApiVersion, host_config: &mut HostConfig) -> Result<()> {
    for mount in host_config.mounts.iter_mut().flatten() {
        let kind = mount.kind.as_str();
        let options = [
            ("VolumeOptions", "volume", mount.volume_options.is_some()),
            ("BindOptions", "bind", mount.bind_options.is_some()),
            ("TmpfsOptions", "tmpfs", mount.tmpfs_options.is_some()),
        ];
        let misplaced = options.into_iter().find(|(_, own, given)| *given && kind != *own);
        if version.at_least(42) {
            if let Some((field, ..)) = misplaced {
                return Err(Error::invalid(format!("{field} must not be specified on mount type {kind:?}")));
            }
        } else {
            mount.volume_options.take_if(|_| kind != "volume");
            mount.tmpfs_options.take_if(|_| kind != "tmpfs");
            if let Some(options) = &mut mount.bind_options {
                options.create_mountpoint = false;
            }
        }
        if let Some(options) = mount.bind_options.as_mut().filter(|_| !version.at_least(44)) {
            options.read_only_non_recursive = false;
            if options.read_only_force_recursive {
                return Err(Error::invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer"));
            }
        }
        let subpath = mount.volume_options.as_ref().is_some_and(|options| !options.subpath.is_empty());
        if subpath && !version.at_least(45) {
            return Err(Error::invalid("VolumeOptions.Subpath needs API v1.45 or newer"));
        }
        if kind == "image" && !version.at_least(48) {
            return Err(Error::invalid("Mount type \"Image\" needs API v1.48 or newer"));
        }
    }
    Ok(())
}

async fn create(
    State(engine): State<Shared>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    JsonBody(mut request): JsonBody<CreateRequest>,
) -> Result<(StatusCode, Json<CreateResponse>)> {
    adapt_mounts(version, &mut request.host_config)?;
    let made = to_end(async move {
        let name = params.get("name").unwrap_or_default();
        engine.containers.create(name, params.get("platform"), request).await
    });
    Ok((StatusCode::CREATED, Json(made.await?)))
}

async fn inspect(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Inspect>> {
    engine.containers.inspect(&name, params.flag("size")).await.map(Json)
}

async fn top(State(engine): State<Shared>, Path(name): Path<String>, params: Params) -> Result<Json<Top>> {
    engine.containers.top(&name, params.get("ps_args").unwrap_or_default()).await.map(Json)
}

async fn start(State(engine): State<Shared>, Path(name): Path<String>, params: Params) -> Result<StatusCode> {
    if params.get("checkpoint").is_some() {
        return Err(Error::invalid("checkpoint is only supported in experimental mode"));
    }
    to_end(async move { engine.containers.start(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn stop_options(params: &Params) -> Result<StopOptions> {
    Ok(StopOptions {
        signal: params.get("signal").unwrap_or_default().to_owned(),
        timeout: params.number("t")?,
    })
}

async fn stop(State(engine): State<Shared>, Path(name): Path<String>, params: Params) -> Result<StatusCode> {
    let options = stop_options(&params)?;
    to_end(async move { engine.containers.stop(&name, &options).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    let options = stop_options(&params)?;
    to_end(async move { engine.containers.restart(&name, &options).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill(State(engine): State<Shared>, Path(name): Path<String>, params: Params) -> Result<StatusCode> {
    to_end(async move { engine.containers.kill(&name, params.get("signal").unwrap_or_default()).await })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(State(engine): State<Shared>, Path(name): Path<String>) -> Result<StatusCode> {
    to_end(async move { engine.containers.pause(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpause(State(engine): State<Shared>, Path(name): Path<String>) -> Result<StatusCode> {
    to_end(async move { engine.containers.unpause(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rename(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    to_end(async move { engine.containers.rename(&name, params.get("name").unwrap_or_default()).await })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn update(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    JsonBody(request): JsonBody<UpdateRequest>,
) -> Result<Json<UpdateResponse>> {
    to_end(async move { engine.containers.update(&name, request).await }).await.map(Json)
}

async fn remove(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode> {
    let options =
        RemoveOptions { force: params.flag("force"), volumes: params.flag("v"), link: params.flag("link") };
    to_end(async move { engine.containers.remove(&name, options).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(State(engine): State<Shared>, params: Params) -> Result<Json<PruneReport>> {
    let filters = Filters::parse(params.get("filters"), PRUNE_FILTERS)?;
    to_end(async move { engine.containers.prune(&filters).await }).await.map(Json)
}

async fn resize(State(engine): State<Shared>, Path(name): Path<String>, params: Params) -> Result<()> {
    let (rows, columns) = terminal_size(&params)?;
    engine.containers.resize(&name, rows, columns)
}

/// The head of the answer goes out at once: clients start the container when they have it.
async fn wait(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    let condition = Condition::parse(params.get("condition").unwrap_or_default())?;
    let waiting = engine.containers.wait(&name, condition)?;
    let answer = async move {
        let waited = waiting.await;
        let response = WaitResponse {
            status_code: waited.exit_code.into(),
            error: waited.error.map(|message| WaitError { message }),
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(line))
    };
    let body = Body::from_stream(futures_util::stream::once(answer));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Whether the client knows the media type of multiplexed streams.
pub(super) fn knows_multiplexed(request: &Request) -> bool {
    request.extensions().get::<ApiVersion>().is_none_or(|version| version.at_least(42))
}

fn stream_kind(raw: bool, knows_multiplexed: bool) -> StreamKind {
    if raw || !knows_multiplexed { StreamKind::Raw } else { StreamKind::Multiplexed }
}

async fn logs(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
    request: Request,
) -> Result<Response<Body>> {
    let moment = |name: &str| -> Result<Option<i64>> {
        params
            .get(name)
            .filter(|text| *text != "0")
            .map(|text| {
                crate::system::parse_timestamp(text)
                    .ok_or_else(|| Error::invalid(format!("invalid value for \"{name}\": {text:?}")))
            })
            .transpose()
    };
    let query = LogQuery {
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        follow: params.flag("follow"),
        timestamps: params.flag("timestamps"),
        details: params.flag("details"),
        // Whatever is no number means all, as in Docker.
        tail: params.get("tail").and_then(|text| text.parse().ok()),
        since: moment("since")?,
        until: moment("until")?,
        multiplexed: true,
    };
    if !query.stdout && !query.stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let logs = engine.containers.logs(&name, query)?;
    let kind = stream_kind(logs.is_raw, knows_multiplexed(&request));
    let body = Body::from_stream(logs.pieces);
    Ok(([(header::CONTENT_TYPE, kind.content_type())], body).into_response())
}

async fn attach(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
    request: Request,
) -> Result<Response<Body>> {
    let wanted = AttachRequest {
        logs: params.flag("logs"),
        stream: params.flag("stream"),
        stdin: params.flag("stdin"),
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        multiplexed: true,
        detach_keys: DetachKeys::for_attach(params.get("detachKeys").unwrap_or_default())?,
    };
    let attachment = engine.containers.attach(&name, wanted)?;
    let kind = stream_kind(attachment.is_raw(), knows_multiplexed(&request));
    Ok(hijack(request, kind, move |connection| attachment.run(connection)))
}

async fn attach_by_websocket(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response<Body>> {
    // Before 1.42 these were not asked about.
    let stream = |name| !version.at_least(42) || params.flag(name);
    let wanted = AttachRequest {
        logs: params.flag("logs"),
        stream: params.flag("stream"),
        stdin: stream("stdin"),
        stdout: stream("stdout"),
        stderr: stream("stderr"),
        multiplexed: false,
        detach_keys: DetachKeys::for_attach(params.get("detachKeys").unwrap_or_default())?,
    };
    // Docker looks at the container first, and nothing is told of an attach that comes to nothing.
    engine.containers.check_attach(&name)?;
    let upgrade = upgrade.map_err(|error| Error::invalid(error.body_text()))?;
    let attachment = engine.containers.attach(&name, wanted)?;
    Ok(websocket::serve(upgrade, move |connection| attachment.run(connection)))
}

async fn stats(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> Result<Response<Body>> {
    let stream = params.flag_or("stream", true);
    let one_shot = version.at_least(41) && params.flag("one-shot");
    if stream && one_shot {
        // Docker looks for the container first.
        engine.containers.get(&name)?;
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    if stream {
        // Docker names no media type here.
        return Ok(Response::new(Body::from_stream(engine.containers.stats_stream(&name)?)));
    }
    Ok(Json(engine.containers.stats(&name, one_shot).await?).into_response())
}

async fn checkpoints() -> Error {
    Error::not_implemented("checkpoints are not implemented")
}
