use std::{
    collections::HashMap,
    fs,
    io::Read,
    path::Path,
    sync::{Arc, Mutex},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State as Shared},
    http::{Response, StatusCode, header},
    response::IntoResponse,
};
use futures_util::stream;
use tempfile::TempDir;

use super::{Credentials, Image, Images, Import, Platform, Progress, Pull, RegistryOptions};
use crate::{
    error::Result,
    events::Events,
    snapshot::{
        Digest, Layers, Snapshots,
        testing::{Archive, gzip},
    },
};

/// A store of its own.
pub(super) struct Fixture {
    pub(super) root: TempDir,
    pub(super) images: Images,
    pub(super) snapshots: Snapshots,
    pub(super) events: Events,
}

fn open(root: &Path) -> (Images, Snapshots, Events) {
    let events = Events::default();
    let layers = Layers::open(root).unwrap();
    let snapshots = Snapshots::open(root, &root.join("exec"), layers.clone()).unwrap();
    let options = RegistryOptions::default();
    let images = Images::open(root, layers, events.clone(), options).unwrap();
    (images, snapshots, events)
}

impl Fixture {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (images, snapshots, events) = open(root.path());
        Self { root, images, snapshots, events }
    }

    /// As after a restart of the engine, when it has swept.
    pub(super) fn reopen(&mut self) {
        (self.images, self.snapshots, self.events) = open(self.root.path());
        for directory in ["layers/.tmp", "layers/.trash"] {
            while fs::read_dir(self.root.path().join(directory)).unwrap().count() > 0 {
                std::thread::yield_now();
            }
        }
    }

    pub(super) async fn import(&self, name: &str, file: &str) -> Arc<Image> {
        self.import_with(name, file, &[]).await
    }

    /// An image of one file, whose content is its name.
    pub(super) async fn import_with(&self, name: &str, file: &str, changes: &[&str]) -> Arc<Image> {
        let import = Import {
            source: "-".to_owned(),
            repository: name.to_owned(),
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
            ..Import::default()
        };
        let archive = Archive::default().file(file, file.as_bytes()).finish();
        let images = self.images.clone();
        let lines = lines(async move |progress| {
            images.import(import, std::io::Cursor::new(archive), &progress).await
        });
        let lines = lines.await.unwrap();
        let line: wire::docker::image::Progress = serde_json::from_str(lines.last().unwrap()).unwrap();
        self.images.get(&line.status.unwrap()).unwrap()
    }

    pub(super) async fn pull(&self, name: &str) -> Result<Vec<String>> {
        self.pull_with(name, None, Credentials::default()).await
    }

    pub(super) async fn pull_with(
        &self,
        name: &str,
        platform: Option<Platform>,
        credentials: Credentials,
    ) -> Result<Vec<String>> {
        let pull = Pull { name: name.to_owned(), tag: String::new(), platform, credentials };
        let images = self.images.clone();
        lines(async move |progress| images.pull(pull, &progress).await).await
    }

    pub(super) async fn load(&self, archive: &[u8]) -> Result<Vec<String>> {
        let (images, archive) = (self.images.clone(), std::io::Cursor::new(archive.to_vec()));
        lines(async move |progress| images.load(archive, true, &progress).await).await
    }

    pub(super) async fn save(&self, names: &[&str]) -> Result<Vec<u8>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut stream = self.images.save(&names).await?;
        let mut archive = Vec::new();
        while let Some(chunk) = stream.recv().await {
            archive.extend_from_slice(&chunk.unwrap());
        }
        Ok(archive)
    }

    /// Blobs, layers, records and whatever else lies about, by path.
    pub(super) fn files(&self) -> Vec<String> {
        let root = self.root.path();
        let mut files = Vec::new();
        for directory in ["blobs/sha256", "blobs/.tmp", "layers", "layers/.tmp", "images"] {
            for entry in fs::read_dir(root.join(directory)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                files.push(format!("{directory}/{name}"));
            }
        }
        files.sort();
        files.retain(|file| !matches!(file.as_str(), "layers/.tmp" | "layers/.trash"));
        files
    }

    /// The image events so far: action, what, name.
    pub(super) fn told(&self) -> Vec<(String, String)> {
        let (past, _) = self.events.listen();
        past.into_iter()
            .map(|event| {
                let name = event.actor.attributes.get("name").cloned().unwrap_or_default();
                (event.action, name)
            })
            .collect()
    }
}

