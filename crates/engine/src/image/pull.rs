use std::{io::Write, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Image, Images,
    blobs::{BlobWriter, Staged},
    config::{self, ConfigFile, Index, Manifest, OCI_CONFIG},
    platform::Platform,
    progress::{Progress, Told, Transfer},
    reference::Reference,
    registry::{Credentials, Document, RegistryError, Session},
};
use crate::{
    error::{Context, Error, Result},
    snapshot::{Blob, Digest, LayerId, NewLayer},
};

/// How often a download is begun again without getting a byte further; Docker's default.
const ATTEMPTS: u32 = 5;
/// How many pieces of a blob may wait for the disk.
const PIECES: usize = 4;
/// Media types of configurations that are those of images. Old tools wrote the last two.
const CONFIG_TYPES: [&str; 4] =
    [OCI_CONFIG, "application/vnd.docker.container.image.v1+json", "application/octet-stream", "text/html"];

/// `POST /images/create?fromImage=…`.
#[derive(Debug)]
pub(crate) struct Pull {
    /// `name[:tag]` or `name@digest`.
    pub(crate) name: String,
    /// A tag or digest instead of the one in the name; may be empty.
    pub(crate) tag: String,
    pub(crate) platform: Option<Platform>,
    pub(crate) credentials: Credentials,
}

/// What one pull works with.
struct Puller<'a> {
    images: &'a Images,
    session: Arc<Session>,
    platform: Option<&'a Platform>,
    progress: &'a Progress,
}

/// A manifest for one platform.
struct Chosen {
    content: Bytes,
    manifest: Manifest,
    blob: Blob,
}

impl Images {
    /// Fetches an image and gives it its name; with neither tag nor digest, all images of a repository.
    /// Dropping the future ends the work.
    ///
    /// # Errors
    /// Names that are none, registries that refuse or do not answer, content that is not what it should
    /// be; in Docker's words.
    pub(crate) async fn pull(&self, pull: Pull, progress: &Progress) -> Result<()> {
        let given = Reference::parse_with_tag(&pull.name, &pull.tag)?;
        let mut refusal = None;
        for session in self.0.registries.sessions(&given, &pull.credentials).await? {
            let session = Arc::new(session);
            match found(&session, &given).await {
                Ok(found) => {
                    let puller = Puller { images: self, session, platform: pull.platform.as_ref(), progress };
                    return puller.pull_all(&given, found).await;
                }
                Err(error) => {
                    tracing::debug!("{given}: {error}");
                    let last_word = matches!(error, RegistryError::Refused { .. }) && !session.is_mirror();
                    refusal = Some(error);
                    if last_word {
                        break;
                    }
                }
            }
        }
        Err(match refusal {
            Some(refusal) => refusal.about(&given),
            None => Error::system(format!("nowhere to pull {given} from")),
        })
    }
}

/// What a registry has for a name: the names to pull, and what the first of them leads to.
struct Found {
    document: Document,
    first: Reference,
    others: Vec<Reference>,
}

async fn found(session: &Session, given: &Reference) -> Result<Found, RegistryError> {
    let (first, others) = if given.is_name_only() {
        let tags = session.tags().await?;
        let mut tagged = tags.iter().filter_map(|tag| given.clone().with_tag(tag).ok());
        // A repository without tags: the registry says what it thinks of `latest`.
        let first = tagged.next().unwrap_or_else(|| given.clone().or_latest());
        (first, tagged.collect())
    } else {
        (given.clone(), Vec::new())
    };
    let document = session.manifest(&wanted(&first)).await?;
    Ok(Found { document, first, others })
}

/// A reference as the registry's API has it.
fn wanted(reference: &Reference) -> String {
    match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or(super::reference::DEFAULT_TAG).to_owned(),
    }
}

