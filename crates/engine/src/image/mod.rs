//! Images: what they are, where they are kept, and the ways in and out.
//!
//! On disk, under the data root: `blobs/sha256/<hex>` (configurations, manifests, layers as they came),
//! `images/<hex>.json` (what this engine knows of an image beside its configuration), and
//! `references.json` (names). An image's ID is the digest of its configuration.
//!
//! An image is there when its record is: blobs and unpacked layers are synced first, then the record and
//! the names are written. Everything that no record refers to is removed at start and with each removal.

/// The content store.
mod blobs;
/// `CMD …`, `ENV …`: changes to a configuration, as `import` takes them.
mod changes;
/// `POST /commit`.
mod commit;
/// Image configurations and manifests (OCI image specification).
mod config;
/// `GET /images/{name}/history`.
mod history;
/// `POST /images/create?fromSrc=…`.
mod import;
/// `GET /images/{name}/json`.
mod inspect;
/// `GET /images/json`.
mod list;
/// `POST /images/load`.
mod load;
/// Shell patterns.
mod pattern;
/// Operating system and architecture.
mod platform;
/// Streams of progress.
mod progress;
/// `POST /images/prune`.
mod prune;
/// `POST /images/create?fromImage=…`.
mod pull;
/// Names.
mod reference;
/// Registries (OCI distribution specification).
mod registry;
/// `DELETE /images/{name}`.
mod remove;
/// `GET /images/get`.
mod save;
/// Records on disk.
mod store;
/// `POST /images/{name}/tag`.
mod tag;
/// A store and a registry for tests.
#[cfg(test)]
mod testing;

pub(crate) use commit::NewImage;
pub(crate) use import::Import;
pub(crate) use list::ListOptions;
pub(crate) use platform::Platform;
pub(crate) use progress::{Progress, Updates, error_line};
pub(crate) use pull::Pull;
pub(crate) use registry::Credentials;
pub(crate) use remove::RemoveOptions;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use tokio::sync::Semaphore;
use wire::{docker::container::ContainerConfig, settings::Proxies};

use crate::{
    error::{Error, Result},
    events::Events,
    snapshot::{Digest, Keyed, Layer, LayerId, Layers},
};

use blobs::Blobs;
use reference::{Named, Reference};
use registry::Registries;
use store::{Record, Store};

/// How many layers are downloaded at once, all pulls together; Docker's default.
const DOWNLOADS: usize = 3;

/// How long to wait before a failed download goes on, the first time; twice as long each time after.
const RETRY_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// How registries are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Reached by plain HTTP too, and with any certificate: `host[:port]` or a CIDR. Those on the
    /// machine itself (127.0.0.0/8, ::1, `localhost`) always are.
    pub insecure: Vec<String>,
    /// Asked before Docker Hub, as URLs.
    pub mirrors: Vec<String>,
    /// On the way to all of them.
    pub proxies: Proxies,
}

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container's ID.
    pub container: String,
    pub running: bool,
}

/// Says which containers use the image with an ID.
pub type Users = Box<dyn Fn(&str) -> Vec<ImageUser> + Send + Sync>;

/// An image.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// `sha256:…`, the digest of its configuration.
    pub id: String,
    pub config: ContainerConfig,
    pub os: String,
    pub os_version: String,
    pub architecture: String,
    pub variant: String,
    /// RFC 3339; empty when the image does not tell.
    pub created: String,
    pub author: String,
    pub comment: String,
    pub docker_version: String,
    /// Bottom first.
    pub layers: Vec<LayerId>,
    /// Bytes of all its files, unpacked.
    pub size: u64,
    digest: Digest,
    diff_ids: Vec<Digest>,
    record: Record,
}

impl Image {
    /// The first twelve digits of the ID.
    pub(crate) fn short_id(&self) -> String {
        self.digest.short()
    }

    /// When it was made, in nanoseconds since the Unix epoch; `None` when it does not tell.
    pub(crate) fn created_nanos(&self) -> Option<i128> {
        config::parse_time(&self.created)
    }

    /// When it was made, in seconds since the Unix epoch; 0 when it does not tell.
    pub(crate) fn created_seconds(&self) -> i64 {
        let seconds = self.created_nanos().unwrap_or(0).div_euclid(1_000_000_000);
        i64::try_from(seconds).unwrap_or(0)
    }

    pub(crate) fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }

    fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.config.labels.as_ref()
    }
}

