use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use wire::docker::network::{EndpointResource, Network};

use super::{Shared, filters::Filters, request::Params};
use crate::{
    container::ListQuery,
    error::{Error, Result},
};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/create", post(no_driver))
        .route("/networks/prune", post(no_driver))
        .route("/networks/{name}", get(inspect).delete(remove))
        .route("/networks/{name}/connect", post(no_driver))
        .route("/networks/{name}/disconnect", post(no_driver))
}

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];

async fn list(State(engine): State<Shared>, params: Params) -> Result<Json<Vec<Network>>> {
    let filters = Filters::parse(params.get("filters"), FILTERS)?;
    let dangling = filters.flag("dangling")?;
    Ok(Json(
        engine
            .networks
            .list()
            .filter(|network| {
                filters.passes("driver", |driver| network.driver == driver)
                    && filters.passes("id", |id| network.id.starts_with(id))
                    && filters.passes("name", |name| network.name.contains(name))
                    && filters.passes("scope", |scope| network.scope == scope)
                    && filters.passes("type", |kind| kind == "builtin")
                    && filters.labels("label", &network.labels)
                    && dangling != Some(true)
            })
            .cloned()
            .collect(),
    ))
}

async fn inspect(State(engine): State<Shared>, Path(name): Path<String>) -> Result<Json<Network>> {
    let mut network = engine.networks.get(&name)?.clone();
    let running = ListQuery::default();
    for container in engine.containers.list(running, &engine.networks).await? {
        if let Some(endpoint) = container.network_settings.networks.get(&network.name) {
            let name = container.names.first().map_or("", |name| name.trim_start_matches('/')).to_owned();
            let resource = EndpointResource {
                name,
                endpoint_id: endpoint.endpoint_id.clone(),
                ..EndpointResource::default()
            };
            network.containers.insert(container.id, resource);
        }
    }
    Ok(Json(network))
}

async fn remove(State(engine): State<Shared>, Path(name): Path<String>) -> Result<()> {
    let network = engine.networks.get(&name)?;
    Err(Error::new(
        crate::error::Kind::Forbidden,
        format!("{} is a pre-defined network and cannot be removed", network.name),
    ))
}

async fn no_driver() -> Error {
    Error::not_implemented("networks other than none and host are not implemented yet")
}
