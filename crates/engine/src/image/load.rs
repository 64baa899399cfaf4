use std::{
    collections::HashMap,
    io::{self, Read, Write},
    sync::Arc,
};

use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::{
    Image, Images,
    blobs::{BlobHold, Staged},
    config::{self, ConfigFile, IndexEntry, MAX_DOCUMENT, Manifest},
    platform::Platform,
    progress::{Progress, Told},
    reference::Reference,
};
use crate::{
    error::{Context, Error, Kind, Result},
    snapshot::{
        Blob, Compression, Digest, LayerId, NewLayer, Sha256, TarEntry, TarError, TarKind, TarReader,
        decompress,
    },
};

/// Most bytes of all names in an archive: a saved image has about two files per layer.
const MAX_NAMES: usize = 16 << 20;
/// How many links may lead from one to the next.
const MAX_LINKS: usize = 16;
/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;
/// Docker's list of the images in an archive.
const MANIFEST: &str = "manifest.json";
/// OCI's.
const INDEX: &str = "index.json";

/// A line of [`MANIFEST`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// A file of the archive.
#[derive(Debug)]
enum Member {
    Staged(Staged),
    /// Its content is in the store.
    Stored(Digest),
    /// Another file of the archive.
    Link(String),
}

/// The files of an archive by their names.
struct Archive<'a> {
    images: &'a Images,
    members: HashMap<String, Member>,
    /// Keeps what was found in the store there.
    holds: Vec<BlobHold>,
}

impl Images {
    /// Takes in the images of an archive as `docker save` or an OCI tool wrote it, compressed or not.
    /// Each image that was told of survives a power cut.
    ///
    /// # Errors
    /// An archive that is no such one, is damaged or hostile. Images before the damage are kept; of
    /// others nothing is left behind.
    pub(crate) async fn load(
        &self,
        body: impl Read + Send + 'static,
        quiet: bool,
        progress: &Progress,
    ) -> Result<()> {
        let (images, progress) = (self.clone(), progress.clone());
        spawn_blocking(move || images.load_blocking(body, quiet, &progress))
            .await
            .context(|| "load images".to_owned())?
    }

    fn load_blocking(&self, body: impl Read + Send, quiet: bool, progress: &Progress) -> Result<()> {
        let mut archive = Archive::read(self, body)?;
        let items = archive.items()?;
        let mut without_name = Vec::new();
        let mut named = false;
        for item in &items {
            let references = references(item)?;
            let image = archive.load(item, &references, quiet, progress)?;
            for reference in &references {
                named = true;
                progress.stream_blocking(format!("Loaded image: {}\n", reference.familiar()));
            }
            self.tell("load", &image.id, &image.id, Some(&image));
            without_name.push(image);
        }
        if !named {
            for image in without_name {
                progress.stream_blocking(format!("Loaded image ID: {}\n", image.id));
            }
        }
        Ok(())
    }
}

fn references(item: &Item) -> Result<Vec<Reference>> {
    item.repo_tags
        .iter()
        .flatten()
        .map(|text| match Reference::parse(text)? {
            reference if reference.tag().is_some() && reference.digest().is_none() => Ok(reference),
            _ => Err(Error::invalid(format!("invalid tag {text:?}"))),
        })
        .collect()
}

impl<'a> Archive<'a> {
    /// Reads the archive to its end; every file is staged under its digest.
    fn read(images: &'a Images, body: impl Read + Send) -> Result<Self> {
        let (_, plain) = decompress(body).context(|| "read the archive".to_owned())?;
        let mut reader = TarReader::new(plain);
        let mut archive = Self { images, members: HashMap::new(), holds: Vec::new() };
        let mut names = 0;
        while let Some(entry) = reader.next().map_err(refuse)? {
            let Some(name) = clean(&entry.path) else { continue };
            names += name.len() + entry.link.len();
            if names > MAX_NAMES {
                return Err(Error::invalid("the archive has too many files for one of images"));
            }
            let member = match entry.kind {
                TarKind::File => archive.file(&name, &entry, &mut reader)?,
                TarKind::HardLink => match clean(&entry.link) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                TarKind::Symlink => match beside(&name, &entry.link) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                _ => continue,
            };
            archive.members.insert(name, member);
        }
        Ok(archive)
    }