/// The engine's images. Clones share them.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    store: Store,
    blobs: Blobs,
    layers: Layers,
    events: Events,
    registries: Registries,
    /// Whole blobs in the making, wherever they are to come from.
    downloading: Keyed<Digest>,
    downloads: Semaphore,
    /// How long to wait before a failed download goes on, the first time.
    retry_after: std::time::Duration,
    users: OnceLock<Users>,
    /// Held while records change on disk. Reading needs only `state`.
    changing: Mutex<()>,
    state: Mutex<State>,
    data_root: PathBuf,
}

/// What is on disk, in memory.
#[derive(Debug, Default)]
struct State {
    images: HashMap<Digest, Arc<Image>>,
    /// By canonical form, thus in Docker's order.
    references: BTreeMap<String, (Reference, Digest)>,
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").field("data_root", &self.0.data_root).finish_non_exhaustive()
    }
}

impl Images {
    /// Reads the images under `data_root` and removes what a crash left of others. Snapshots MUST be
    /// open already: what containers stand on is theirs to tell.
    ///
    /// # Errors
    /// A directory that cannot be read or made. A damaged image is logged and left alone.
    pub fn open(data_root: &Path, layers: Layers, events: Events, registry: RegistryOptions) -> Result<Self> {
        let blobs = Blobs::open(data_root)?;
        let store = Store::open(data_root)?;
        let mut state = State::default();
        let (records, mut whole) = store.records()?;
        for (digest, record) in records {
            match config::load_image(digest, record, &blobs, &layers) {
                Ok(image) => {
                    state.images.insert(digest, Arc::new(image));
                }
                Err(error) => {
                    tracing::error!("the image {digest} cannot be used: {error}");
                    whole = false;
                }
            }
        }
        state.references = store.references()?;
        let images = Self(Arc::new(Inner {
            store,
            blobs,
            layers,
            events,
            registries: Registries::new(&registry)?,
            downloading: Keyed::default(),
            downloads: Semaphore::new(DOWNLOADS),
            retry_after: if cfg!(test) { std::time::Duration::ZERO } else { RETRY_AFTER },
            users: OnceLock::new(),
            changing: Mutex::new(()),
            state: Mutex::new(state),
            data_root: data_root.to_owned(),
        }));
        if whole {
            let (layers, blobs) = images.live();
            images.0.layers.collect_later(&layers)?;
            images.collect_blobs(blobs)?;
        } else {
            tracing::warn!("nothing is collected, so that damaged images can be repaired");
        }
        Ok(images)
    }

    /// An image by ID, by the beginning of an ID, by `name[:tag]` or `name@digest`.
    ///
    /// # Errors
    /// "No such image: name:latest", and names that are none.
    pub fn get(&self, reference: &str) -> Result<Arc<Image>> {
        let named = Named::parse(reference)?;
        let state = self.state();
        let found = match &named {
            Named::Id(digest) => state.images.get(digest).cloned(),
            Named::Reference(named) => state.resolve(named).or_else(|| state.by_prefix(reference)),
        };
        found.ok_or_else(|| match named {
            Named::Id(digest) => no_such_image(&digest.to_string()),
            Named::Reference(named) => no_such_image(&named.or_latest().familiar()),
        })
    }

    /// How many images there are.
    pub fn count(&self) -> usize {
        self.state().images.len()
    }

    /// Sets who is asked for the containers that use an image. Only the first call counts.
    pub fn set_users(&self, users: Users) {
        // A second one would be a mistake in the engine's start, of no harm here.
        let _ = self.0.users.set(users);
    }

    /// The names that containers made from this image should be shown with, tags first.
    pub fn names(&self, id: &str) -> Vec<String> {
        let Ok(digest) = id.parse() else { return Vec::new() };
        let references = self.state().references_of(digest);
        let (tags, digests): (Vec<_>, Vec<_>) =
            references.iter().partition(|reference| reference.tag().is_some());
        tags.into_iter().chain(digests).map(Reference::familiar).collect()
    }