/// Runs `work` and collects what it tells.
pub(super) async fn lines<W, F>(work: W) -> Result<Vec<String>>
where
    W: FnOnce(Progress) -> F,
    F: Future<Output = Result<()>>,
{
    let (progress, mut updates) = Progress::new();
    let collect = async {
        let mut lines = Vec::new();
        while let Some(line) = updates.recv().await {
            lines.push(String::from_utf8(line.to_vec()).unwrap().trim_end().to_owned());
        }
        lines
    };
    let (result, lines) = tokio::join!(work(progress), collect);
    result.map(|()| lines)
}

/// A file of an archive.
pub(super) fn member(archive: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap().to_str() == Some(name) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            return Some(content);
        }
    }
    None
}

/// An image as a registry or an archive has it.
pub(super) struct Parts {
    pub(super) config: Vec<u8>,
    /// Uncompressed.
    pub(super) archives: Vec<Vec<u8>>,
    /// Compressed.
    pub(super) layers: Vec<Vec<u8>>,
    pub(super) manifest: Vec<u8>,
}

impl Parts {
    /// One layer per file, whose content is its name.
    pub(super) fn new(architecture: &str, files: &[&str]) -> Self {
        let archives: Vec<Vec<u8>> =
            files.iter().map(|file| Archive::default().file(file, file.as_bytes()).finish()).collect();
        let diff_ids: Vec<Digest> = archives.iter().map(|archive| Digest::of(archive)).collect();
        Self::with_diff_ids(architecture, archives, &diff_ids)
    }

    pub(super) fn with_diff_ids(architecture: &str, archives: Vec<Vec<u8>>, diff_ids: &[Digest]) -> Self {
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-02T03:04:05Z",
            "config": {"Cmd": ["sh"], "Labels": {"l": "v"}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| serde_json::json!({"created_by": "step"}))
                .collect::<Vec<_>>(),
        }))
        .unwrap();
        let layers: Vec<Vec<u8>> = archives.iter().map(|archive| gzip(archive)).collect();
        let blob = |media_type: &str, content: &[u8]| {
            serde_json::json!({"mediaType": media_type, "digest": Digest::of(content),
                "size": content.len()})
        };
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": super::config::OCI_MANIFEST,
            "config": blob(super::config::OCI_CONFIG, &config),
            "layers": layers.iter().map(|layer| blob(kind, layer)).collect::<Vec<_>>(),
        }))
        .unwrap();
        Self { config, archives, layers, manifest }
    }

    pub(super) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }
}

/// What a registry does wrong.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Answers for blobs end after this many bytes, this often.
    pub(super) cut: Option<(usize, u32)>,
    pub(super) no_ranges: bool,
    /// User and password that its token server wants.
    pub(super) users_only: Option<&'static str>,
    /// Blobs never end.
    pub(super) hang: bool,
}

/// A registry on this machine.
pub(super) struct Registry {
    pub(super) address: String,
    inner: Arc<Mutex<Content>>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Content {
    address: String,
    blobs: HashMap<String, Vec<u8>>,
    /// By tag and by digest.
    manifests: HashMap<String, (String, Vec<u8>)>,
    faults: Faults,
    /// Paths asked for and answered with success.
    requests: Vec<String>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Registry {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let inner = Arc::new(Mutex::new(Content { address: address.clone(), ..Content::default() }));
        let router = axum::Router::new().fallback(serve).with_state(inner.clone());
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, inner, server }
    }

    pub(super) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub(super) fn add(&self, tag: &str, parts: &Parts) {
        let mut content = self.inner.lock().unwrap();
        for blob in parts.layers.iter().chain([&parts.config]) {
            content.blobs.insert(Digest::of(blob).to_string(), blob.clone());
        }
        drop(content);
        self.add_manifest(tag, super::config::OCI_MANIFEST, parts.manifest.clone());
    }

