use std::{future::Future, io};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{
    io::{StreamReader, SyncIoBridge},
    task::AbortOnDropHandle,
};

use super::{Shared, error::no_such_route, filters::Filters, request::Params, version::ApiVersion};
use crate::{
    error::{Context, Error, Result},
    image::{
        Credentials, Images, Import, ListOptions, Platform, Progress, Pull, RemoveOptions, Updates,
        error_line,
    },
};

/// Names hold slashes, so that what comes after them is told apart in the handlers.
pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/create", post(create))
        .route("/images/get", get(save))
        .route("/images/load", post(load))
        .route("/images/prune", post(prune))
        .route("/images/search", get(search))
        .route("/images/{*rest}", get(get_one).post(post_one).delete(delete))
}

async fn list(
    State(engine): State<Shared>,
    Extension(version): Extension<ApiVersion>,
    params: Params,
) -> Result<Response<Body>> {
    let options = ListOptions {
        all: params.flag("all"),
        shared_size: params.flag("shared-size"),
        filters: Filters::parse(params.get("filters"), &ListOptions::FILTERS)?,
    };
    let images = engine.images.list(&options)?;
    if version.at_least(51) {
        return Ok(Json(images).into_response());
    }
    let mut images = serde_json::to_value(images).context(|| "encode a list".to_owned())?;
    for image in images.as_array_mut().into_iter().flatten() {
        older_summary(image, version);
    }
    Ok(Json(images).into_response())
}

/// What clients before API 1.51 expect.
fn older_summary(image: &mut Value, version: ApiVersion) {
    let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    if !version.at_least(43) && is_empty(&image["RepoTags"]) && is_empty(&image["RepoDigests"]) {
        image["RepoTags"] = json!(["<none>:<none>"]);
        image["RepoDigests"] = json!(["<none>@<none>"]);
    }
    if !version.at_least(44) {
        image["VirtualSize"] = image["Size"].clone();
    }
    image["Containers"] = json!(-1);
}

/// Pull and import.
async fn create(
    State(engine): State<Shared>,
    headers: HeaderMap,
    params: Params,
    body: Body,
) -> Result<Response<Body>> {
    let text = |name: &str| params.get(name).unwrap_or_default().to_owned();
    let platform = params.get("platform").map(Platform::parse).transpose()?;
    let images = engine.images.clone();
    if let Some(name) = params.get("fromImage") {
        let credentials = headers.get("x-registry-auth").and_then(|value| value.to_str().ok());
        let pull = Pull {
            name: name.trim_end_matches(':').to_owned(),
            tag: text("tag"),
            platform,
            credentials: credentials.map(Credentials::from_header).unwrap_or_default(),
        };
        return told(async move |progress| images.pull(pull, &progress).await).await;
    }
    let source = text("fromSrc");
    if source.is_empty() {
        return Err(Error::invalid("one of fromImage and fromSrc is required"));
    }
    let import = Import {
        source,
        repository: text("repo"),
        tag: text("tag"),
        message: text("message"),
        changes: params.all("changes").map(str::to_owned).collect(),
        platform,
    };
    let body = blocking(body);
    told(async move |progress| images.import(import, body, &progress).await).await
}

async fn load(State(engine): State<Shared>, params: Params, body: Body) -> Result<Response<Body>> {
    let quiet = params.flag("quiet");
    let images = engine.images.clone();
    let body = blocking(body);
    let answer = told(async move |progress| images.load(body, quiet, &progress).await).await;
    // Docker tells of every failure of this one in its stream.
    Ok(answer.unwrap_or_else(|error| {
        ([(header::CONTENT_TYPE, "application/json")], error_line(&error)).into_response()
    }))
}

async fn save(State(engine): State<Shared>, params: Params) -> Result<Response<Body>> {
    let names: Vec<String> = params.all("names").map(str::to_owned).collect();
    archive(&engine.images, &names).await
}

async fn archive(images: &Images, names: &[String]) -> Result<Response<Body>> {
    let stream = ReceiverStream::new(images.save(names).await?);
    let kind = [(header::CONTENT_TYPE, "application/x-tar")];
    Ok((kind, Body::from_stream(stream)).into_response())
}

async fn prune(State(engine): State<Shared>, params: Params) -> Result<Response<Body>> {
    let filters = Filters::parse(params.get("filters"), &Images::PRUNE_FILTERS)?;
    Ok(Json(engine.images.prune(filters).await?).into_response())
}

