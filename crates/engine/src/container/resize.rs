//! `resize`: the size of a container's terminal.

use super::Containers;
use crate::error::{Context, Result};

impl Containers {
    /// Sets the size of a running container's terminal. One that has none is left alone, as in Docker.
    ///
    /// # Errors
    /// A container that does not run.
    pub(crate) fn resize(&self, name: &str, rows: u16, columns: u16) -> Result<()> {
        let container = self.get(name)?;
        container.state().check_process(&container.id)?;
        container
            .hub()
            .resize(rows, columns)
            .context(|| format!("resize the terminal of container {}", container.id))?;
        let (rows, columns) = (rows.to_string(), columns.to_string());
        self.emit(&container, "resize", &[("height", &rows), ("width", &columns)]);
        Ok(())
    }
}
