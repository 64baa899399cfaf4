use std::io::{self, Read, Write};

use tokio::task::spawn_blocking;
use wire::docker::container::ContainerConfig;

use super::{
    Images,
    blobs::Staged,
    changes,
    config::{self, NewConfig, RootFs, Step},
    platform::Platform,
    progress::{Progress, Told},
    reference::Reference,
};
use crate::{
    error::{Context, Error, Result},
    snapshot::{Blob, Compression, Digest, LayerId, NewLayer, Sha256, decompress},
    system::DOCKER_VERSION,
};

/// `POST /images/create?fromSrc=…`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Import {
    /// `-` for the request's body, or a URL.
    pub(crate) source: String,
    /// The name to give it; may be empty.
    pub(crate) repository: String,
    pub(crate) tag: String,
    pub(crate) message: String,
    /// Lines of a Dockerfile.
    pub(crate) changes: Vec<String>,
    pub(crate) platform: Option<Platform>,
}

impl Images {
    /// Makes an image of one layer out of an archive, compressed or not: `body` if the source is `-`.
    ///
    /// # Errors
    /// Names and changes that are none; an archive that cannot be unpacked. Nothing is left behind then.
    pub(crate) async fn import(
        &self,
        import: Import,
        body: impl Read + Send + 'static,
        progress: &Progress,
    ) -> Result<()> {
        let reference = new_name(&import.repository, &import.tag)?;
        let platform = import.platform.clone().unwrap_or_else(Platform::host);
        if platform.os() != "linux" {
            return Err(Error::invalid("operating system is not supported"));
        }
        let mut container = ContainerConfig::default();
        changes::apply(&mut container, &import.changes)?;
        let source: Box<dyn Read + Send> = match import.source.as_str() {
            "-" => Box::new(body),
            url => self.import_url(url, progress).await?,
        };
        let comment = match import.message.as_str() {
            "" => format!("Imported from {}", import.source),
            message => message.to_owned(),
        };
        let images = self.clone();
        let make = move || images.import_blocking(source, &container, &comment, &platform);
        let digest = spawn_blocking(make).await.context(|| "import an archive".to_owned())??;
        let id = digest.to_string();
        if let Some(reference) = reference {
            self.tag_reference(&id, reference).await?;
        }
        self.tell("import", &id, &id, None);
        progress.status(id).await;
        Ok(())
    }

    async fn import_url(&self, url: &str, progress: &Progress) -> Result<Box<dyn Read + Send>> {
        let url = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        let (size, stream) = self.0.registries.download(&url).await?;
        progress.status(format!("Downloading from {url}")).await;
        let stream = futures_util::TryStreamExt::map_err(stream, io::Error::other);
        let reader = tokio_util::io::StreamReader::new(Box::pin(stream));
        let source = tokio_util::io::SyncIoBridge::new(reader);
        let transfer = progress.transfer("", "Importing", size.unwrap_or(0));
        Ok(Box::new(Told { source, transfer }))
    }

    fn import_blocking(
        &self,
        mut source: impl Read + Send,
        container: &ContainerConfig,
        comment: &str,
        platform: &Platform,
    ) -> Result<Digest> {
        let inner = &self.0;
        let (layer, diff_id) = {
            let mut start = Vec::new();
            source
                .by_ref()
                .take(Compression::MAGIC as u64)
                .read_to_end(&mut start)
                .context(|| "read the archive".to_owned())?;
            let media_type = Compression::of(&start).layer_media_type();
            let source = io::Cursor::new(start).chain(source);
            match media_type {
                Some(media_type) => self.keep_archive(source, media_type)?,
                // Registries know no other compressions.
                None => {
                    let (_, plain) = decompress(source).context(|| "read the archive".to_owned())?;
                    let media_type = Compression::None.layer_media_type().unwrap_or_default();
                    self.keep_archive(plain, media_type)?
                }
            }
        };
        let (staged, blob) = layer;
        let _layers = inner.layers.hold(&LayerId::chain(&[diff_id]));
        let _blobs = inner.blobs.hold([blob.digest]);
        staged.commit()?;
        let archive = inner.blobs.open_blob(blob.digest)?;
        let new = NewLayer { below: Vec::new(), diff_id, blob };
        inner.layers.unpack(&new, archive)?;
        let created = config::now()?;
        let step = Step { created: created.clone(), comment: comment.to_owned(), ..Step::default() };
        let config = NewConfig {
            architecture: platform.architecture(),
            variant: platform.variant(),
            os: platform.os(),
            os_version: "",
            author: "",
            comment: Some(comment),
            created: &created,
            docker_version: DOCKER_VERSION,
            container: "",
            container_config: None,
            config: container,
            history: &[step],
            rootfs: &RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
        };
        let config = serde_json::to_vec(&config).context(|| "encode the configuration".to_owned())?;
        let _config = inner.blobs.hold([Digest::of(&config)]);
        let digest = inner.blobs.write(&config)?;
        self.commit(digest, None, &[])?;
        Ok(digest)
    }

    /// Stores an archive as it is; also the digest of what it holds uncompressed.
    pub(super) fn keep_archive(
        &self,
        mut source: impl Read,
        media_type: &str,
    ) -> Result<((Staged, Blob), Digest)> {
        let mut writer = self.0.blobs.writer()?;
        copy(&mut source, &mut writer).context(|| "read the archive".to_owned())?;
        let staged = writer.finish();
        let blob = Blob { media_type: media_type.to_owned(), digest: staged.digest(), size: staged.size() };
        let (compression, mut plain) =
            decompress(staged.open()?).context(|| "read the archive".to_owned())?;
        if compression == Compression::None {
            let digest = blob.digest;
            return Ok(((staged, blob), digest));
        }
        let mut hasher = HashWriter(Sha256::default());
        copy(&mut plain, &mut hasher).context(|| "decompress the archive".to_owned())?;
        Ok(((staged, blob), hasher.0.finish()))
    }
}

/// The name for an image that is made here, if it is to have one.
///
/// # Errors
/// What is no name, or one with a digest.
pub(super) fn new_name(repository: &str, tag: &str) -> Result<Option<Reference>> {
    if repository.is_empty() {
        return Ok(None);
    }
    let reference = Reference::parse_with_tag(repository, tag)?;
    if reference.digest().is_some() {
        return Err(Error::invalid("cannot import digest reference"));
    }
    Ok(Some(reference.or_latest()))
}

struct HashWriter(Sha256);

impl Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// [`io::copy`] with a larger buffer.
pub(super) fn copy(source: &mut impl Read, target: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                target.write_all(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