impl Puller<'_> {
    async fn pull_all(&self, given: &Reference, found: Found) -> Result<()> {
        let (mut image, mut newer) = self.pull(&found.first, found.document).await?;
        for reference in &found.others {
            let document = self.session.manifest(&wanted(reference)).await;
            let document = document.map_err(|error| error.about(reference))?;
            let (next, is_newer) = self.pull(reference, document).await?;
            (image, newer) = (next, newer || is_newer);
        }
        let outcome = if newer { "Downloaded newer image" } else { "Image is up to date" };
        let familiar = given.familiar();
        self.progress.status(format!("Status: {outcome} for {familiar}")).await;
        self.warn_of_platform(given, &image).await;
        self.images.tell("pull", &familiar, &given.familiar_name(), Some(&image));
        Ok(())
    }

    /// One image, and whether it is another one than was here.
    async fn pull(&self, reference: &Reference, document: Document) -> Result<(Arc<Image>, bool)> {
        let id = match reference.tag() {
            Some(tag) if reference.digest().is_none() => tag.to_owned(),
            _ => reference.to_string(),
        };
        self.progress.status_of(&id, format!("Pulling from {}", reference.path())).await;
        let digest = document.digest;
        let chosen = self.choose(reference, document).await?;
        let config_digest = chosen.manifest.config.digest;
        let mut names = vec![reference.with_digest(digest)];
        if reference.digest().is_none() {
            names.push(reference.clone());
        }
        let known = self.images.state().images.contains_key(&config_digest);
        let up_to_date = known && names.iter().all(|name| self.names_already(name, config_digest));
        let image = match known {
            true => self.commit(chosen, None, names).await?,
            false => self.fetch(reference, chosen, names).await?,
        };
        self.progress.status(format!("Digest: {digest}")).await;
        Ok((image, !up_to_date))
    }

    fn names_already(&self, name: &Reference, image: Digest) -> bool {
        self.images.state().references.get(&name.to_string()).is_some_and(|(_, named)| *named == image)
    }

    /// The manifest for the platform wanted.
    async fn choose(&self, reference: &Reference, document: Document) -> Result<Chosen> {
        let decode =
            |document: &Document| config::Document::decode(&document.content, document.media_type.as_deref());
        let (document, manifest) = match decode(&document)? {
            config::Document::Manifest(manifest) => (document, manifest),
            config::Document::Index(index) => {
                let digest = self.matching(&index)?;
                let document = self
                    .session
                    .manifest(&digest.to_string())
                    .await
                    .map_err(|error| error.about(reference))?;
                match decode(&document)? {
                    config::Document::Manifest(manifest) => (document, manifest),
                    config::Document::Index(_) => {
                        return Err(Error::invalid(format!("{digest} is a list in a list")));
                    }
                }
            }
        };
        let media_type = match (manifest.media_type.as_str(), document.media_type) {
            ("", Some(header)) => header,
            ("", None) => config::OCI_MANIFEST.to_owned(),
            (own, _) => own.to_owned(),
        };
        let size = document.content.len() as u64;
        let blob = Blob { media_type, digest: document.digest, size };
        Ok(Chosen { content: document.content, manifest, blob })
    }

    fn matching(&self, index: &Index) -> Result<Digest> {
        let host = Platform::host();
        let wanted = self.platform.unwrap_or(&host);
        index
            .manifests
            .iter()
            .filter_map(|entry| {
                let found = &entry.platform;
                let platform = Platform::new(&found.os, &found.architecture, &found.variant);
                Some((wanted.rank(&platform)?, entry.blob.digest))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, digest)| digest)
            .ok_or_else(|| {
                Error::not_found(format!("no matching manifest for {wanted} in the manifest list entries"))
            })
    }

    /// Fetches configuration and layers.
    async fn fetch(
        &self,
        reference: &Reference,
        chosen: Chosen,
        names: Vec<Reference>,
    ) -> Result<Arc<Image>> {
        let Manifest { config, layers, .. } = &chosen.manifest;
        if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
            return Err(Error::invalid(format!("unsupported media type {}", config.media_type)));
        }
        let content = self.session.document(config.digest).await.map_err(|error| error.about(reference))?;
        let file = ConfigFile::decode(&content)?;
        let diff_ids = file.rootfs.diff_ids;
        if diff_ids.len() != layers.len() {
            return Err(Error::invalid("layers from manifest don't match image configuration"));
        }
        let chain = LayerId::chain(&diff_ids);
        let inner = &self.images.0;
        let _layers = inner.layers.hold(&chain);
        let digests = layers.iter().map(|layer| layer.digest);
        let _blobs = inner.blobs.hold(digests.chain([config.digest, chosen.blob.digest]));

        let mut downloads = Vec::with_capacity(layers.len());
        for (position, blob) in layers.iter().enumerate() {
            if inner.layers.get(chain[position]).is_some() {
                self.progress.layer(&blob.digest.short(), "Already exists").await;
                downloads.push(None);
                continue;
            }
            self.progress.layer(&blob.digest.short(), "Pulling fs layer").await;
            let download = Download {
                images: self.images.clone(),
                session: self.session.clone(),
                blob: blob.clone(),
                progress: self.progress.clone(),
            };
            let reference = reference.clone();
            let task = tokio::spawn(async move { download.run(&reference).await });
            downloads.push(Some(AbortOnDropHandle::new(task)));
        }
        for (position, download) in downloads.into_iter().enumerate() {
            let Some(download) = download else { continue };
            download.await.context(|| "download a layer".to_owned())??;
            let new = NewLayer {
                below: chain[..position].to_vec(),
                diff_id: diff_ids[position],
                blob: layers[position].clone(),
            };
            self.unpack(new).await?;
        }
        self.commit(chosen, Some(content), names).await
    }

    async fn unpack(&self, new: NewLayer) -> Result<()> {
        let (images, progress) = (self.images.clone(), self.progress.clone());
        let id = new.blob.digest.short();
        let extracting = spawn_blocking(move || {
            let source = images.0.blobs.open_blob(new.blob.digest)?;
            let transfer = progress.transfer(&new.blob.digest.short(), "Extracting", new.blob.size);
            images.0.layers.unpack(&new, Told { source, transfer })
        });
        extracting
            .await
            .context(|| "unpack a layer".to_owned())?
            .map_err(|error| Error::new(error.kind(), "failed to register layer").because(error))?;
        self.progress.layer(&id, "Pull complete").await;
        Ok(())
    }

    async fn commit(
        &self,
        chosen: Chosen,
        config: Option<Bytes>,
        names: Vec<Reference>,
    ) -> Result<Arc<Image>> {
        let images = self.images.clone();
        let commit = move || {
            let blobs = &images.0.blobs;
            let _held = blobs.hold([chosen.blob.digest, chosen.manifest.config.digest]);
            blobs.write(&chosen.content)?;
            if let Some(config) = config {
                blobs.write(&config)?;
            }
            images.commit(chosen.manifest.config.digest, Some(chosen.blob), &names)
        };
        spawn_blocking(commit).await.context(|| "write down the image".to_owned())?
    }

    /// Docker warns of a single image for another machine only when a platform was asked for.
    async fn warn_of_platform(&self, reference: &Reference, image: &Image) {
        let Some(wanted) = self.platform else { return };
        let found = image.platform();
        if !wanted.accepts(&found) {
            let reference = reference.familiar();
            self.progress
                .status(format!(
                    "WARNING: image with reference {reference} was found but its platform ({found}) \
                     does not match the specified platform ({wanted})"
                ))
                .await;
        }
    }
}

