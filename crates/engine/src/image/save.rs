use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, Read, Write},
    sync::Arc,
};

use serde::Serialize;
use tokio::task::spawn_blocking;

use super::{
    Image, Images,
    blobs::BlobHold,
    config::{self, MAX_DOCUMENT, Manifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST},
    no_such_image,
    reference::{Named, Reference},
};
use crate::{
    error::{Context, Result},
    snapshot::{ArchiveStream, Blob, Digest, Hold, Outgoing},
};

/// Layers and blobs that are being read.
type Holds = Vec<(Hold, BlobHold)>;

/// An image and the names it was asked for by.
#[derive(Debug, Clone)]
struct Asked {
    image: Arc<Image>,
    references: Vec<Reference>,
}

/// An image, ready to be written.
struct Saved {
    asked: Asked,
    manifest: Manifest,
    manifest_blob: Blob,
    /// The manifest's bytes.
    content: Vec<u8>,
}

/// A line of `manifest.json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    layer_sources: BTreeMap<String, Blob>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<IndexEntry>,
}

#[derive(Debug, Serialize)]
struct IndexEntry {
    #[serde(flatten)]
    blob: Blob,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

impl Images {
    /// Writes images into one archive, an OCI image layout with Docker's `manifest.json`. Configurations,
    /// manifests and layers are written byte by byte as they came here.
    ///
    /// # Errors
    /// An image that does not exist.
    pub(crate) async fn save(&self, names: &[String]) -> Result<ArchiveStream> {
        let asked = self.asked(names)?;
        let images = self.clone();
        let ready =
            spawn_blocking(move || images.ready(asked)).await.context(|| "save images".to_owned())??;
        let images = self.clone();
        let (mut writer, receiver) = Outgoing::new();
        spawn_blocking(move || {
            let (saved, _holds) = ready;
            match images.write_archive(&saved, &mut writer) {
                Ok(()) => {
                    for Saved { asked, .. } in &saved {
                        let image = &asked.image;
                        images.tell("save", &image.id, &image.id, Some(image));
                    }
                }
                // The client left, or sees that the archive ends early.
                Err(error) => writer.fail(error),
            }
        });
        Ok(receiver)
    }

    /// What is meant by the names, each image once.
    fn asked(&self, names: &[String]) -> Result<Vec<Asked>> {
        let mut asked: Vec<Asked> = Vec::new();
        let mut add = |image: Arc<Image>, reference: Option<Reference>| {
            let position = asked.iter().position(|asked| asked.image.digest == image.digest);
            let position = position.unwrap_or_else(|| {
                asked.push(Asked { image, references: Vec::new() });
                asked.len() - 1
            });
            let references = &mut asked[position].references;
            if let Some(reference) = reference.filter(|one| one.tag().is_some())
                && !references.contains(&reference)
            {
                references.push(reference);
            }
        };
        for name in names {
            let missing = || no_such_image(name);
            let state = self.state();
            match Named::parse(name)? {
                Named::Id(digest) => {
                    add(state.images.get(&digest).cloned().ok_or_else(missing)?, None);
                }
                // All tags of a repository.
                Named::Reference(reference) if reference.is_name_only() => {
                    let tags: Vec<_> = state
                        .references
                        .values()
                        .filter(|(other, _)| other.digest().is_none() && other.same_repository(&reference))
                        .filter_map(|(other, digest)| {
                            Some((other.clone(), state.images.get(digest)?.clone()))
                        })
                        .collect();
                    if tags.is_empty() {
                        add(state.by_prefix(name).ok_or_else(missing)?, None);
                    }
                    for (tag, image) in tags {
                        add(image, Some(tag));
                    }
                }
                Named::Reference(reference) => match state.resolve(&reference) {
                    Some(image) => {
                        let tag = reference.digest().is_none().then_some(reference);
                        add(image, tag);
                    }
                    None => add(state.by_prefix(name).ok_or_else(missing)?, None),
                },
            }
        }
        Ok(asked)
    }

    /// Finds the manifests, and keeps everything in place until the archive is written.
    fn ready(&self, asked: Vec<Asked>) -> Result<(Vec<Saved>, Holds)> {
        let mut saved = Vec::with_capacity(asked.len());
        let mut holds = Vec::with_capacity(asked.len());
        for asked in asked {
            let layers = self.0.layers.hold(&asked.image.layers);
            let (manifest, media_type, content) = self.manifest(&asked.image)?;
            let digests = manifest.layers.iter().map(|layer| layer.digest);
            holds.push((layers, self.0.blobs.hold(digests.chain([manifest.config.digest]))));
            let manifest_blob = Blob { media_type, digest: Digest::of(&content), size: content.len() as u64 };
            saved.push(Saved { asked, manifest, manifest_blob, content });
        }
        Ok((saved, holds))
    }

