use std::sync::Arc;

use tokio::task::spawn_blocking;
use wire::docker::image::DeleteItem;

use super::{Image, ImageUser, Images, reference::Reference};
use crate::{
    error::{Context, Error, Result},
    snapshot::Digest,
};

/// `DELETE /images/{name}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RemoveOptions {
    /// Also when stopped containers or several names refer to it.
    pub(crate) force: bool,
    /// Keep the images it was built from.
    pub(crate) keep_parents: bool,
}

/// Why an image stays.
#[derive(Debug, PartialEq, Eq)]
struct Conflict {
    image: String,
    /// Force does not help.
    hard: bool,
    /// A container uses it.
    used: bool,
    why: String,
}

impl From<Conflict> for Error {
    fn from(conflict: Conflict) -> Self {
        let Conflict { image, hard, why, .. } = conflict;
        let force = if hard { "cannot be forced" } else { "must be forced" };
        Self::conflict(format!("conflict: unable to delete {image} ({force}) - {why}"))
    }
}

/// What may keep an image.
#[derive(Debug, Clone, Copy)]
struct Checks {
    names: bool,
    stopped: bool,
}

impl Images {
    /// Takes a name away, or removes an image and all that only it needed, as Docker decides between the
    /// two; what was done, in order.
    ///
    /// # Errors
    /// No such image; something uses it, in Docker's words.
    pub(crate) async fn remove(&self, name: &str, options: RemoveOptions) -> Result<Vec<DeleteItem>> {
        let (images, name) = (self.clone(), name.to_owned());
        spawn_blocking(move || images.remove_blocking(&name, options))
            .await
            .context(|| "remove an image".to_owned())?
    }

    pub(super) fn remove_blocking(&self, name: &str, options: RemoveOptions) -> Result<Vec<DeleteItem>> {
        let image = self.get(name)?;
        let references = self.state().references_of(image.digest);
        let mut items = Vec::new();
        let mut name_removed = false;
        if is_id_prefix(image.digest, name) {
            // With a single name, the ID stands for it.
            if is_single(&references) {
                let checks = Checks { names: false, stopped: !options.force };
                if let Some(conflict) = self.conflict(&image, checks) {
                    return Err(conflict.into());
                }
                self.untag(&image, &references, true, &mut items)?;
            }
        } else {
            if !options.force
                && is_single(&references)
                && let Some(user) = self.users(&image).first()
            {
                return Err(Error::conflict(format!(
                    "conflict: unable to remove repository reference {name:?} (must force) - \
                     container {} is using its referenced image {}",
                    short(&user.container),
                    image.short_id()
                )));
            }
            let left = self.remove_name(&image, name, &references, &mut items)?;
            if left {
                return Ok(items);
            }
            name_removed = true;
        }
        self.remove_image(&image, options, name_removed, &mut items)?;
        Ok(items)
    }