    fn users(&self, image: &Image) -> Vec<ImageUser> {
        self.0.users.get().map_or_else(Vec::new, |users| users(&image.id))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes layers and blobs that nothing refers to; the layers, topmost first. The caller MUST hold
    /// [`Self::changing`], so that no image is written down meanwhile.
    fn collect(&self) -> Result<Vec<Arc<Layer>>> {
        let (layers, blobs) = self.live();
        let (removed, trash) = self.0.layers.take_out(&layers)?;
        // A large file takes the kernel a while, and these are two sets of them.
        std::thread::scope(|scope| {
            let layers = scope.spawn(|| self.0.layers.remove_trash(&trash));
            let of_blobs = self.collect_blobs(blobs);
            let of_layers = layers.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            of_layers.and(of_blobs)
        })?;
        if !removed.is_empty() {
            self.0.layers.commit_removals()?;
        }
        Ok(removed)
    }

    fn collect_blobs(&self, mut live: HashSet<Digest>) -> Result<()> {
        live.extend(self.0.layers.blobs());
        self.0.blobs.collect(&live)
    }

    /// What images refer to.
    fn live(&self) -> (HashSet<LayerId>, HashSet<Digest>) {
        let state = self.state();
        let layers = state.images.values().flat_map(|image| &image.layers).copied().collect();
        let manifests = state.images.values().flat_map(|image| &image.record.manifests);
        let blobs = manifests.map(|manifest| manifest.digest).chain(state.images.keys().copied());
        (layers, blobs.collect())
    }

    /// Tells that `action` happened to an image called `name`.
    fn tell(&self, action: &str, id: &str, name: &str, image: Option<&Image>) {
        let labels = image.and_then(Image::labels).cloned().unwrap_or_default();
        let attributes = labels.into_iter().chain([("name".to_owned(), name.to_owned())]);
        self.0.events.emit("image", action, id, attributes);
    }
}

impl State {
    /// The image that a name stands for; with a digest, the tag does not matter.
    fn resolve(&self, reference: &Reference) -> Option<Arc<Image>> {
        let key = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference.clone().or_latest(),
        };
        let (_, digest) = self.references.get(&key.to_string())?;
        self.images.get(digest).cloned()
    }

    /// The only image whose ID begins like this.
    fn by_prefix(&self, prefix: &str) -> Option<Arc<Image>> {
        let prefix = prefix.strip_prefix("sha256:").unwrap_or(prefix);
        let mut fitting = self.images.iter().filter(|(digest, _)| digest.hex().starts_with(prefix));
        let (_, image) = fitting.next()?;
        fitting.next().is_none().then(|| image.clone())
    }

    /// An image's names, in Docker's order.
    fn references_of(&self, digest: Digest) -> Vec<Reference> {
        self.references
            .values()
            .filter(|(_, image)| *image == digest)
            .map(|(reference, _)| reference.clone())
            .collect()
    }

    /// Whether another image was built on top of this one here.
    fn has_children(&self, digest: Digest) -> bool {
        self.images.values().any(|image| image.record.parent == Some(digest))
    }
}

