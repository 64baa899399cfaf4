use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{Response, header},
    response::IntoResponse,
    routing::{get, post},
};
use futures_util::stream;
use time::OffsetDateTime;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use wire::docker::{
    event::Event,
    system::{DiskUsage, Info, Version},
};

use super::{Shared, filters::Filters, request::Params};
use crate::error::{Error, Result};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        // axum answers HEAD by the GET handler without its body, as Docker does.
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/system/df", get(disk_usage))
        .route("/events", get(events))
        .route("/auth", post(auth))
}

async fn ping() -> impl IntoResponse {
    (
        [
            (header::CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate"),
            (header::PRAGMA.as_str(), "no-cache"),
            (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
            // The client then builds by `POST /build`. BuildKit's protocol comes with the builder.
            ("Builder-Version", "1"),
            ("Swarm", "inactive"),
        ],
        "OK",
    )
}

async fn version(State(engine): State<Shared>) -> Json<Version> {
    Json(engine.version())
}

async fn info(State(engine): State<Shared>) -> Json<Info> {
    Json(engine.info())
}

async fn disk_usage(State(engine): State<Shared>, params: Params) -> Result<Json<DiskUsage>> {
    let kinds: Vec<&str> = params.all("type").collect();
    engine.disk_usage(&kinds).await.map(Json)
}

async fn auth() -> Error {
    Error::not_implemented("docker login is not implemented yet")
}

const EVENT_FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

async fn events(State(engine): State<Shared>, params: Params) -> Result<Response<Body>> {
    let filters = Filters::parse(params.get("filters"), EVENT_FILTERS)?;
    let since = moment(&params, "since")?;
    let until = moment(&params, "until")?;
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(Error::invalid("`since` time cannot be after `until` time"));
    }
    let (past, live) = engine.events.listen();
    let wanted = move |event: &Event| {
        since.is_none_or(|since| event.time_nano >= since)
            && until.is_none_or(|until| event.time_nano <= until)
            && fits(event, &filters)
    };
    // Past events are asked for by `since`, or by an `until` that lies in the past.
    let mut past: Vec<Event> = if since.is_some() || until.is_some() { past } else { Vec::new() };
    past.retain(&wanted);
    past.reverse();
    let deadline = until.map(|until| {
        let left = i128::from(until) - OffsetDateTime::now_utc().unix_timestamp_nanos();
        let left = u64::try_from(left.max(0)).unwrap_or(u64::MAX);
        tokio::time::Instant::now() + std::time::Duration::from_nanos(left)
    });
    let lines = stream::unfold((past, live, wanted), move |(mut past, mut live, wanted)| async move {
        let event = match past.pop() {
            Some(event) => event,
            None => next(&mut live, &wanted, deadline).await?,
        };
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(line)), (past, live, wanted)))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response())
}

/// The next event that is wanted; `None` after `deadline` and at the engine's end.
async fn next(
    live: &mut Receiver<Event>,
    wanted: &impl Fn(&Event) -> bool,
    deadline: Option<tokio::time::Instant>,
) -> Option<Event> {
    loop {
        let received = match deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, live.recv()).await.ok()?,
            None => live.recv().await,
        };
        match received {
            Ok(event) if wanted(&event) => return Some(event),
            Ok(_) => {}
            // A listener that reads too slowly loses the oldest, as in Docker.
            Err(RecvError::Lagged(lost)) => tracing::warn!("an events client lost {lost} events"),
            Err(RecvError::Closed) => return None,
        }
    }
}

fn fits(event: &Event, filters: &Filters) -> bool {
    let actor = |kind: &str| {
        filters.passes(kind, |wanted| {
            let name = event.actor.attributes.get("name");
            event.kind == kind
                && (event.actor.id.starts_with(wanted) || name.is_some_and(|name| name == wanted))
        })
    };
    let image = filters.passes("image", |wanted| {
        let names = ["image", "name"].map(|key| event.actor.attributes.get(key));
        let untagged = |name: &str| name.rsplit_once(':').is_some_and(|(name, _)| name == wanted);
        event.actor.id == wanted || names.into_iter().flatten().any(|name| name == wanted || untagged(name))
    });
    // `exec_start: sh` is asked for as `exec_start`.
    let action = event.action.split(": ").next().unwrap_or_default();
    filters.passes("type", |kind| event.kind == kind)
        && filters.passes("event", |wanted| event.action == wanted || action == wanted)
        && filters.passes("scope", |scope| event.scope == scope)
        && filters.labels("label", &event.actor.attributes)
        && ["container", "network", "volume", "daemon"].into_iter().all(actor)
        && image
}

/// A time in nanoseconds since the Unix epoch, given as `seconds[.fraction]` or RFC 3339.
fn moment(params: &Params, name: &str) -> Result<Option<i64>> {
    let Some(text) = params.get(name) else { return Ok(None) };
    crate::system::parse_timestamp(text)
        .map(Some)
        .ok_or_else(|| Error::invalid(format!("invalid {name} timestamp {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Events;

    #[test]
    fn events_are_filtered_by_actor_label_and_action() {
        let events = Events::default();
        events.emit(
            "container",
            "exec_start: sh",
            "abcdef",
            [("name", "web"), ("image", "nginx:latest"), ("tier", "front")],
        );
        let event = events.listen().0.remove(0);
        let fits = |text: &str| super::fits(&event, &Filters::parse(Some(text), EVENT_FILTERS).unwrap());
        for text in [
            r#"{"container":["web"]}"#,
            r#"{"container":["abc"]}"#,
            r#"{"event":["exec_start"]}"#,
            r#"{"image":["nginx"]}"#,
            r#"{"label":["tier=front"],"type":["container"]}"#,
        ] {
            assert!(fits(text), "{text}");
        }
        for text in [
            r#"{"container":["db"]}"#,
            r#"{"event":["start"]}"#,
            r#"{"image":["redis"]}"#,
            r#"{"label":["tier=back"]}"#,
            r#"{"network":["web"]}"#,
        ] {
            assert!(!fits(text), "{text}");
        }
    }
}
