use std::sync::Arc;

use wire::docker::container::FilesystemChange;

use super::{Container, Containers};
use crate::{
    error::{Error, Result},
    snapshot::{ArchiveStream, ArchiveWriter, Outgoing},
};

impl Containers {
    /// What a container changed in its file system; `None` for nothing.
    ///
    /// # Errors
    /// No such container; files that cannot be read.
    pub(crate) async fn changes(&self, name: &str) -> Result<Option<Vec<FilesystemChange>>> {
        let container = self.get(name)?;
        let _kept = container.files.read().await;
        let (snapshots, id) = (self.0.snapshots.clone(), container.id.clone());
        let changes = crate::blocking(move || snapshots.changes(&id)).await?;
        let changes = changes.into_iter().map(|(path, change)| FilesystemChange {
            path: String::from_utf8_lossy(&path).into_owned(),
            kind: change as u8,
        });
        let changes: Vec<_> = changes.collect();
        Ok((!changes.is_empty()).then_some(changes))
    }

    /// A container's whole file system as an archive, without what is mounted in it.
    ///
    /// # Errors
    /// No such container, or one that is being removed, in Docker's words.
    pub(crate) async fn export(&self, name: &str) -> Result<ArchiveStream> {
        let container = self.get(name)?;
        check_not_leaving(&container, "export")?;
        let files = self.bare_files(&container).await.map_err(|error| {
            Error::new(error.kind(), format!("Error exporting container {name}")).because(error)
        })?;
        let (outgoing, stream) = Outgoing::new();
        let containers = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut archive = ArchiveWriter::with_owners(outgoing, files.owners());
            if let Err(error) = archive.tree(files.top(), b"") {
                return archive.into_sink().fail(error);
            }
            // Otherwise the client has left.
            if archive.finish().is_ok() {
                containers.emit(&container, "export", &[]);
            }
        });
        Ok(stream)
    }
}

/// # Errors
/// A container that nothing can be made of any more, in Docker's words.
pub(super) fn check_not_leaving(container: &Arc<Container>, verb: &str) -> Result<()> {
    let (id, state) = (&container.id, container.state());
    if state.is_dead() {
        return Err(Error::conflict(format!("You cannot {verb} container {id} which is Dead")));
    }
    if state.is_leaving() {
        return Err(Error::conflict(format!("You cannot {verb} container {id} which is being removed")));
    }
    Ok(())
}
