//! What the app remembers about itself: `$CORACLE_HOME/app.json`.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Kind, Result},
    home::{Home, write_atomically},
};

/// `Preferences` in `ui/src/backend/backend.ts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Preferences {
    pub(crate) theme: Theme,
    pub(crate) start_at_login: bool,
    pub(crate) start_machine_with_app: bool,
    pub(crate) close_to_tray: bool,
    pub(crate) notify: Notify,
    pub(crate) update_channel: Channel,
    pub(crate) skipped_version: Option<String>,
    pub(crate) first_run_done: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Theme {
    System,
    Light,
    Dark,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Notify {
    pub(crate) container_died: bool,
    pub(crate) health_changed: bool,
    pub(crate) update_ready: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Channel {
    Stable,
    Beta,
}

impl Channel {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Channel::Stable => "stable",
            Channel::Beta => "beta",
        }
    }
}

impl Default for Preferences {
    fn default() -> Self {
        Preferences {
            theme: Theme::System,
            start_at_login: false,
            start_machine_with_app: false,
            close_to_tray: true,
            notify: Notify::default(),
            update_channel: Channel::Stable,
            skipped_version: None,
            first_run_done: false,
        }
    }
}

impl Default for Notify {
    fn default() -> Self {
        Notify { container_died: true, health_changed: false, update_ready: true }
    }
}

/// The file, and what it says.
#[derive(Debug)]
pub(crate) struct Store {
    home: Home,
    now: Mutex<Preferences>,
}

impl Store {
    /// A file that is missing is one of defaults. So is one with errors, which stays until a preference is changed,
    /// and then beside the new one.
    pub(crate) fn load(home: Home) -> Store {
        let path = home.preferences();
        let now = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!("{} is not understood, defaults hold: {error}", path.display());
                Preferences::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read {}, defaults hold: {error}", path.display());
                }
                Preferences::default()
            }
        };
        Store { home, now: Mutex::new(now) }
    }

    pub(crate) fn get(&self) -> Preferences {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes some, and keeps all.
    ///
    /// # Errors
    /// A value that does not fit, or a file that cannot be written. Nothing is changed then.
    pub(crate) fn change(&self, changes: &Value) -> Result<Preferences> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let new = changed(&now, changes)?;
        self.write(&new).map_err(|error| {
            Error::host(format!("cannot write {}: {error}", self.home.preferences().display()))
        })?;
        now.clone_from(&new);
        Ok(new)
    }

    fn write(&self, preferences: &Preferences) -> io::Result<()> {
        let path = self.home.preferences();
        self.home.create()?;
        if let Ok(old) = fs::read(&path)
            && serde_json::from_slice::<Preferences>(&old).is_err()
        {
            fs::rename(&path, aside(&path))?;
        }
        let mut text = serde_json::to_vec_pretty(preferences)?;
        text.push(b'\n');
        write_atomically(&path, &text)
    }
}

/// Where a file that was not understood goes.
fn aside(path: &std::path::Path) -> PathBuf {
    path.with_extension("json.broken")
}

fn changed(now: &Preferences, changes: &Value) -> Result<Preferences> {
    let refused = |why: String| Error::new(Kind::Setting, why);
    let Value::Object(changes) = changes else { return Err(refused("preferences are an object".into())) };
    let mut all = serde_json::to_value(now).map_err(|error| refused(error.to_string()))?;
    for (key, value) in changes {
        let Some(slot) = all.get_mut(key) else {
            return Err(refused(format!("there is no preference {key:?}")));
        };
        match (slot, value) {
            // One of a group leaves the others as they are.
            (Value::Object(group), Value::Object(some)) => {
                for (key, value) in some {
                    if group.insert(key.clone(), value.clone()).is_none() {
                        return Err(refused(format!("there is no preference {key:?}")));
                    }
                }
            }
            (slot, value) => *slot = value.clone(),
        }
        // Each by itself, so that the message can name it.
        serde_json::from_value::<Preferences>(all.clone())
            .map_err(|error| refused(format!("{key} cannot be {value}: {error}")))?;
    }
    serde_json::from_value(all).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(&folder.path().join("home"));
        (folder, home)
    }

    #[test]
    fn changes_are_kept_and_the_rest_stays() {
        let (_folder, home) = store();
        let store = Store::load(home.clone());
        store.change(&json!({"theme": "dark", "notify": {"container_died": false}})).unwrap();
        let again = Store::load(home).get();
        assert_eq!(again.theme, Theme::Dark);
        assert_eq!(again.notify, Notify { container_died: false, ..Notify::default() });
        assert!(again.close_to_tray && !again.start_at_login);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let (_folder, home) = store();
        let store = Store::load(home.clone());
        for changes in [
            json!({"theme": "pink"}),
            json!({"start_at_login": 1}),
            json!({"colour": "red"}),
            json!({"notify": {"colour": true}}),
            json!({"notify": true}),
            json!({"first_run_done": true, "theme": null}),
            json!([]),
        ] {
            let error = store.change(&changes).unwrap_err();
            assert_eq!(error.kind, Kind::Setting, "{changes}");
        }
        assert_eq!(store.get(), Preferences::default());
        assert!(!home.preferences().exists());
    }

    #[test]
    fn a_file_with_errors_is_put_aside_when_something_is_changed() {
        let (_folder, home) = store();
        home.create().unwrap();
        fs::write(home.preferences(), "{\"theme\": dark}").unwrap();
        let store = Store::load(home.clone());
        assert_eq!(store.get(), Preferences::default());
        assert!(fs::read_to_string(home.preferences()).unwrap().contains("dark}"));
        store.change(&json!({"theme": "light"})).unwrap();
        assert!(fs::read_to_string(aside(&home.preferences())).unwrap().contains("dark}"));
        assert_eq!(Store::load(home).get().theme, Theme::Light);
    }

    #[test]
    fn a_file_of_an_older_version_has_defaults_for_what_is_new() {
        let (_folder, home) = store();
        home.create().unwrap();
        fs::write(home.preferences(), "{\"theme\": \"dark\", \"gone\": 1}").unwrap();
        assert_eq!(Store::load(home).get(), Preferences { theme: Theme::Dark, ..Preferences::default() });
    }
}