    fn file(&mut self, name: &str, entry: &TarEntry, reader: &mut TarReader<impl Read>) -> Result<Member> {
        let blobs = &self.images.0.blobs;
        let digest = name.strip_prefix("blobs/sha256/").and_then(|hex| Digest::from_hex(hex).ok());
        if let Some(digest) = digest {
            let hold = blobs.hold([digest]);
            if blobs.size(digest) == Some(entry.size) {
                // It is not written again, but it must be what its name says.
                let mut hasher = Sha256::default();
                each_piece(entry, reader, |bytes| {
                    hasher.update(bytes);
                    Ok(())
                })?;
                if hasher.finish() != digest {
                    return Err(Error::invalid(format!("the content of {name} is not what its name says")));
                }
                self.holds.push(hold);
                return Ok(Member::Stored(digest));
            }
        }
        let mut writer = blobs.writer()?;
        each_piece(entry, reader, |bytes| writer.write_all(bytes))?;
        Ok(Member::Staged(writer.finish()))
    }

    /// The member that a name leads to.
    fn find(&self, name: &str) -> Option<(&str, &Member)> {
        let mut name = clean(name.as_bytes())?;
        for _ in 0..MAX_LINKS {
            let (key, member) = self.members.get_key_value(&name)?;
            match member {
                Member::Link(target) => name.clone_from(target),
                member => return Some((key, member)),
            }
        }
        None
    }

    fn digest(&self, name: &str) -> Result<Digest> {
        match self.find(name) {
            Some((_, Member::Staged(staged))) => Ok(staged.digest()),
            Some((_, Member::Stored(digest))) => Ok(*digest),
            _ => Err(missing(name)),
        }
    }

    /// The whole of a small file.
    fn document(&self, name: &str) -> Result<Vec<u8>> {
        match self.find(name) {
            Some((_, Member::Stored(digest))) => self.images.0.blobs.read(*digest, MAX_DOCUMENT),
            Some((_, Member::Staged(staged))) => {
                if staged.size() > MAX_DOCUMENT {
                    let size = staged.size();
                    return Err(Error::invalid(format!(
                        "{name} has {size} bytes where at most {MAX_DOCUMENT} are expected"
                    )));
                }
                let mut content = Vec::new();
                staged.open()?.read_to_end(&mut content).context(|| format!("read {name}"))?;
                Ok(content)
            }
            _ => Err(missing(name)),
        }
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_slice(&self.document(name)?)
            .map_err(|error| Error::invalid(format!("invalid {name}")).because(error))
    }

    /// Puts a member into the store and keeps it there.
    fn store(&mut self, name: &str) -> Result<Blob> {
        let digest = self.digest(name)?;
        let blobs = &self.images.0.blobs;
        self.holds.push(blobs.hold([digest]));
        let key = self.find(name).map(|(key, _)| key.to_owned()).ok_or_else(|| missing(name))?;
        if let Some(member) = self.members.get_mut(&key)
            && let Member::Staged(staged) = std::mem::replace(member, Member::Stored(digest))
        {
            staged.commit()?;
        }
        let size = blobs.size(digest).ok_or_else(|| missing(name))?;
        Ok(Blob { media_type: String::new(), digest, size })
    }

    /// What images the archive says it has.
    fn items(&self) -> Result<Vec<Item>> {
        if self.find(MANIFEST).is_some() {
            return self.json(MANIFEST);
        }
        if self.find(INDEX).is_none() {
            return Err(Error::invalid(format!(
                "invalid archive: it has neither {MANIFEST} nor {INDEX}, so it was not written by \
                 docker save (docker import takes archives of a root file system)"
            )));
        }
        let index: config::Index = self.json(INDEX)?;
        let mut items: Vec<Item> = Vec::new();
        for entry in &index.manifests {
            let Some(manifest) = self.manifest(&entry.blob, MAX_DEPTH)? else { continue };
            let config = blob_name(manifest.config.digest);
            let tag = image_name(entry);
            if let Some(item) = items.iter_mut().find(|item| item.config == config) {
                item.repo_tags.get_or_insert_default().extend(tag);
                continue;
            }
            let layers = manifest.layers.iter().map(|layer| blob_name(layer.digest)).collect();
            items.push(Item { config, repo_tags: tag.map(|tag| vec![tag]), layers: Some(layers) });
        }
        Ok(items)
    }