fn no_such_image(name: &str) -> Error {
    Error::not_found(format!("No such image: {name}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{testing::Fixture, *};

    #[tokio::test]
    async fn images_are_found_by_every_kind_of_name() {
        let fixture = Fixture::new();
        let image = fixture.import("a/b:1", "file").await;
        let other = fixture.import("other", "other").await;
        let hex = image.id.strip_prefix("sha256:").unwrap();
        for name in ["a/b:1", "docker.io/a/b:1", &image.id, hex, &hex[..12], &image.id[..20]] {
            assert_eq!(fixture.images.get(name).unwrap().id, image.id, "{name}");
        }
        assert_eq!(fixture.images.get("other").unwrap().id, other.id);
        for (name, message) in [
            ("a/b", "No such image: a/b:latest"),
            ("sha256:dead", "No such image: sha256:dead"),
            ("A", "invalid reference format: repository name (library/A) must be lowercase"),
        ] {
            assert_eq!(fixture.images.get(name).unwrap_err().to_string(), message);
        }
        let unknown = format!("{:0<64}", "dead");
        let message = fixture.images.get(&unknown).unwrap_err().to_string();
        assert_eq!(message, format!("No such image: sha256:{unknown}"));
        assert_eq!(fixture.images.count(), 2);
        assert_eq!(fixture.images.names(&image.id), ["a/b:1"]);
    }

    #[tokio::test]
    async fn everything_is_there_after_a_restart() {
        let mut fixture = Fixture::new();
        let image = fixture.import("a:1", "file").await;
        fixture.images.tag("a:1", "b", "2").await.unwrap();
        fixture.reopen();
        let again = fixture.images.get("b:2").unwrap();
        assert_eq!(again.id, image.id);
        assert!(again.record.last_tagged.is_some());
        assert_eq!(fixture.images.names(&image.id), ["a:1", "b:2"]);
    }

    #[tokio::test]
    async fn what_a_crash_left_behind_goes_at_the_next_start() {
        let mut fixture = Fixture::new();
        fixture.import("a", "file").await;
        let whole = fixture.files();
        // A blob and a layer that a load wrote before its image's record, and what was half done.
        let blobs = &fixture.images.0.blobs;
        blobs.write(b"orphan").unwrap();
        std::mem::forget(blobs.writer().unwrap());
        fs::create_dir_all(fixture.root.path().join("layers/.tmp/3/fs/x")).unwrap();
        let lost = fixture.root.path().join("layers").join(Digest::of(b"lost").hex());
        fs::create_dir_all(lost.join("fs")).unwrap();
        fs::write(fixture.root.path().join("references.json.new"), "{").unwrap();
        fixture.reopen();
        fs::remove_file(fixture.root.path().join("references.json.new")).unwrap();
        assert_eq!(fixture.files(), whole);
        assert!(fixture.images.get("a").is_ok());
    }

    #[tokio::test]
    async fn a_damaged_image_is_left_alone_and_harms_no_other() {
        let mut fixture = Fixture::new();
        let good = fixture.import("good", "file").await;
        let bad = fixture.import("bad", "other").await;
        let config = fixture.images.0.blobs.path(bad.digest);
        let content = fs::read(&config).unwrap();
        fs::write(&config, "").unwrap();
        fixture.reopen();
        assert_eq!(fixture.images.get("good").unwrap().id, good.id);
        assert!(fixture.images.get("bad").is_err());
        // Repaired, it is there again with its name and its layers.
        fs::write(&config, content).unwrap();
        fixture.reopen();
        assert_eq!(fixture.images.get("bad").unwrap().id, bad.id);
    }

    #[tokio::test]
    async fn lists_are_filtered() {
        let fixture = Fixture::new();
        let old = fixture.import_with("old:1", "old", &["LABEL a=1"]).await;
        fixture.import_with("new:2", "new", &["LABEL a=2"]).await;
        fixture.import("", "dangling").await;
        let list = |filters: &str| {
            let filters = crate::api::filters::Filters::parse(Some(filters), &ListOptions::FILTERS);
            let options = ListOptions { filters: filters.unwrap(), ..ListOptions::default() };
            let listed = fixture.images.list(&options)?;
            let names = listed.iter().map(|image| image.repo_tags.join(","));
            Result::<Vec<String>>::Ok(names.collect())
        };
        assert_eq!(list("{}").unwrap(), ["", "new:2", "old:1"]);
        assert_eq!(list(r#"{"dangling":["true"]}"#).unwrap(), [""]);
        assert_eq!(list(r#"{"dangling":["false"]}"#).unwrap(), ["new:2", "old:1"]);
        assert_eq!(list(r#"{"reference":["n*"]}"#).unwrap(), ["new:2"]);
        assert_eq!(list(r#"{"reference":["new","old:*"]}"#).unwrap(), ["new:2", "old:1"]);
        assert_eq!(list(r#"{"label":["a=1"]}"#).unwrap(), ["old:1"]);
        assert_eq!(list(r#"{"before":["new:2"]}"#).unwrap(), ["old:1"]);
        assert_eq!(list(r#"{"since":["old:1"]}"#).unwrap(), ["", "new:2"]);
        assert_eq!(list(r#"{"until":["1h"]}"#).unwrap(), [""; 0]);
        let until = format!(r#"{{"until":["{}"]}}"#, old.created_seconds() + 3600);
        assert_eq!(list(&until).unwrap().len(), 3);
        for (filters, message) in [
            (r#"{"before":["nosuch"]}"#, "No such image: nosuch:latest"),
            (r#"{"dangling":["x"]}"#, "invalid filter 'dangling=[x]'"),
            (r#"{"reference":["[["]}"#, "syntax error in pattern"),
            (r#"{"until":["x"]}"#, "failed to parse value as time or duration: \"x\""),
        ] {
            assert_eq!(list(filters).unwrap_err().to_string(), message);
        }
    }

    #[tokio::test]
    async fn names_are_given_in_dockers_ways() {
        let fixture = Fixture::new();
        fixture.import("a", "file").await;
        let tag = async |name, repository, tag| {
            fixture.images.tag(name, repository, tag).await.map_err(|error| error.to_string())
        };
        assert_eq!(tag("a", "b", "").await, Ok(()));
        assert!(fixture.images.get("b:latest").is_ok());
        let refused = |message: &str| Err(message.to_owned());
        assert_eq!(tag("nosuch", "b", "1").await, refused("No such image: nosuch:latest"));
        assert_eq!(tag("a", "b", ":1").await, refused("invalid tag format"));
        let digest = format!("b@{}", Digest::of(b""));
        let message = "refusing to create a tag with a digest reference";
        assert_eq!(tag("a", &digest, "").await, refused(message));
        let message = "refusing to create an ambiguous tag using digest algorithm as name";
        assert_eq!(tag("a", "sha256", "1").await, refused(message));
    }
}
