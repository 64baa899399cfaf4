//! The app itself: files, links, messages, its end.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tauri::{AppHandle, State};
use url::Url;

use crate::{
    chosen::Choice,
    error::{Error, Result},
    platform::{self, Autostart},
    preferences::Preferences,
    shell::{Shell, Verb},
    window,
};

/// The longest text of a message: what a desktop shows of it is less.
const LONGEST_MESSAGE: usize = 1000;

#[tauri::command]
pub(crate) fn preferences(shell: State<'_, Shell>) -> Preferences {
    shell.preferences.get()
}

#[tauri::command]
pub(crate) fn preferences_change(
    app: AppHandle,
    shell: State<'_, Shell>,
    changes: Value,
) -> Result<Preferences> {
    let before = shell.preferences.get();
    let now = shell.preferences.change(&changes)?;
    if now.start_at_login != before.start_at_login {
        let program = std::env::current_exe()
            .map_err(|error| Error::host(format!("cannot tell where the app is: {error}")));
        let set = program.and_then(|program| Autostart::of_user()?.set(now.start_at_login, &program));
        if let Err(error) = set {
            // A preference that does not hold must not be shown as if it did.
            shell.preferences.change(&serde_json::json!({ "start_at_login": before.start_at_login }))?;
            return Err(error);
        }
    }
    if now.theme != before.theme {
        window::set_theme(&app, now.theme);
    }
    Ok(now)
}

/// `About` in `ui/src/backend/backend.ts`.
#[derive(Debug, Serialize)]
pub(crate) struct About {
    version: &'static str,
    platform: String,
    tray: bool,
}

#[tauri::command]
pub(crate) fn about(shell: State<'_, Shell>) -> About {
    About {
        version: env!("CARGO_PKG_VERSION"),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        tray: shell.has_tray(),
    }
}

#[tauri::command]
pub(crate) async fn choose_file(
    app: AppHandle,
    shell: State<'_, Shell>,
    kind: Choice,
    suggestion: Option<String>,
) -> Result<Option<String>> {
    let Some(path) = platform::choose_file(&app, kind, suggestion).await? else { return Ok(None) };
    let text = path
        .to_str()
        .ok_or_else(|| Error::host(format!("{} is no UTF-8; choose another name", path.display())))?
        .to_owned();
    shell.chosen.add(kind, path);
    Ok(Some(text))
}

#[tauri::command]
pub(crate) async fn open_url(url: String) -> Result<()> {
    platform::open_url(&web_page(&url)?).await
}

/// The address as a browser is given it.
fn web_page(url: &str) -> Result<String> {
    match Url::parse(url) {
        Ok(parsed) if matches!(parsed.scheme(), "http" | "https") && parsed.has_host() => Ok(parsed.into()),
        _ => Err(Error::host(format!("{url:?} is no address of a web page"))),
    }
}

#[tauri::command]
pub(crate) async fn notify(title: String, body: String) -> Result<()> {
    let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(LONGEST_MESSAGE).collect::<String>();
    platform::notify(&cut(&title), &cut(&body)).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Leaving {
    /// The machine stays as it is.
    Leave,
    /// The machine is stopped first.
    Stop,
}

#[tauri::command]
pub(crate) async fn quit(app: AppHandle, shell: State<'_, Shell>, machine: Leaving) -> Result<()> {
    if machine == Leaving::Stop {
        shell.run(Verb::Stop, drop).await?;
    }
    app.exit(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_pages_are_opened() {
        assert_eq!(web_page("http://localhost:8080").unwrap(), "http://localhost:8080/");
        assert_eq!(web_page("HTTPS://x.test/a b").unwrap(), "https://x.test/a%20b");
        for url in [
            "",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "-x",
            "/etc",
            "coracle://x",
            "http://",
            "ssh://x",
        ] {
            assert!(web_page(url).is_err(), "{url:?}");
        }
    }
}