/// The download of one layer.
struct Download {
    images: Images,
    session: Arc<Session>,
    blob: Blob,
    progress: Progress,
}

/// What may go wrong with it.
#[derive(Debug, thiserror::Error)]
enum DownloadError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("filesystem layer verification failed for digest {expected}")]
    Verification { expected: Digest },
    #[error("unexpected EOF: got {got} of {size} bytes")]
    Truncated { got: u64, size: u64 },
    #[error("the layer {digest} is longer than the {size} bytes that its manifest says")]
    TooLong { digest: Digest, size: u64 },
    #[error(transparent)]
    Engine(#[from] Error),
}

impl DownloadError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Registry(error) => error.is_transient(),
            Self::Truncated { .. } => true,
            Self::Verification { .. } | Self::TooLong { .. } | Self::Engine(_) => false,
        }
    }

    fn about(self, reference: &Reference) -> Error {
        match self {
            Self::Registry(error) => error.about(reference),
            Self::Engine(error) => error,
            other => Error::system(other.to_string()),
        }
    }
}

impl Download {
    async fn run(self, reference: &Reference) -> Result<()> {
        let digest = self.blob.digest;
        // Before the turn to download: whoever has a turn never waits for whoever has none.
        let downloading = self.images.0.downloading.of(digest);
        let _one_at_a_time = match downloading.clone().try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                self.say("Waiting").await;
                downloading.lock_owned().await
            }
        };
        if self.images.0.blobs.size(digest) == Some(self.blob.size) {
            self.say("Download complete").await;
            return Ok(());
        }
        let downloads = &self.images.0.downloads;
        let _turn = match downloads.try_acquire() {
            Ok(turn) => turn,
            Err(_) => {
                self.say("Waiting").await;
                downloads.acquire().await.context(|| "wait for a download".to_owned())?
            }
        };
        let staged = match self.transfer().await {
            // Parts of two answers may not belong together; a whole one has no excuse.
            Err((DownloadError::Verification { .. }, true)) => self.transfer().await,
            result => result,
        };
        let staged = staged.map_err(|(error, _)| error.about(reference))?;
        staged.commit()?;
        self.say("Download complete").await;
        Ok(())
    }

    async fn say(&self, status: &str) {
        self.progress.layer(&self.blob.digest.short(), status).await;
    }

    /// Downloads from the beginning, going on where it was after errors of the network. The flag of an
    /// error says whether that happened.
    async fn transfer(&self) -> Result<Staged, (DownloadError, bool)> {
        let writer = self.images.0.blobs.writer().map_err(|error| (error.into(), false))?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let writing = spawn_blocking(move || write_all(writer, receiver));
        let transfer = self.progress.transfer(&self.blob.digest.short(), "Downloading", self.blob.size);
        let (mut got, mut failures, mut resumed) = (0, 0, false);
        let outcome = loop {
            let before = got;
            match self.receive(&mut got, &sender, &transfer).await {
                Ok(()) => break Ok(()),
                Err(error) => {
                    failures = if got > before { 1 } else { failures + 1 };
                    if !error.is_transient() || failures >= ATTEMPTS {
                        break Err(error);
                    }
                    tracing::debug!("{}: {error}; going on at {got}", self.blob.digest);
                    resumed |= got > 0;
                    self.wait_to_retry(failures).await;
                }
            }
        };
        drop(sender);
        let finish = async {
            let writer = writing.await.context(|| "write a layer".to_owned())??;
            outcome?;
            self.say("Verifying Checksum").await;
            let staged = writer.finish();
            match staged.digest() == self.blob.digest {
                true => Ok(staged),
                false => Err(DownloadError::Verification { expected: self.blob.digest }),
            }
        };
        finish.await.map_err(|error| (error, resumed))
    }

    async fn wait_to_retry(&self, failures: u32) {
        let wait = self.images.0.retry_after * 2_u32.saturating_pow(failures.saturating_sub(1));
        let seconds = wait.as_secs();
        let unit = if seconds == 1 { "second" } else { "seconds" };
        self.say(&format!("Retrying in {seconds} {unit}")).await;
        tokio::time::sleep(wait).await;
    }

    /// One answer of the registry, from `got` on.
    async fn receive(
        &self,
        got: &mut u64,
        sender: &mpsc::Sender<Bytes>,
        transfer: &Transfer,
    ) -> Result<(), DownloadError> {
        let (digest, size) = (self.blob.digest, self.blob.size);
        let mut stream = self.session.blob(digest, *got).await?;
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            let length = bytes.len() as u64;
            if *got + length > size {
                return Err(DownloadError::TooLong { digest, size });
            }
            if sender.send(bytes).await.is_err() {
                // The writer stopped, and says why when it is asked.
                return Err(Error::system("the layer cannot be written").into());
            }
            *got += length;
            transfer.advance(length);
        }
        if *got < size {
            return Err(DownloadError::Truncated { got: *got, size });
        }
        Ok(())
    }
}

