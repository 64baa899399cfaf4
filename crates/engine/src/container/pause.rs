//! `pause` and `unpause`.

use super::{Containers, state::State};
use crate::error::{Error, Result};

impl Containers {
    /// Freezes a container's processes.
    ///
    /// # Errors
    /// A container that does not run or is paused already, in Docker's words.
    pub(crate) async fn pause(&self, name: &str) -> Result<()> {
        let container = self.get(name)?;
        let _changing = container.changing.lock().await;
        let state = container.state();
        if state.is_paused() {
            return Err(Error::conflict(format!("Container {} is already paused", container.id)));
        }
        state.check_process(&container.id)?;
        self.0.runtime.pause(&container.id).await.map_err(|error| {
            Error::system(format!("cannot pause container {}", container.id)).because(error)
        })?;
        container.change(State::paused);
        self.emit(&container, "pause", &[]);
        Ok(())
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// A container that is not paused, in Docker's words.
    pub(crate) async fn unpause(&self, name: &str) -> Result<()> {
        let container = self.get(name)?;
        let _changing = container.changing.lock().await;
        if !container.state().is_paused() {
            return Err(Error::system(format!("Container {} is not paused", container.id)));
        }
        self.0.runtime.resume(&container.id).await.map_err(|error| {
            Error::system(format!("Cannot unpause container {}", container.id)).because(error)
        })?;
        container.change(State::resumed);
        self.emit(&container, "unpause", &[]);
        Ok(())
    }
}
