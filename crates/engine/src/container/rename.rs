//! `rename`.

use super::{Containers, names};
use crate::error::{Error, Result};

impl Containers {
    /// Gives a container another name.
    ///
    /// # Errors
    /// Names that are not allowed or taken, in Docker's words.
    pub(crate) async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        if name.is_empty() || new_name.is_empty() {
            return Err(Error::invalid("Neither old nor new names may be empty"));
        }
        let container = self.get(name)?;
        let _changing = container.changing.lock().await;
        let record = container.record();
        let allocating =
            |error: Error| Error::new(error.kind(), "Error when allocating new name").because(error);
        if new_name.strip_prefix('/').unwrap_or(new_name) == record.name {
            return Err(Error::invalid("Renaming a container with the same name as its current name"));
        }
        let new_name = names::check(new_name).map_err(allocating)?;
        self.reserve_name(new_name, &container.id).map_err(allocating)?;
        let old_name = record.name.clone();
        let mut renamed = (*record).clone();
        renamed.name = new_name.to_owned();
        let target = container.clone();
        if let Err(error) = crate::blocking(move || target.set_record(renamed)).await {
            self.release_name(new_name);
            return Err(error);
        }
        self.release_name(&old_name);
        let (networks, id, name) = (self.0.networks.clone(), container.id.clone(), new_name.to_owned());
        crate::blocking(move || {
            networks.rename(&id, &name);
            Ok(())
        })
        .await?;
        self.emit(&container, "rename", &[("oldName", &format!("/{old_name}"))]);
        Ok(())
    }
}
