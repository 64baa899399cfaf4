use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// A lock per key: whoever wants the same thing made waits for whoever is making it, then finds it.
#[derive(Debug)]
pub(crate) struct Keyed<K>(Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Keyed<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Keyed<K> {
    /// The lock of `key`; `lock().await` or, outside of the runtime's threads, `blocking_lock()`.
    pub(crate) fn of(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_share_a_lock_and_unused_ones_go() {
        let keyed = Keyed::default();
        let first = keyed.of("a");
        let held = first.try_lock().unwrap();
        assert!(keyed.of("a").try_lock().is_err());
        assert!(keyed.of("b").try_lock().is_ok());
        drop(held);
        drop(first);
        let _other = keyed.of("c");
        assert_eq!(keyed.0.lock().unwrap().len(), 1);
    }
}