    /// Takes one name away and, if it was the last tag in its repository, that repository's digests too;
    /// whether names are left.
    fn remove_name(
        &self,
        image: &Image,
        name: &str,
        references: &[Reference],
        items: &mut Vec<DeleteItem>,
    ) -> Result<bool> {
        let reference = Reference::parse(name)?.or_latest();
        let reference = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference,
        };
        self.untag(image, std::slice::from_ref(&reference), true, items)?;
        let mut left: Vec<Reference> =
            references.iter().filter(|other| **other != reference).cloned().collect();
        let tags_left =
            left.iter().any(|other| other.digest().is_none() && other.same_repository(&reference));
        if reference.digest().is_none() && !tags_left {
            let (digests, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|other| other.same_repository(&reference));
            // Docker tells of the tag alone.
            self.untag(image, &digests, false, items)?;
            left = others;
        }
        Ok(!left.is_empty())
    }

    fn untag(
        &self,
        image: &Image,
        references: &[Reference],
        tell: bool,
        items: &mut Vec<DeleteItem>,
    ) -> Result<()> {
        self.commit_untag(references)?;
        for reference in references {
            items.push(DeleteItem::untagged(reference.familiar()));
            if tell {
                self.tell("untag", &image.id, &image.id, Some(image));
            }
        }
        Ok(())
    }

    /// Removes an image with the names it still has. With `quiet`, a conflict just leaves it where it is.
    fn remove_image(
        &self,
        image: &Arc<Image>,
        options: RemoveOptions,
        quiet: bool,
        items: &mut Vec<DeleteItem>,
    ) -> Result<()> {
        let checks = Checks { names: !options.force, stopped: !options.force };
        if let Some(conflict) = self.conflict(image, checks) {
            let dangling = {
                let state = self.state();
                state.references_of(image.digest).is_empty() && !state.has_children(image.digest)
            };
            if quiet && (!dangling || conflict.used) {
                return Ok(());
            }
            return Err(conflict.into());
        }
        let references = self.state().references_of(image.digest);
        self.untag(image, &references, true, items)?;
        let removed = self.commit_removal(image.digest)?;
        self.tell("delete", &image.id, &image.id, None);
        items.push(DeleteItem::deleted(image.id.clone()));
        items.extend(removed.iter().map(|layer| DeleteItem::deleted(layer.id.to_string())));
        let parent = image.record.parent.filter(|_| !options.keep_parents);
        let parent = parent.and_then(|parent| self.state().images.get(&parent).cloned());
        match parent {
            Some(parent) => {
                let options = RemoveOptions { force: false, ..options };
                self.remove_image(&parent, options, true, items)
            }
            None => Ok(()),
        }
    }

    fn conflict(&self, image: &Image, checks: Checks) -> Option<Conflict> {
        let conflict = |hard, used, why| Some(Conflict { image: image.short_id(), hard, used, why });
        if self.state().has_children(image.digest) {
            return conflict(true, false, "image has dependent child images".to_owned());
        }
        let users = self.users(image);
        let user = |running| users.iter().find(|user: &&ImageUser| user.running == running);
        if let Some(user) = user(true) {
            let container = short(&user.container);
            let why = format!("image is being used by running container {container}");
            return conflict(true, true, why);
        }
        if checks.names && !self.state().references_of(image.digest).is_empty() {
            return conflict(false, false, "image is referenced in multiple repositories".to_owned());
        }
        if checks.stopped
            && let Some(user) = user(false)
        {
            let container = short(&user.container);
            let why = format!("image is being used by stopped container {container}");
            return conflict(false, true, why);
        }
        None
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

fn is_id_prefix(digest: Digest, name: &str) -> bool {
    digest.to_string().starts_with(name) || digest.hex().starts_with(name)
}

/// Whether all names are in one repository, with at most one tag.
fn is_single(references: &[Reference]) -> bool {
    let (digests, tags): (Vec<_>, Vec<_>) =
        references.iter().partition(|reference| reference.digest().is_some());
    let Some(first) = tags.first().or(digests.first()) else { return true };
    tags.len() <= 1 && digests.iter().all(|digest| digest.same_repository(first))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::{
        super::testing::{Fixture, Parts, Registry},
        *,
    };

    const FORCE: RemoveOptions = RemoveOptions { force: true, keep_parents: false };

    async fn removed(fixture: &Fixture, name: &str, options: RemoveOptions) -> Result<Vec<String>, String> {
        let items = fixture.images.remove(name, options).await;
        let items = items.map_err(|error| error.to_string())?;
        let shown = items.into_iter().map(|item| match (item.untagged, item.deleted) {
            (Some(name), None) => format!("untagged {name}"),
            (None, Some(id)) => format!("deleted {id}"),
            item => panic!("{item:?}"),
        });
        Ok(shown.collect())
    }

    #[tokio::test]
    async fn a_name_goes_first_and_the_image_with_its_last() {
        let fixture = Fixture::new();
        let image = fixture.import("a:1", "file").await;
        let layer = image.layers[0];
        fixture.images.tag("a:1", "b", "2").await.unwrap();
        let several = removed(&fixture, &image.id, RemoveOptions::default()).await;
        let short = image.short_id();
        assert_eq!(
            several.unwrap_err(),
            format!(
                "conflict: unable to delete {short} (must be forced) - image is referenced in \
                 multiple repositories"
            )
        );
        let one = removed(&fixture, "b:2", RemoveOptions::default()).await;
        assert_eq!(one.unwrap(), ["untagged b:2"]);
        let last = removed(&fixture, "a:1", RemoveOptions::default()).await;
        assert_eq!(
            last.unwrap(),
            ["untagged a:1".to_owned(), format!("deleted {}", image.id), format!("deleted {layer}")]
        );
        assert_eq!(fixture.files(), [""; 0]);
        let again = removed(&fixture, "a:1", RemoveOptions::default()).await;
        assert_eq!(again.unwrap_err(), "No such image: a:1");
        let told: Vec<String> = fixture.told().into_iter().map(|(action, _)| action).collect();
        assert_eq!(told, ["tag", "import", "tag", "untag", "untag", "delete"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_digest_goes_with_the_last_tag_of_its_repository() {
        let (registry, fixture) = (Registry::start().await, Fixture::new());
        let parts = Parts::new("amd64", &["one"]);
        registry.add("1", &parts);
        registry.add("2", &parts);
        let [one, two] = [registry.name("a:1"), registry.name("a:2")];
        fixture.pull(&one).await.unwrap();
        fixture.pull(&two).await.unwrap();
        fixture.images.tag(&one, "kept", "").await.unwrap();
        let first = removed(&fixture, &one, RemoveOptions::default()).await.unwrap();
        assert_eq!(first, [format!("untagged {one}")]);
        let second = removed(&fixture, &two, RemoveOptions::default()).await.unwrap();
        let digest = registry.name(&format!("a@{}", Digest::of(&parts.manifest)));
        assert_eq!(second, [format!("untagged {two}"), format!("untagged {digest}")]);
        assert!(fixture.images.get("kept").is_ok());
    }

    #[tokio::test]
    async fn containers_keep_their_images() {
        let fixture = Fixture::new();
        let image = fixture.import("a", "file").await;
        let short = image.short_id();
        let container = "c".repeat(64);
        let users = Arc::new(Mutex::new(vec![ImageUser { container: container.clone(), running: false }]));
        let asked = users.clone();
        fixture.images.set_users(Box::new(move |_| asked.lock().unwrap().clone()));
        fixture.snapshots.create(&container, &image.layers, &[]).unwrap();
        let by_name = removed(&fixture, "a", RemoveOptions::default()).await;
        assert_eq!(
            by_name.unwrap_err(),
            format!(
                "conflict: unable to remove repository reference \"a\" (must force) - container \
                 cccccccccccc is using its referenced image {short}"
            )
        );
        let by_id = removed(&fixture, &short, RemoveOptions::default()).await;
        assert_eq!(
            by_id.unwrap_err(),
            format!(
                "conflict: unable to delete {short} (must be forced) - image is being used by \
                 stopped container cccccccccccc"
            )
        );
        users.lock().unwrap()[0].running = true;
        let running = removed(&fixture, &image.id, FORCE).await;
        assert_eq!(
            running.unwrap_err(),
            format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by \
                 running container cccccccccccc"
            )
        );
        // By name, force takes the name alone.
        let by_name = removed(&fixture, "a", FORCE).await;
        assert_eq!(by_name.unwrap(), ["untagged a:latest"]);
        users.lock().unwrap()[0].running = false;
        let forced = removed(&fixture, &image.id, FORCE).await;
        // The layer stays as long as the container stands on it.
        assert_eq!(forced.unwrap(), [format!("deleted {}", image.id)]);
        assert!(fixture.images.0.layers.get(image.layers[0]).is_some());
        fixture.snapshots.remove(&container).unwrap();
        assert_eq!(fixture.images.collect().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn prune_takes_what_has_no_name_or_all_that_is_not_used() {
        let fixture = Fixture::new();
        fixture.import("a", "file").await;
        let dangling = fixture.import("", "other").await;
        let used = fixture.import("used", "used").await;
        let used_id = used.id.clone();
        fixture.images.set_users(Box::new(move |id| match id == used_id {
            true => vec![ImageUser { container: "c".repeat(64), running: false }],
            false => Vec::new(),
        }));
        let prune = async |filters: &str| {
            let known = Images::PRUNE_FILTERS;
            let filters = crate::api::filters::Filters::parse(Some(filters), &known).unwrap();
            fixture.images.prune(filters).await.unwrap()
        };
        assert_eq!(prune(r#"{"until":["1h"]}"#).await.images_deleted, None);
        let report = prune("{}").await;
        assert_eq!(report.space_reclaimed, 5);
        let items = report.images_deleted.unwrap();
        assert_eq!(items[0], DeleteItem::deleted(dangling.id.clone()));
        let report = prune(r#"{"dangling":["false"]}"#).await;
        assert_eq!(report.images_deleted.unwrap()[0], DeleteItem::untagged("a:latest"));
        assert!(fixture.images.get("used").is_ok());
        assert_eq!(fixture.images.count(), 1);
    }

    #[test]
    fn single_means_one_tag_and_one_repository() {
        let digest = format!("a@{}", Digest::of(b""));
        let other = format!("b@{}", Digest::of(b""));
        for (names, single) in [
            (vec![], true),
            (vec!["a:1"], true),
            (vec!["a:1", digest.as_str()], true),
            (vec![digest.as_str()], true),
            (vec!["a:1", "a:2"], false),
            (vec!["a:1", other.as_str()], false),
            (vec![digest.as_str(), other.as_str()], false),
        ] {
            let references: Vec<Reference> =
                names.iter().map(|name| Reference::parse(name).unwrap()).collect();
            assert_eq!(is_single(&references), single, "{names:?}");
        }
    }
}
