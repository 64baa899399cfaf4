use tokio::task::spawn_blocking;

use super::{Images, config, reference::Reference};
use crate::error::{Context, Error, Result};

impl Images {
    /// Gives an image another name; one that had the name loses it.
    ///
    /// # Errors
    /// No such image; a name that is none.
    pub(crate) async fn tag(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let reference = Reference::parse_with_tag(repository, tag)?;
        self.tag_reference(name, reference).await
    }

    pub(super) async fn tag_reference(&self, name: &str, reference: Reference) -> Result<()> {
        let image = self.get(name)?;
        if reference.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let reference = reference.or_latest();
        if reference.familiar_name() == "sha256" {
            return Err(Error::invalid("refusing to create an ambiguous tag using digest algorithm as name"));
        }
        let (images, now) = (self.clone(), config::now()?);
        let (digest, new) = (image.digest, reference.clone());
        spawn_blocking(move || images.commit_tag(digest, &new, now))
            .await
            .context(|| "write down the tag".to_owned())??;
        self.tell("tag", &image.id, &reference.familiar(), Some(&image));
        Ok(())
    }
}