    pub(super) fn add_manifest(&self, tag: &str, media_type: &str, manifest: Vec<u8>) {
        let mut content = self.inner.lock().unwrap();
        for name in [tag.to_owned(), Digest::of(&manifest).to_string()] {
            content.manifests.insert(name, (media_type.to_owned(), manifest.clone()));
        }
    }

    pub(super) fn replace_blob(&self, digest: Digest, content: Vec<u8>) {
        self.inner.lock().unwrap().blobs.insert(digest.to_string(), content);
    }

    pub(super) fn fault(&self, faults: Faults) {
        self.inner.lock().unwrap().faults = faults;
    }

    /// How often something whose path has `part` in it was asked for.
    pub(super) fn requests(&self, part: &str) -> usize {
        self.inner.lock().unwrap().requests.iter().filter(|path| path.contains(part)).count()
    }
}

async fn serve(Shared(content): Shared<Arc<Mutex<Content>>>, request: Request) -> Response<Body> {
    let mut content = content.lock().unwrap();
    let path = request.uri().path().to_owned();
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let authorization = header(header::AUTHORIZATION);
    if path == "/token" {
        // "user:pass"
        return match content.faults.users_only {
            Some(_) if authorization == Some("Basic dXNlcjpwYXNz") => r#"{"token":"t0ken"}"#.into_response(),
            _ => r#"{"access_token":"anonymous"}"#.into_response(),
        };
    }
    if content.faults.users_only.is_some() && authorization != Some("Bearer t0ken") {
        let error = match authorization {
            Some(_) => ",error=\"insufficient_scope\"",
            None => "",
        };
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"s\"{error}", content.address);
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)], "").into_response();
    }
    content.requests.push(path.clone());
    let (_, name) = path.rsplit_once('/').unwrap();
    if path.contains("/manifests/") {
        return match content.manifests.get(name) {
            Some((kind, manifest)) => {
                ([(header::CONTENT_TYPE, kind.clone())], manifest.clone()).into_response()
            }
            None => {
                let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
                (StatusCode::NOT_FOUND, body).into_response()
            }
        };
    }
    if path.ends_with("/tags/list") {
        let mut tags: Vec<&String> = content.manifests.keys().filter(|name| !name.contains(':')).collect();
        tags.sort();
        // A page of one.
        let query = request.uri().query().unwrap_or_default();
        let last = query.strip_prefix("last=").unwrap_or_default();
        let page: Vec<_> = tags.iter().filter(|tag| tag.as_str() > last).take(1).collect();
        let body = serde_json::to_vec(&serde_json::json!({"name": "a", "tags": page})).unwrap();
        let link =
            page.first().map_or(String::new(), |last| format!("</v2/a/tags/list?last={last}>; rel=\"next\""));
        return ([(header::LINK, link)], body).into_response();
    }
    let Some(blob) = content.blobs.get(name).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = header(header::RANGE)
        .filter(|_| !content.faults.no_ranges)
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let (status, rest) = match range {
        Some(from) => (StatusCode::PARTIAL_CONTENT, blob[from.min(blob.len())..].to_vec()),
        None => (StatusCode::OK, blob),
    };
    let length = [(header::CONTENT_LENGTH, rest.len())];
    if content.faults.hang {
        let begin = Bytes::copy_from_slice(&rest[..1]);
        let begin =
            futures_util::StreamExt::chain(stream::iter([Ok::<_, std::io::Error>(begin)]), stream::pending());
        return (status, length, Body::from_stream(begin)).into_response();
    }
    if let Some((after, times)) = content.faults.cut.filter(|(after, _)| rest.len() > *after) {
        content.faults.cut = (times > 1).then_some((after, times - 1));
        let part = Bytes::copy_from_slice(&rest[..after]);
        let cut = futures_util::StreamExt::chain(
            stream::iter([Ok(part)]),
            stream::once(Box::pin(async {
                // The server sends what it has when it must wait for more.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            })),
        );
        return (status, length, Body::from_stream(cut)).into_response();
    }
    (status, length, rest).into_response()
}
