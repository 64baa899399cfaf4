//! Calls that can be taken back: each has a number, which its caller chose.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};

/// The calls that are under way.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<HashMap<u32, CancellationToken>>);

impl Calls {
    /// Does `work` unless the call is taken back before it is done; what `work` holds is dropped then.
    pub(crate) async fn run<T>(&self, id: Option<u32>, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(id) = id else { return work.await };
        let token = CancellationToken::new();
        if self.lock().insert(id, token.clone()).is_some() {
            return Err(Error::host(format!("two calls have the number {id}")));
        }
        let _entry = Entry { calls: self, id };
        tokio::select! {
            result = work => result,
            () = token.cancelled() => Err(Error::cancelled()),
        }
    }

    /// Takes a call back. One that is over is none.
    pub(crate) fn cancel(&self, id: u32) {
        if let Some(token) = self.lock().get(&id) {
            token.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, CancellationToken>> {
        // Every change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Entry<'a> {
    calls: &'a Calls,
    id: u32,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[tokio::test]
    async fn a_call_is_taken_back_by_its_number_and_its_number_is_free_again() {
        let calls = Calls::default();
        for _ in 0..2 {
            let (result, ()) = tokio::join!(calls.run::<()>(Some(1), std::future::pending()), async {
                calls.cancel(2);
                calls.cancel(1);
            });
            assert_eq!(result.unwrap_err().kind, Kind::Cancelled);
        }
        assert_eq!(calls.run(Some(1), async { Ok(7) }).await, Ok(7));
        calls.cancel(1);
    }
}
