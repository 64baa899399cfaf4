//! `wait`: until a container ends, or is gone.

use std::sync::Arc;

use super::{Container, Containers};
use crate::error::{Error, Result};

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    NotRunning,
    /// A run that ends after the call.
    NextExit,
    Removed,
}

impl Condition {
    /// Reads it from a request.
    ///
    /// # Errors
    /// Docker's words for what is none.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "" | "not-running" => Self::NotRunning,
            "next-exit" => Self::NextExit,
            "removed" => Self::Removed,
            _ => return Err(Error::invalid(format!("invalid condition: {text:?}"))),
        })
    }
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waited {
    pub(crate) exit_code: i32,
    /// Why it could not be run or removed.
    pub(crate) error: Option<String>,
}

impl Containers {
    /// Begins to wait: what happens after this call counts. The future waits for it.
    ///
    /// # Errors
    /// No such container.
    pub(crate) fn wait(
        &self,
        name: &str,
        condition: Condition,
    ) -> Result<impl Future<Output = Waited> + Send + use<>> {
        Ok(self.get(name)?.wait(condition))
    }
}

impl Container {
    /// [`Containers::wait`].
    pub(super) fn wait(
        self: &Arc<Self>,
        condition: Condition,
    ) -> impl Future<Output = Waited> + Send + use<> {
        let mut state = self.state.subscribe();
        let (exits, _) = state.borrow().latest_exit();
        let was_running = state.borrow().is_running();
        // Its removal must not end the channel before it is told.
        let container = self.clone();
        async move {
            let _container = container;
            let waited = state
                .wait_for(|state| match condition {
                    Condition::Removed => state.is_removed() || state.has_removal_failed(),
                    Condition::NotRunning if !was_running => true,
                    _ => state.latest_exit().0 != exits || state.is_removed(),
                })
                .await;
            match waited {
                Ok(state) => {
                    let error = state.error();
                    Waited {
                        exit_code: state.latest_exit().1,
                        error: (!error.is_empty()).then(|| error.to_owned()),
                    }
                }
                // The container is kept, and with it the sender.
                Err(_) => Waited { exit_code: -1, error: Some("the container is gone".to_owned()) },
            }
        }
    }
}