async fn search() -> Error {
    Error::not_implemented("searching registries for images is not implemented")
}

/// `GET /images/{name}/{json,history,get}`.
async fn get_one(
    State(engine): State<Shared>,
    Extension(version): Extension<ApiVersion>,
    Path(rest): Path<String>,
) -> Result<Response<Body>> {
    let images = &engine.images;
    match rest.rsplit_once('/') {
        Some((name, "json")) => {
            let image = images.inspect(name)?;
            if version.at_least(50) {
                return Ok(Json(image).into_response());
            }
            let mut image = serde_json::to_value(image).context(|| "encode an image".to_owned())?;
            older_inspect(&mut image, version);
            Ok(Json(image).into_response())
        }
        Some((name, "history")) => {
            let (images, name) = (images.clone(), name.to_owned());
            let history = spawn_blocking(move || images.history(&name));
            Ok(Json(history.await.context(|| "read a history".to_owned())??).into_response())
        }
        Some((name, "get")) => archive(images, &[name.to_owned()]).await,
        _ => Ok(no_such_route().await),
    }
}

/// What clients before API 1.50 expect.
fn older_inspect(image: &mut Value, version: ApiVersion) {
    if !version.at_least(44) {
        image["VirtualSize"] = image["Size"].clone();
        if image.get("Created").is_none() {
            image["Created"] = json!("0001-01-01T00:00:00Z");
        }
    }
    let old = json!({
        "AttachStderr": false, "AttachStdin": false, "AttachStdout": false, "Domainname": "",
        "Hostname": "", "Image": "", "OpenStdin": false, "StdinOnce": false, "Tty": false,
    });
    if !version.at_least(45) {
        let mut container = old.clone();
        for name in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
            container[name] = Value::Null;
        }
        container["User"] = json!("");
        container["WorkingDir"] = json!("");
        image["ContainerConfig"] = container;
    }
    if let (Some(config), Value::Object(old)) = (image["Config"].as_object_mut(), old) {
        config.extend(old);
    }
}

/// `POST /images/{name}/{tag,push}`.
async fn post_one(
    State(engine): State<Shared>,
    Path(rest): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    match rest.rsplit_once('/') {
        Some((name, "tag")) => {
            let (repository, tag) = (params.get("repo"), params.get("tag"));
            engine.images.tag(name, repository.unwrap_or_default(), tag.unwrap_or_default()).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        Some((_, "push")) => Err(Error::not_implemented("pushing images is not implemented")),
        _ => Ok(no_such_route().await),
    }
}

async fn delete(
    State(engine): State<Shared>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response<Body>> {
    let options = RemoveOptions { force: params.flag("force"), keep_parents: params.flag("noprune") };
    Ok(Json(engine.images.remove(&name, options).await?).into_response())
}

/// A request's body for work on a thread that may block.
pub(super) fn blocking(body: Body) -> impl io::Read + Send + 'static {
    let stream = body.into_data_stream().map_err(io::Error::other);
    SyncIoBridge::new(StreamReader::new(stream))
}

/// Answers with the progress of `work`. What fails before the first line is an error answer, later ones
/// are the last line. A client that leaves ends the work.
async fn told<W, F>(work: W) -> Result<Response<Body>>
where
    W: FnOnce(Progress) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (progress, mut updates) = Progress::new();
    let work = work(progress.clone());
    let work = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::select! {
            result = work => result,
            () = progress.closed() => Ok(()),
        }
    }));
    let kind = [(header::CONTENT_TYPE, "application/json")];
    let Some(first) = updates.recv().await else {
        finished(work).await?;
        return Ok((kind, Body::empty()).into_response());
    };
    let rest = stream::unfold(Some((updates, work)), |state| async {
        let (mut updates, work): (Updates, AbortOnDropHandle<Result<()>>) = state?;
        if let Some(line) = updates.recv().await {
            return Some((line, Some((updates, work))));
        }
        match finished(work).await {
            Ok(()) => None,
            Err(error) => Some((error_line(&error), None)),
        }
    });
    let lines = stream::once(async { first }).chain(rest).map(Ok::<_, io::Error>);
    Ok((kind, Body::from_stream(lines)).into_response())
}

async fn finished(work: AbortOnDropHandle<Result<()>>) -> Result<()> {
    work.await.context(|| "work on images".to_owned())?
}
