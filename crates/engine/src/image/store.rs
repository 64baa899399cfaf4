use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Image, Images, Reference, State, config};
use crate::{
    error::{Context, Result},
    snapshot::{Blob, Digest},
    store::{Durability, read_json, sync_directory, write_json},
};

/// What this engine knows of an image beside what its configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Record {
    /// The image it was built on here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<Digest>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) last_tagged: Option<String>,
    /// Manifests that it came with, oldest first; their bytes are blobs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) manifests: Vec<Blob>,
}

/// Records and names on disk.
#[derive(Debug)]
pub(super) struct Store {
    directory: PathBuf,
    references: PathBuf,
}

impl Store {
    pub(super) fn open(data_root: &Path) -> Result<Self> {
        let directory = data_root.join("images");
        fs::create_dir_all(&directory).context(|| format!("create {}", directory.display()))?;
        Ok(Self { directory, references: data_root.join("references.json") })
    }

    /// All records, and whether every one could be read.
    pub(super) fn records(&self) -> Result<(Vec<(Digest, Record)>, bool)> {
        let (mut records, mut whole) = (Vec::new(), true);
        let entries =
            fs::read_dir(&self.directory).context(|| format!("read {}", self.directory.display()))?;
        for entry in entries {
            let entry = entry.context(|| format!("read {}", self.directory.display()))?;
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(|hex| Digest::from_hex(hex).ok());
            let Some(digest) = digest else { continue };
            match read_json(&entry.path()) {
                Ok(Some(record)) => records.push((digest, record)),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!("{error}");
                    whole = false;
                }
            }
        }
        Ok((records, whole))
    }

    fn write_record(&self, digest: Digest, record: &Record) -> Result<()> {
        write_json(&self.path(digest), record, Durability::Synced)
    }

    /// Durable, so that what was removed does not come back.
    fn remove_record(&self, digest: Digest) -> Result<()> {
        let path = self.path(digest);
        let remove = || -> io::Result<()> {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            sync_directory(&self.directory)
        };
        remove().context(|| format!("remove {}", path.display()))
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{}.json", digest.hex()))
    }

    pub(super) fn references(&self) -> Result<BTreeMap<String, (Reference, Digest)>> {
        let names: BTreeMap<String, Digest> = read_json(&self.references)?.unwrap_or_default();
        let parsed = names.into_iter().filter_map(|(name, digest)| match Reference::parse(&name) {
            Ok(reference) => Some((name, (reference, digest))),
            Err(error) => {
                tracing::error!("{}: {name}: {error}", self.references.display());
                None
            }
        });
        Ok(parsed.collect())
    }

    fn write_references(&self, references: &BTreeMap<String, (Reference, Digest)>) -> Result<()> {
        let names: BTreeMap<&str, Digest> =
            references.iter().map(|(name, (_, digest))| (name.as_str(), *digest)).collect();
        write_json(&self.references, &names, Durability::Synced)
    }
}

impl Images {
    /// Makes an image of a configuration that is in the content store and layers that are unpacked, or
    /// adds to what is known of it; then gives it names. What it returned survives a power cut. Blocks.
    ///
    /// The caller MUST hold the blobs and layers.
    pub(super) fn commit(
        &self,
        digest: Digest,
        manifest: Option<Blob>,
        references: &[Reference],
    ) -> Result<Arc<Image>> {
        let add = |record: &mut Record| {
            if let Some(manifest) = manifest
                && !record.manifests.contains(&manifest)
            {
                record.manifests.push(manifest);
            }
        };
        self.commit_record(digest, add, references)
    }

    /// The same for an image that was built here on top of `parent`.
    pub(super) fn commit_child(&self, digest: Digest, parent: Digest) -> Result<Arc<Image>> {
        self.commit_record(digest, |record| record.parent = Some(parent), &[])
    }

    fn commit_record(
        &self,
        digest: Digest,
        change: impl FnOnce(&mut Record),
        references: &[Reference],
    ) -> Result<Arc<Image>> {
        let inner = &self.0;
        let _one_at_a_time = self.changing();
        let before = self.state().images.get(&digest).cloned();
        let mut record = before.as_ref().map(|image| image.record.clone()).unwrap_or_default();
        change(&mut record);
        let image = match before {
            Some(image) if image.record == record => image,
            _ => {
                let image = config::load_image(digest, record, &inner.blobs, &inner.layers)?;
                inner.layers.sync()?;
                let layers = image.layers.iter().filter_map(|layer| inner.layers.get(*layer));
                inner.blobs.forget_contents(layers.map(|layer| layer.blob.digest));
                inner.store.write_record(digest, &image.record)?;
                let image = Arc::new(image);
                self.state().images.insert(digest, image.clone());
                image
            }
        };
        self.change_references(|names| {
            for reference in references {
                names.insert(reference.to_string(), (reference.clone(), digest));
            }
        })?;
        Ok(image)
    }

    /// Gives an image another name and notes when. Blocks.
    pub(super) fn commit_tag(&self, digest: Digest, reference: &Reference, now: String) -> Result<()> {
        let _one_at_a_time = self.changing();
        let Some(image) = self.state().images.get(&digest).cloned() else {
            return Err(super::no_such_image(&digest.to_string()));
        };
        let mut image = Image::clone(&image);
        image.record.last_tagged = Some(now);
        self.0.store.write_record(digest, &image.record)?;
        self.state().images.insert(digest, Arc::new(image));
        self.change_references(|names| {
            names.insert(reference.to_string(), (reference.clone(), digest));
        })
    }

    /// Takes names away. Blocks.
    pub(super) fn commit_untag(&self, references: &[Reference]) -> Result<()> {
        let _one_at_a_time = self.changing();
        self.change_references(|names| {
            for reference in references {
                names.remove(&reference.to_string());
            }
        })
    }

    /// Removes an image without names, and what only it needed: the layers removed, topmost first.
    /// Blocks.
    pub(super) fn commit_removal(&self, digest: Digest) -> Result<Vec<Arc<crate::snapshot::Layer>>> {
        let _one_at_a_time = self.changing();
        self.0.store.remove_record(digest)?;
        self.state().images.remove(&digest);
        self.collect()
    }

    /// On disk first: a name that was answered with is there after a power cut.
    fn change_references(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, (Reference, Digest)>),
    ) -> Result<()> {
        let before = self.state().references.clone();
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        self.0.store.write_references(&after)?;
        let State { references, .. } = &mut *self.state();
        *references = after;
        Ok(())
    }
}
