//! What happens in the engine, told to whoever listens: `GET /events`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tokio::sync::broadcast;
use wire::docker::event::{Actor, Event};

/// How many past events are kept for `--since`, as in Docker.
const KEPT: usize = 256;
/// How far a slow listener may fall behind before it loses events.
const BACKLOG: usize = 1024;

/// The engine's events. Clones share one stream.
#[derive(Debug, Clone)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl Default for Events {
    fn default() -> Self {
        Self(Arc::new(Inner {
            past: Mutex::new(VecDeque::with_capacity(KEPT)),
            live: broadcast::channel(BACKLOG).0,
        }))
    }
}

impl Events {
    /// Tells that `action` happened to the `kind` named `id`, with attributes as Docker gives them
    /// (`name`, `image`, `exitCode`, labels …).
    pub fn emit<K: Into<String>, V: Into<String>>(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: impl IntoIterator<Item = (K, V)>,
    ) {
        let attributes: BTreeMap<String, String> =
            attributes.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        // Clients older than API 1.22 read these instead of `Actor`; Docker still sends them.
        let old = matches!(kind, "container" | "image");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let event = Event {
            status: old.then(|| action.to_owned()),
            id: old.then(|| id.to_owned()),
            from: (kind == "container").then(|| attributes.get("image").cloned()).flatten(),
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: Actor { id: id.to_owned(), attributes },
            scope: "local".to_owned(),
            time: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            time_nano: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX),
        };
        // Under the lock, so that a new listener sees every event once: as past or as live.
        let mut past = self.past();
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // An error means that nobody listens.
        let _ = self.0.live.send(event);
    }

    /// The events kept, oldest first, and those to come.
    pub fn listen(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let past = self.past();
        (past.iter().cloned().collect(), self.0.live.subscribe())
    }

    fn past(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.0.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many listeners there are.
    pub fn listeners(&self) -> usize {
        self.0.live.receiver_count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_sees_past_and_coming_events_once() {
        let events = Events::default();
        events.emit("image", "pull", "busybox", [("name", "busybox")]);
        let (past, mut live) = events.listen();
        events.emit("container", "start", "c1", [("image", "busybox")]);
        assert_eq!(past.len(), 1);
        assert_eq!(past[0].status.as_deref(), Some("pull"));
        let event = live.try_recv().unwrap();
        assert_eq!(event.from.as_deref(), Some("busybox"));
        assert!(live.try_recv().is_err());
    }

    #[test]
    fn only_the_latest_are_kept() {
        let events = Events::default();
        for number in 0..=KEPT {
            events.emit("network", "create", &number.to_string(), [("", ""); 0]);
        }
        let (past, _) = events.listen();
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].actor.id, "1");
        assert_eq!(past[0].status, None);
    }
}
