use std::{
    convert::Infallible,
    fs,
    future::Future,
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use axum::{
    body::Body,
    http::{HeaderValue, Request, Response, header},
    response::IntoResponse,
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};
use tower::ServiceExt;
use wire::docker::API_VERSION;

use super::{routes, version};
use crate::{
    Engine, Host,
    error::{Context, Result},
};

/// Accepts API connections on every one of `hosts` until the returned future is dropped.
///
/// # Errors
/// A socket that cannot be bound.
pub(crate) fn serve(engine: Arc<Engine>, hosts: &[Host]) -> Result<impl Future<Output = ()> + Send + use<>> {
    let router = routes().with_state(engine);
    let mut accepting = tokio::task::JoinSet::new();
    for host in hosts {
        let router = router.clone();
        match host {
            Host::Unix(path) => {
                let listener = bind_unix(path).context(|| format!("listen on {host}"))?;
                accepting.spawn(accept(router, async move || Ok(listener.accept().await?.0)));
            }
            Host::Inherited(number) => {
                let listener = Host::inherited(*number).and_then(UnixListener::from_std);
                let listener = listener.context(|| format!("listen on {host}"))?;
                accepting.spawn(accept(router, async move || Ok(listener.accept().await?.0)));
            }
            Host::Vsock(port) => {
                let address = VsockAddr::new(VMADDR_CID_ANY, *port);
                let listener = VsockListener::bind(address).context(|| format!("listen on {host}"))?;
                accepting.spawn(accept(router, async move || Ok(listener.accept().await?.0)));
            }
        }
    }
    Ok(async move { while accepting.join_next().await.is_some() {} })
}

/// Binds `path` for the owner alone. A socket left behind is replaced; the data root's lock says that
/// no engine of ours is behind it.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept<C, A>(router: axum::Router, mut next: A)
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    A: AsyncFnMut() -> io::Result<C>,
{
    loop {
        match next().await {
            Ok(connection) => {
                tokio::spawn(talk(router.clone(), connection));
            }
            Err(error) => {
                // Mostly EMFILE: connections must end before another can begin.
                tracing::warn!("accept a connection: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn talk<C>(router: axum::Router, connection: C)
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(router, request.map(Body::new)).await) }
    });
    let result = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(connection), service)
        .await;
    if let Err(error) = result {
        tracing::debug!("a client's connection ended: {error}");
    }
}

async fn answer(router: axum::Router, mut request: Request<Body>) -> Response<Body> {
    let mut response = match version::strip(&mut request) {
        Ok(()) => router.oneshot(request).await.unwrap_or_else(|never| match never {}),
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert("Api-Version", HeaderValue::from_static(API_VERSION));
    headers.insert("Docker-Experimental", HeaderValue::from_static("false"));
    headers.insert("Ostype", HeaderValue::from_static("linux"));
    headers.insert(header::SERVER, HeaderValue::from_static(crate::system::SERVER));
    response
}
