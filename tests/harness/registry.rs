//! Registries on a loopback address inside a namespace: Debian's, filled over its API, and a small one of ours that
//! wants a token, which Debian's could give only with certificates.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::archive::{INDEX, Image, MANIFEST, digest};
use crate::http::Server;
use crate::namespace::Namespace;
use crate::process::Running;
use crate::{archive, leftovers, places, wait};

/// Where Debian's registry listens, inside the namespace.
pub const ADDRESS: &str = "127.0.0.1:5000";

/// Debian's `docker-registry`; it ends when this is dropped.
pub struct Registry {
    api: Server,
    _daemon: Running,
    _folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start(namespace: &Arc<Namespace>) -> Result<Self> {
        let folder = leftovers::folder()?;
        let config = json!({
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": folder.path()}, "delete": {"enabled": true}},
            "http": {"addr": ADDRESS},
        });
        let file = archive::write(folder.path(), "config.json", config.to_string().as_bytes())?;
        let daemon = namespace
            .program(places::peer()?.join("bin/docker-registry"))
            .arg("serve")
            .arg(file)
            .timeout(Duration::from_secs(24 * 3600))
            .spawn()?;
        let api = Server::Tcp(Arc::clone(namespace), ADDRESS.parse()?);
        wait::eventually_true("the registry answers", Duration::from_secs(30), || {
            ensure!(!daemon.has_ended(), "docker-registry has ended");
            Ok(api.get("/v2/").send().is_ok_and(|answer| answer.status == 200))
        })?;
        Ok(Self { api, _daemon: daemon, _folder: folder })
    }

    /// Its API.
    #[must_use]
    pub fn api(&self) -> &Server {
        &self.api
    }

    /// Stores an image as `ADDRESS/repository:tag` and returns its manifest.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) -> Result<Vec<u8>> {
        let layers = image.compressed_layers()?;
        for blob in layers.iter().chain([&image.configuration()]) {
            self.push_blob(repository, blob)?;
        }
        let manifest = image.manifest(&layers);
        self.push_manifest(repository, tag, MANIFEST, &manifest)?;
        Ok(manifest)
    }

    /// Stores an index of several images under one tag.
    pub fn push_index(&self, repository: &str, tag: &str, images: &[Image]) -> Result<Vec<u8>> {
        let mut entries = Vec::new();
        for image in images {
            let manifest = self.push(repository, &format!("{tag}-{}", image.architecture), image)?;
            entries.push(image.index_entry(&manifest));
        }
        let index =
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string().into_bytes();
        self.push_manifest(repository, tag, INDEX, &index)?;
        Ok(index)
    }

    fn push_blob(&self, repository: &str, blob: &[u8]) -> Result<()> {
        let begun = self.api.post(format!("/v2/{repository}/blobs/uploads/")).send()?.expect(202)?;
        let place = begun.header("Location").context("the registry names no place for a blob")?;
        let place = place.strip_prefix(&format!("http://{ADDRESS}")).unwrap_or(place);
        let place = place.strip_prefix("http://docker").unwrap_or(place);
        let target = format!("{place}&digest={}", digest(blob));
        self.api.request("PUT", target).body(blob).send()?.expect(201)?;
        Ok(())
    }

    fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: &[u8]) -> Result<()> {
        let request = self.api.request("PUT", format!("/v2/{repository}/manifests/{tag}"));
        request.header("Content-Type", media_type).body(manifest).send()?.expect(201)?;
        Ok(())
    }
}

/// A registry with one image in it that gives nothing without a token, and tokens to everyone who asks.
pub struct TokenRegistry {
    address: SocketAddr,
    shelf: Arc<Shelf>,
}

struct Shelf {
    address: SocketAddr,
    /// `repository` → what a token for it looks like.
    repository: String,
    /// Path below `/v2/repository/` → media type and content.
    content: HashMap<String, (&'static str, Vec<u8>)>,
    /// Scopes for which a token was asked.
    scopes: Mutex<Vec<String>>,
}

impl TokenRegistry {
    /// Serves `image` as `repository:latest`, until the test binary ends.
    pub fn start(namespace: &Namespace, repository: &str, image: &Image) -> Result<Self> {
        Self::with(namespace, repository, image, |_| {})
    }