fn write_all(mut writer: BlobWriter, mut receiver: mpsc::Receiver<Bytes>) -> Result<BlobWriter> {
    while let Some(bytes) = receiver.blocking_recv() {
        writer.write_all(&bytes).context(|| "write a layer".to_owned())?;
    }
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Faults, Fixture, Parts, Registry},
        *,
    };
    use crate::error::Kind;

    fn statuses(lines: &[String]) -> Vec<String> {
        lines
            .iter()
            .map(|line| {
                let line: wire::docker::image::Progress = serde_json::from_str(line).unwrap();
                line.status.unwrap()
            })
            .filter(|status| !matches!(status.as_str(), "Downloading" | "Extracting" | "Waiting"))
            .collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_image_is_pulled_once() {
        let (registry, mut fixture) = (Registry::start().await, Fixture::new());
        let parts = Parts::new("amd64", &["one"]);
        registry.add("1", &parts);
        let name = registry.name("repo/a:1");
        let digest = Digest::of(&parts.manifest);
        let told = statuses(&fixture.pull(&name).await.unwrap());
        assert_eq!(
            told,
            [
                "Pulling from repo/a",
                "Pulling fs layer",
                "Verifying Checksum",
                "Download complete",
                "Pull complete",
                &format!("Digest: {digest}"),
                &format!("Status: Downloaded newer image for {name}"),
            ]
        );
        let told = statuses(&fixture.pull(&name).await.unwrap());
        assert_eq!(told[2], format!("Status: Image is up to date for {name}"));
        assert_eq!(registry.requests("/blobs/"), 2);
        assert_eq!(fixture.told(), vec![("pull".to_owned(), registry.name("repo/a")); 2]);
        fixture.reopen();
        let inspect = fixture.images.inspect(&name).unwrap();
        assert_eq!(inspect.id, parts.id());
        assert_eq!(inspect.repo_tags, [name]);
        assert_eq!(inspect.repo_digests, [registry.name(&format!("repo/a@{digest}"))]);
        assert_eq!(inspect.metadata.last_tag_time, "0001-01-01T00:00:00Z");
        // By digest, it is the same image.
        let by_digest = registry.name(&format!("repo/a@{digest}"));
        fixture.pull(&by_digest).await.unwrap();
        assert_eq!(fixture.images.get(&by_digest).unwrap().id, parts.id());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_tag_all_of_them_are_pulled() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        registry.add("1", &Parts::new("amd64", &["one"]));
        registry.add("2", &Parts::new("amd64", &["two"]));
        let name = registry.name("a");
        let told = statuses(&fixture.pull(&name).await.unwrap());
        assert_eq!(told.last().unwrap(), &format!("Status: Downloaded newer image for {name}"));
        for tag in ["1", "2"] {
            assert!(fixture.images.get(&format!("{name}:{tag}")).is_ok());
        }
        assert_eq!(fixture.told().len(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn layers_that_are_here_are_not_downloaded_again() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        registry.add("1", &Parts::new("amd64", &["one", "two"]));
        registry.add("2", &Parts::new("amd64", &["one", "three"]));
        fixture.pull(&registry.name("a:1")).await.unwrap();
        let told = statuses(&fixture.pull(&registry.name("a:2")).await.unwrap());
        assert_eq!(told[1..3], ["Already exists", "Pulling fs layer"]);
        assert_eq!(registry.requests("/blobs/"), 2 + 3);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn pulls_at_once_share_their_downloads() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        registry.add("1", &Parts::new("amd64", &["one", "two", "three", "four", "five"]));
        let name = registry.name("a:1");
        let (one, two, three) = tokio::join!(fixture.pull(&name), fixture.pull(&name), fixture.pull(&name));
        for result in [one, two, three] {
            result.unwrap();
        }
        let configs = registry.requests(&Digest::of(&Parts::new("amd64", &[]).config).to_string());
        assert_eq!(configs, 0);
        // The configuration is small, and may be fetched by each; no layer is.
        assert!(registry.requests("/blobs/") <= 5 + 3, "{}", registry.requests("/blobs/"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_token_is_fetched_when_one_is_wanted() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        registry.add("1", &Parts::new("amd64", &["one"]));
        registry.fault(Faults { users_only: Some("user:pass"), ..Faults::default() });
        let name = registry.name("a:1");
        let error = fixture.pull(&name).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.to_string(),
            format!(
                "pull access denied for {}, repository does not exist or may require 'docker \
                 login': denied: requested access to the resource is denied",
                registry.name("a")
            )
        );
        // {"username":"user","password":"pass"}
        let header = "eyJ1c2VybmFtZSI6InVzZXIiLCJwYXNzd29yZCI6InBhc3MifQ==";
        let credentials = Credentials::from_header(header);
        fixture.pull_with(&name, None, credentials).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_manifest_for_the_platform_is_taken() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        let (amd64, arm64) = (Parts::new("amd64", &["a"]), Parts::new("arm64", &["b"]));
        registry.add("amd64", &amd64);
        registry.add("arm64", &arm64);
        let entry = |parts: &Parts, architecture: &str| {
            serde_json::json!({"mediaType": config::OCI_MANIFEST, "size": parts.manifest.len(),
                "digest": Digest::of(&parts.manifest),
                "platform": {"os": "linux", "architecture": architecture}})
        };
        let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2,
            "manifests": [entry(&arm64, "arm64"), entry(&amd64, "amd64")]}));
        registry.add_manifest("1", config::OCI_INDEX, index.unwrap());
        let name = registry.name("a:1");
        let pull = async |platform: &str| {
            let platform = Some(Platform::parse(platform).unwrap());
            fixture.pull_with(&name, platform, Credentials::default()).await
        };
        pull("linux/amd64").await.unwrap();
        assert_eq!(fixture.images.get(&name).unwrap().id, amd64.id());
        pull("linux/arm64").await.unwrap();
        assert_eq!(fixture.images.get(&name).unwrap().id, arm64.id());
        let error = pull("linux/s390x").await.unwrap_err().to_string();
        assert_eq!(error, "no matching manifest for linux/s390x in the manifest list entries");
        // A single image is taken whatever it is for, with a warning.
        let single = registry.name("a:arm64");
        let platform = Some(Platform::parse("linux/amd64").unwrap());
        let told = fixture.pull_with(&single, platform, Credentials::default()).await.unwrap();
        assert!(told.last().unwrap().contains("does not match the specified platform"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_the_registry_does_not_have_is_said_in_dockers_words() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        let name = registry.name("a:1");
        let error = fixture.pull(&name).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.to_string(),
            format!("manifest for {name} not found: manifest unknown: manifest unknown")
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn broken_downloads_go_on_where_they_were() {
        for no_ranges in [false, true] {
            let (registry, fixture) = (Registry::start().await, Fixture::new());
            let noise: Vec<u8> =
                (0..50_000_u32).flat_map(|n| Digest::of(&n.to_le_bytes()).hex().into_bytes()).collect();
            let archive = crate::snapshot::testing::Archive::default().file("noise", &noise).finish();
            let diff_id = Digest::of(&archive);
            registry.add("1", &Parts::with_diff_ids("amd64", vec![archive], &[diff_id]));
            registry.fault(Faults { cut: Some((200_000, 6)), no_ranges, ..Faults::default() });
            let told = fixture.pull(&registry.name("a:1")).await;
            if no_ranges {
                // Each answer ends at the same place, so that there is no way on.
                assert!(told.is_err());
                assert_eq!(fixture.files(), [""; 0]);
            } else {
                let told = statuses(&told.unwrap());
                let retries = told.iter().filter(|line| line.starts_with("Retrying")).count();
                assert_eq!(retries, 6);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_what_it_should_be_leaves_nothing() {
        let parts = Parts::new("amd64", &["one"]);
        let layer = Digest::of(&parts.layers[0]);
        let other = crate::snapshot::testing::gzip(&parts.archives[0][..1024]);
        let mut same_size = parts.layers[0].clone();
        *same_size.last_mut().unwrap() ^= 1;
        let mut longer = parts.layers[0].clone();
        longer.push(0);
        for (content, message) in [
            (same_size, "filesystem layer verification failed for digest"),
            (longer, "is longer than the"),
            (other, "unexpected EOF: got"),
        ] {
            let (registry, fixture) = (Registry::start().await, Fixture::new());
            registry.add("1", &parts);
            registry.replace_blob(layer, content);
            let error = fixture.pull(&registry.name("a:1")).await.unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            assert_eq!(fixture.files(), [""; 0]);
            assert_eq!(fixture.images.count(), 0);
        }
        // The configuration promises other content than the layer has.
        let (registry, mut fixture) = (Registry::start().await, Fixture::new());
        let lie = Digest::of(b"lie");
        registry.add("1", &Parts::with_diff_ids("amd64", parts.archives.clone(), &[lie]));
        let error = fixture.pull(&registry.name("a:1")).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to register layer: invalid diffID"), "{error}");
        fixture.reopen();
        assert_eq!(fixture.files(), [""; 0]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn documents_without_end_are_refused() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        let long = vec![b' '; usize::try_from(config::MAX_DOCUMENT).unwrap() + 1];
        registry.add_manifest("1", config::OCI_MANIFEST, long);
        let error = fixture.pull(&registry.name("a:1")).await.unwrap_err().to_string();
        assert!(error.contains("is longer than"), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pull_that_is_dropped_ends_and_can_be_done_again() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        registry.add("1", &Parts::new("amd64", &["one"]));
        registry.fault(Faults { hang: false, ..Faults::default() });
        let name = registry.name("a:1");
        let config = Digest::of(&Parts::new("amd64", &["one"]).config).to_string();
        registry.fault(Faults { hang: true, ..Faults::default() });
        let (progress, updates) = Progress::new();
        let pull = Pull {
            name: name.clone(),
            tag: String::new(),
            platform: None,
            credentials: Credentials::default(),
        };
        let images = fixture.images.clone();
        let pulling = tokio::spawn(async move { images.pull(pull, &progress).await });
        while registry.requests(&config) == 0 {
            tokio::task::yield_now().await;
        }
        pulling.abort();
        assert!(pulling.await.unwrap_err().is_cancelled());
        drop(updates);
        registry.fault(Faults::default());
        fixture.pull(&name).await.unwrap();
        assert_eq!(fixture.files().iter().filter(|file| file.contains(".tmp")).count(), 0);
    }
}