    /// The latest manifest that an image came with, if all that it names is here; else one made up.
    fn manifest(&self, image: &Image) -> Result<(Manifest, String, Vec<u8>)> {
        for blob in image.record.manifests.iter().rev() {
            let Ok(content) = self.0.blobs.read(blob.digest, MAX_DOCUMENT) else { continue };
            let decoded = config::Document::decode(&content, Some(&blob.media_type));
            if let Ok(config::Document::Manifest(manifest)) = decoded
                && manifest.layers.len() == image.layers.len()
                && manifest
                    .layers
                    .iter()
                    .chain([&manifest.config])
                    .all(|part| self.0.blobs.size(part.digest) == Some(part.size))
            {
                return Ok((manifest, blob.media_type.clone(), content));
            }
        }
        let missing = || no_such_image(&image.id);
        let layers = image.layers.iter().map(|id| {
            let Blob { media_type, digest, size } = self.0.layers.get(*id).ok_or_else(missing)?.blob.clone();
            Ok(Blob { media_type: oci_layer_type(&media_type), digest, size })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let size = self.0.blobs.size(image.digest).ok_or_else(missing)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: Blob { media_type: OCI_CONFIG.to_owned(), digest: image.digest, size },
            layers,
        };
        let content = serde_json::to_vec(&manifest).context(|| "encode a manifest".to_owned())?;
        Ok((manifest, OCI_MANIFEST.to_owned(), content))
    }

    fn write_archive(&self, saved: &[Saved], writer: &mut Outgoing) -> io::Result<()> {
        let mut archive = tar::Builder::new(writer);
        for directory in ["blobs/", "blobs/sha256/"] {
            let mut header = header(directory, 0, 0o755)?;
            header.set_entry_type(tar::EntryType::Directory);
            header.set_cksum();
            archive.append(&header, io::empty())?;
        }
        let manifests: HashMap<Digest, &[u8]> =
            saved.iter().map(|saved| (saved.manifest_blob.digest, saved.content.as_slice())).collect();
        let mut blobs: BTreeSet<Digest> = manifests.keys().copied().collect();
        for Saved { manifest, .. } in saved {
            blobs.insert(manifest.config.digest);
            blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        }
        for digest in blobs {
            let name = format!("blobs/sha256/{}", digest.hex());
            match manifests.get(&digest) {
                Some(content) => append(&mut archive, &name, content)?,
                None => {
                    let file = self.0.blobs.open_blob(digest).map_err(io::Error::other)?;
                    let size = file.metadata()?.len();
                    archive.append(&header(&name, size, 0o644)?, file.take(size))?;
                }
            }
        }
        let (index, items, repositories) = documents(saved);
        append(&mut archive, "index.json", &serde_json::to_vec(&index)?)?;
        append(&mut archive, "manifest.json", &serde_json::to_vec(&items)?)?;
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion": "1.0.0"}"#)?;
        if !repositories.is_empty() {
            append(&mut archive, "repositories", &serde_json::to_vec(&repositories)?)?;
        }
        archive.into_inner()?.flush()
    }
}

/// `repositories`: the top layer by repository and tag, for the oldest readers.
type Repositories = BTreeMap<String, BTreeMap<String, String>>;

fn documents(saved: &[Saved]) -> (Index, Vec<Item>, Repositories) {
    let path = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
    let (mut manifests, mut items) = (Vec::new(), Vec::new());
    let mut repositories = Repositories::new();
    for Saved { asked, manifest, manifest_blob, .. } in saved {
        let Asked { image, references } = asked;
        for reference in references {
            let tag = reference.tag().unwrap_or_default().to_owned();
            let annotations = BTreeMap::from([
                ("io.containerd.image.name", reference.to_string()),
                ("org.opencontainers.image.ref.name", tag.clone()),
            ]);
            manifests.push(IndexEntry { blob: manifest_blob.clone(), annotations });
            if let Some(top) = manifest.layers.last() {
                let tags = repositories.entry(reference.familiar_name()).or_default();
                tags.insert(tag, top.digest.hex());
            }
        }
        if references.is_empty() {
            let annotations = BTreeMap::new();
            manifests.push(IndexEntry { blob: manifest_blob.clone(), annotations });
        }
        let sources = image.diff_ids.iter().map(ToString::to_string).zip(manifest.layers.clone());
        let tags: Vec<String> = references.iter().map(Reference::familiar).collect();
        items.push(Item {
            config: path(manifest.config.digest),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: manifest.layers.iter().map(|layer| path(layer.digest)).collect(),
            layer_sources: sources.collect(),
        });
    }
    (Index { schema_version: 2, media_type: OCI_INDEX, manifests }, items, repositories)
}

/// OCI's name for Docker's media type of a layer.
fn oci_layer_type(media_type: &str) -> String {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "application/vnd.oci.image.layer.v1.tar+zstd",
        other => other,
    }
    .to_owned()
}

/// Times are all zero: the same images make the same archive.
fn header(name: &str, size: u64, mode: u32) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    Ok(header)
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    archive.append(&header(name, content.len() as u64, 0o644)?, content)
}