    /// The manifest that a blob is or, as an index, has for this machine or else for any.
    fn manifest(&self, blob: &Blob, depth: usize) -> Result<Option<Manifest>> {
        let name = blob_name(blob.digest);
        if depth == 0 || self.find(&name).is_none() {
            return Ok(None);
        }
        match config::Document::decode(&self.document(&name)?, Some(&blob.media_type))? {
            config::Document::Manifest(manifest) => {
                let whole = self.find(&blob_name(manifest.config.digest)).is_some();
                Ok(whole.then_some(manifest))
            }
            config::Document::Index(index) => {
                let host = Platform::host();
                let mut entries: Vec<_> = index
                    .manifests
                    .iter()
                    .filter(|entry| entry.platform.os != "unknown")
                    .map(|entry| {
                        let found = &entry.platform;
                        let platform = Platform::new(&found.os, &found.architecture, &found.variant);
                        (host.rank(&platform).unwrap_or(usize::MAX), entry)
                    })
                    .collect();
                entries.sort_by_key(|(rank, _)| *rank);
                for (_, entry) in entries {
                    if let Some(manifest) = self.manifest(&entry.blob, depth - 1)? {
                        return Ok(Some(manifest));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Unpacks an image's layers and writes it down.
    fn load(
        &mut self,
        item: &Item,
        references: &[Reference],
        quiet: bool,
        progress: &Progress,
    ) -> Result<Arc<Image>> {
        let file = ConfigFile::decode(&self.document(&item.config)?)?;
        let diff_ids = file.rootfs.diff_ids;
        let names = item.layers.as_deref().unwrap_or_default();
        if names.len() != diff_ids.len() {
            return Err(Error::invalid(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                diff_ids.len(),
                names.len()
            )));
        }
        let chain = LayerId::chain(&diff_ids);
        let _layers = self.images.0.layers.hold(&chain);
        for (position, name) in names.iter().enumerate() {
            if self.images.0.layers.get(chain[position]).is_none() {
                let below = &chain[..position];
                self.unpack(name, below, diff_ids[position], quiet, progress)?;
            }
        }
        let config = self.store(&item.config)?.digest;
        let manifest = self.manifest_of(config)?;
        self.tell_of_renamed(references, config, progress);
        self.images.commit(config, manifest, references)
    }

    fn unpack(
        &mut self,
        name: &str,
        below: &[LayerId],
        diff_id: Digest,
        quiet: bool,
        progress: &Progress,
    ) -> Result<()> {
        let position = below.len();
        let mut blob = self.store(name)?;
        let mut start = Vec::new();
        let images = self.images;
        images
            .0
            .blobs
            .open_blob(blob.digest)?
            .take(Compression::MAGIC as u64)
            .read_to_end(&mut start)
            .context(|| format!("read {name}"))?;
        let compression = Compression::of(&start);
        if compression == Compression::None && blob.digest != diff_id {
            return Err(Error::invalid(format!(
                "invalid diffID for layer {position}: expected \"{diff_id}\", got \"{}\"",
                blob.digest
            )));
        }
        match compression.layer_media_type() {
            Some(media_type) => media_type.clone_into(&mut blob.media_type),
            // Registries know no other compressions.
            None => {
                let media_type = Compression::None.layer_media_type().unwrap_or_default();
                let (_, plain) =
                    decompress(images.0.blobs.open_blob(blob.digest)?).context(|| format!("read {name}"))?;
                let ((staged, plain), _) = images.keep_archive(plain, media_type)?;
                self.holds.push(images.0.blobs.hold([plain.digest]));
                staged.commit()?;
                blob = plain;
            }
        }
        let source = images.0.blobs.open_blob(blob.digest)?;
        let new = NewLayer { below: below.to_vec(), diff_id, blob };
        if quiet {
            images.0.layers.unpack(&new, source)?;
        } else {
            let transfer = progress.transfer(&diff_id.short(), "Loading layer", new.blob.size);
            images.0.layers.unpack(&new, Told { source, transfer })?;
        }
        Ok(())
    }

    /// The manifest that the archive's index has for an image, put into the store: saved again, it is
    /// the same.
    fn manifest_of(&mut self, config: Digest) -> Result<Option<Blob>> {
        if self.find(INDEX).is_none() {
            return Ok(None);
        }
        let index: config::Index = self.json(INDEX)?;
        for entry in index.manifests {
            let name = blob_name(entry.blob.digest);
            if self.digest(&name).ok() != Some(entry.blob.digest) {
                continue;
            }
            let document = self.document(&name)?;
            let decoded = config::Document::decode(&document, Some(&entry.blob.media_type));
            if let Ok(config::Document::Manifest(manifest)) = decoded
                && manifest.config.digest == config
            {
                let stored = self.store(&name)?;
                return Ok(Some(Blob { media_type: entry.blob.media_type, ..stored }));
            }
        }
        Ok(None)
    }

    fn tell_of_renamed(&self, references: &[Reference], image: Digest, progress: &Progress) {
        for reference in references {
            let before = self.images.state().references.get(&reference.to_string()).cloned();
            if let Some((_, before)) = before.filter(|(_, before)| *before != image) {
                progress.stream_blocking(format!(
                    "The image {} already exists, renaming the old one with ID {before} to empty \
                     string\n",
                    reference.familiar()
                ));
            }
        }
    }
}

/// The name that an OCI index gives an image: containerd's annotation, or OCI's if it is a whole name.
fn image_name(entry: &IndexEntry) -> Option<String> {
    let text = entry.annotations.get("io.containerd.image.name").or_else(|| {
        entry.annotations.get("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']))
    })?;
    let reference = Reference::parse(text).ok()?;
    (reference.digest().is_none()).then(|| reference.or_latest().familiar())
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Hands out a file's content piece by piece, holes as zeros.
fn each_piece(
    entry: &TarEntry,
    reader: &mut TarReader<impl Read>,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut written = 0_u64;
    let hole = |written: &mut u64, end: u64, take: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        let zeros = [0; 4096];
        while *written < end {
            let count = usize::try_from(end - *written).unwrap_or(zeros.len()).min(zeros.len());
            take(&zeros[..count]).context(|| "write a blob".to_owned())?;
            *written += count as u64;
        }
        Result::Ok(())
    };
    let whole = [crate::snapshot::TarPiece { offset: 0, length: entry.size }];
    for piece in entry.pieces.as_deref().unwrap_or(&whole) {
        hole(&mut written, piece.offset, &mut take)?;
        let end = piece.offset + piece.length;
        while written < end {
            let most = usize::try_from(end - written).unwrap_or(usize::MAX).min(buffer.len());
            let count = match reader.read(&mut buffer[..most]) {
                Ok(0) => return Err(refuse(TarError::Truncated)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(refuse(error.into())),
            };
            take(&buffer[..count]).context(|| "write a blob".to_owned())?;
            written += count as u64;
        }
    }
    hole(&mut written, entry.size, &mut take)
}

fn missing(name: &str) -> Error {
    Error::new(Kind::InvalidParameter, format!("open {name}: no such file or directory"))
}

fn refuse(error: TarError) -> Error {
    Error::invalid(error.to_string())
}

/// A name in the archive without `.`, `..` and double slashes; `None` for one that leads out of it or is
/// no text.
fn clean(path: &[u8]) -> Option<String> {
    let mut components: Vec<&str> = Vec::new();
    for component in std::str::from_utf8(path).ok()?.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    (!components.is_empty()).then(|| components.join("/"))
}

/// Where a symbolic link called `name` leads.
fn beside(name: &str, target: &[u8]) -> Option<String> {
    if target.starts_with(b"/") {
        return clean(target);
    }
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    clean(&[directory.as_bytes(), b"/", target].concat())
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Fixture, Parts, Registry, member},
        *,
    };
    use crate::snapshot::testing::{Archive as Tar, gzip};

    fn manifest(parts: &Parts, tags: &[&str], layers: &[&str]) -> Vec<u8> {
        let config = format!("{}.json", Digest::of(&parts.config).hex());
        serde_json::to_vec(&serde_json::json!(
            [{"Config": config, "RepoTags": tags, "Layers": layers}]
        ))
        .unwrap()
    }

    /// As Docker wrote them before 25.
    fn old_archive(parts: &Parts, tags: &[&str]) -> Tar {
        let config = format!("{}.json", Digest::of(&parts.config).hex());
        let mut archive = Tar::default().file(&config, &parts.config);
        let mut names = Vec::new();
        for (number, layer) in parts.archives.iter().enumerate() {
            names.push(format!("{number}/layer.tar"));
            archive = archive
                .directory(&format!("{number}/"))
                .file(&format!("{number}/VERSION"), b"1.0")
                .file(&names[number], layer);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        archive.file("manifest.json", &manifest(parts, tags, &names))
    }

    #[tokio::test]
    async fn saved_and_loaded_again_it_is_the_same_byte_by_byte() {
        let (registry, source) = (Registry::start().await, Fixture::new());
        let parts = Parts::new("amd64", &["one", "two"]);
        registry.add("1", &parts);
        let name = registry.name("a:1");
        source.pull(&name).await.unwrap();
        source.images.tag(&name, "other", "2").await.unwrap();
        let imported = source.import("imported", "three").await;
        let saved = source.save(&[&name, "other:2", "imported"]).await.unwrap();
        let manifest_name = format!("blobs/sha256/{}", Digest::of(&parts.manifest).hex());
        assert_eq!(member(&saved, &manifest_name).unwrap(), parts.manifest);
        assert_eq!(member(&saved, "oci-layout").unwrap(), br#"{"imageLayoutVersion": "1.0.0"}"#);

        let target = Fixture::new();
        let told = target.load(&saved).await.unwrap();
        assert_eq!(
            told,
            [
                format!(r#"{{"stream":"Loaded image: {name}\n"}}"#),
                r#"{"stream":"Loaded image: other:2\n"}"#.to_owned(),
                r#"{"stream":"Loaded image: imported:latest\n"}"#.to_owned(),
            ]
        );
        assert_eq!(target.images.get("other:2").unwrap().id, parts.id());
        assert_eq!(target.images.get("imported").unwrap().id, imported.id);
        assert_eq!(target.told().len(), 2);
        let again = target.save(&[&name, "other:2", "imported"]).await.unwrap();
        assert!(saved == again, "the archives differ");
        // What is here already does no harm, and nothing is written twice.
        let files = target.files();
        target.load(&saved).await.unwrap();
        assert_eq!(target.files(), files);
    }

    #[tokio::test]
    async fn archives_of_all_kinds_are_understood() {
        let parts = Parts::new("arm64", &["one", "two"]);
        let config = Digest::of(&parts.config);
        // Dockers before 25, also with links for layers that occur twice.
        let old = old_archive(&parts, &["old:1"]).finish();
        let twice = Parts::with_diff_ids(
            "amd64",
            vec![parts.archives[0].clone(); 2],
            &[Digest::of(&parts.archives[0]); 2],
        );
        let linked = Tar::default()
            .file(&format!("{}.json", Digest::of(&twice.config).hex()), &twice.config)
            .file("a/layer.tar", &parts.archives[0])
            .symlink("b/layer.tar", "../a/layer.tar")
            .hard_link("c", "./b/layer.tar")
            .file("manifest.json", &manifest(&twice, &["linked:1"], &["b/layer.tar", "c"]))
            .finish();
        // OCI's layout without Docker's manifest, as skopeo and buildx write it.
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": config::OCI_MANIFEST, "digest": Digest::of(&parts.manifest),
            "size": parts.manifest.len(),
            "annotations": {"io.containerd.image.name": "docker.io/library/oci:1"}}]});
        let mut oci = Tar::default().file("./index.json", &serde_json::to_vec(&index).unwrap());
        for blob in parts.layers.iter().chain([&parts.config, &parts.manifest]) {
            oci = oci.file(&format!("./{}", blob_name(Digest::of(blob))), blob);
        }
        for (archive, name, id) in [
            (old.clone(), "old:1", parts.id()),
            (gzip(&old), "old:1", parts.id()),
            (zstd::encode_all(&old[..], 1).unwrap(), "old:1", parts.id()),
            (linked, "linked:1", twice.id()),
            (oci.finish(), "oci:1", config.to_string()),
        ] {
            let fixture = Fixture::new();
            fixture.load(&archive).await.unwrap();
            assert_eq!(fixture.images.get(name).unwrap().id, id, "{name}");
        }
    }

    #[tokio::test]
    async fn an_image_without_a_name_is_told_of_by_its_id() {
        let fixture = Fixture::new();
        let parts = Parts::new("amd64", &["one"]);
        let told = fixture.load(&old_archive(&parts, &[]).finish()).await.unwrap();
        assert_eq!(told, [format!(r#"{{"stream":"Loaded image ID: {}\n"}}"#, parts.id())]);
    }

    #[tokio::test]
    async fn a_name_moves_to_the_image_that_is_loaded() {
        let fixture = Fixture::new();
        let before = fixture.import("a:1", "before").await;
        let parts = Parts::new("amd64", &["one"]);
        let told = fixture.load(&old_archive(&parts, &["a:1"]).finish()).await.unwrap();
        assert!(told[0].contains(&format!(
            "The image a:1 already exists, renaming the old one with ID {} to empty string",
            before.id
        )));
        assert_eq!(fixture.images.get("a:1").unwrap().id, parts.id());
        assert_eq!(fixture.images.names(&before.id), [""; 0]);
    }

    #[tokio::test]
    async fn damaged_and_hostile_archives_change_nothing() {
        let mut fixture = Fixture::new();
        fixture.import("kept", "kept").await;
        let before = fixture.files();
        let parts = Parts::new("amd64", &["one", "two"]);
        let whole = old_archive(&parts, &["a:1"]).finish();
        let with = |tags: &[&str], layers: &[&str]| {
            Tar::default()
                .file(&format!("{}.json", Digest::of(&parts.config).hex()), &parts.config)
                .file("0/layer.tar", &parts.archives[0])
                .file("1/layer.tar", &parts.archives[1])
                .symlink("out", "../../../../../etc/passwd")
                .symlink("loop", "loop")
                .file("manifest.json", &manifest(&parts, tags, layers))
                .finish()
        };
        let good = ["0/layer.tar", "1/layer.tar"];
        let blob = blob_name(Digest::of(b"promised"));
        for (archive, message) in [
            (whole[..whole.len() / 2 + 100].to_vec(), "unexpected EOF"),
            (whole[..whole.len() / 2].to_vec(), "it has neither"),
            (b"no archive at all".to_vec(), "unexpected EOF"),
            (vec![7; 4096], "archive/tar: invalid tar header"),
            (Vec::new(), "it has neither manifest.json nor index.json"),
            (with(&["a:1"], &["1/layer.tar", "0/layer.tar"]), "invalid diffID for layer 0: expected"),
            (with(&["a:1"], &good[..1]), "layers length mismatch: expected 2, got 1"),
            (with(&["a:1"], &["0/layer.tar", "nosuch"]), "open nosuch: no such file or directory"),
            (with(&["a:1"], &["0/layer.tar", "/etc/passwd"]), "no such file or directory"),
            (with(&["a:1"], &["0/layer.tar", "out"]), "no such file or directory"),
            (with(&["a:1"], &["0/layer.tar", "loop"]), "no such file or directory"),
            (with(&["A:1"], &good), "must be lowercase"),
            (with(&["a"], &good), "invalid tag \"a\""),
            (Tar::default().file("manifest.json", b"[{").finish(), "invalid manifest.json"),
            (Tar::default().file(&blob, b"changed").file("manifest.json", b"[{}]").finish(), "invalid"),
        ] {
            let error = fixture.load(&archive).await.unwrap_err().to_string();
            assert!(error.contains(message), "{error}\ninstead of {message}");
            assert_eq!(fixture.images.count(), 1);
            // Layers before the damage are left to the next collection.
            fixture.reopen();
            assert_eq!(fixture.files(), before, "{message}");
        }
    }

    #[tokio::test]
    async fn a_changed_copy_of_a_blob_that_is_here_is_noticed() {
        let fixture = Fixture::new();
        let parts = Parts::new("amd64", &["one"]);
        let layer = blob_name(Digest::of(&parts.archives[0]));
        let archive = |content: &[u8]| {
            Tar::default()
                .file(&format!("{}.json", Digest::of(&parts.config).hex()), &parts.config)
                .file(&layer, content)
                .file("manifest.json", &manifest(&parts, &["a:1"], &[&layer]))
                .finish()
        };
        fixture.load(&archive(&parts.archives[0])).await.unwrap();
        let mut changed = parts.archives[0].clone();
        changed[600] ^= 1;
        let error = fixture.load(&archive(&changed)).await.unwrap_err().to_string();
        assert!(error.ends_with("is not what its name says"), "{error}");
    }

    #[tokio::test]
    async fn what_does_not_exist_cannot_be_saved() {
        let fixture = Fixture::new();
        let error = fixture.save(&["nosuch"]).await.unwrap_err().to_string();
        assert_eq!(error, "No such image: nosuch");
        let image = fixture.import("a:1", "one").await;
        fixture.images.tag("a:1", "a", "2").await.unwrap();
        let items = |archive: &[u8]| -> serde_json::Value {
            serde_json::from_slice(&member(archive, "manifest.json").unwrap()).unwrap()
        };
        let by_repository = items(&fixture.save(&["a"]).await.unwrap());
        assert_eq!(by_repository[0]["RepoTags"], serde_json::json!(["a:1", "a:2"]));
        let by_id = items(&fixture.save(&[&image.id]).await.unwrap());
        assert_eq!(by_id[0]["RepoTags"], serde_json::Value::Null);
    }
}