    /// Likewise, but the last layer has one other byte than its digest promises.
    pub fn start_tampered(namespace: &Namespace, repository: &str, image: &Image) -> Result<Self> {
        Self::with(namespace, repository, image, |layer| {
            if let Some(byte) = layer.last_mut() {
                *byte ^= 1;
            }
        })
    }

    fn with(
        namespace: &Namespace,
        repository: &str,
        image: &Image,
        tamper: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Self> {
        let listener =
            namespace.in_network(|| TcpListener::bind("127.0.0.1:0").context("binding a registry's port"))?;
        let address = listener.local_addr()?;
        let layers = image.compressed_layers()?;
        let manifest = image.manifest(&layers);
        let last = layers.last().map(|layer| format!("blobs/{}", digest(layer)));
        let mut content = HashMap::new();
        for blob in layers.into_iter().chain([image.configuration()]) {
            content.insert(format!("blobs/{}", digest(&blob)), ("application/octet-stream", blob));
        }
        let last = last.context("an image without layers")?;
        if let Some((_, layer)) = content.get_mut(&last) {
            tamper(layer);
        }
        for name in ["latest".to_owned(), digest(&manifest)] {
            content.insert(format!("manifests/{name}"), (MANIFEST, manifest.clone()));
        }
        let scopes = Mutex::default();
        let shelf = Arc::new(Shelf { address, repository: repository.to_owned(), content, scopes });
        let clerk = Arc::clone(&shelf);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let clerk = Arc::clone(&clerk);
                // A client that hangs up in the middle is no concern of a registry.
                thread::spawn(move || drop(clerk.serve(connection)));
            }
        });
        Ok(Self { address, shelf })
    }

    /// The image's full name.
    #[must_use]
    pub fn image(&self) -> String {
        format!("{}/{}:latest", self.address, self.shelf.repository)
    }

    /// The scopes for which tokens were asked.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        self.shelf.scopes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shelf {
    fn serve(&self, mut connection: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let (method, target) =
                (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or("/").to_owned());
            let mut token = None;
            loop {
                let mut header = String::new();
                if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
                    break;
                }
                if let Some((name, value)) = header.split_once(':')
                    && name.eq_ignore_ascii_case("authorization")
                {
                    token = value.trim().strip_prefix("Bearer ").map(str::to_owned);
                }
            }
            let (status, headers, body) = self.answer(&target, token.as_deref());
            let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            connection.write_all(format!("{head}\r\n").as_bytes())?;
            if method != "HEAD" {
                connection.write_all(&body)?;
            }
        }
    }

    fn answer(
        &self,
        target: &str,
        token: Option<&str>,
    ) -> (&'static str, Vec<(&'static str, String)>, Vec<u8>) {
        let json_type = ("Content-Type", "application/json".to_owned());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if path == "/token" {
            let scope = query.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap_or_default();
            let scope = scope.replace("%3A", ":").replace("%2F", "/");
            self.scopes.lock().unwrap_or_else(PoisonError::into_inner).push(scope.clone());
            let token = json!({"token": format!("for:{scope}"), "expires_in": 300});
            return ("200 OK", vec![json_type], token.to_string().into_bytes());
        }
        let scope = format!("repository:{}:pull", self.repository);
        let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", self.address);
        let refuse = |challenge: String, code: &str| {
            let body = json!({"errors": [{"code": code, "message": "authentication required"}]});
            let headers = vec![json_type.clone(), ("WWW-Authenticate", challenge)];
            ("401 Unauthorized", headers, body.to_string().into_bytes())
        };
        if path == "/v2/" {
            return match token {
                Some(_) => ("200 OK", vec![json_type], b"{}".to_vec()),
                None => refuse(realm, "UNAUTHORIZED"),
            };
        }
        if token.is_none_or(|token| token != format!("for:{scope}")) {
            return refuse(format!("{realm},scope=\"{scope}\""), "UNAUTHORIZED");
        }
        let found =
            path.strip_prefix(&format!("/v2/{}/", self.repository)).and_then(|rest| self.content.get(rest));
        match found {
            Some((media_type, bytes)) => {
                let headers = vec![
                    ("Content-Type", (*media_type).to_owned()),
                    ("Docker-Content-Digest", digest(bytes)),
                ];
                ("200 OK", headers, bytes.clone())
            }
            None => {
                let body = json!({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]});
                ("404 Not Found", vec![json_type], body.to_string().into_bytes())
            }
        }
    }
}
