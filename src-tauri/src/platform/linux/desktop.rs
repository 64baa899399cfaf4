//! The desktop's own services: its tray, its messages, its browser.

use std::{collections::HashMap, process::Stdio};

use tokio::process::Command;
use zbus::{Connection, zvariant::Value};

use crate::error::{Error, Result};

/// How long a message stays, if the desktop lets us say; in milliseconds.
const STAYS_MS: i32 = 10_000;

/// Whether icons in the tray are shown to anybody: some desktops have no tray.
pub(crate) async fn tray_is_shown() -> bool {
    let asked = async {
        let bus = Connection::session().await?;
        let reply = bus
            .call_method(
                Some("org.kde.StatusNotifierWatcher"),
                "/StatusNotifierWatcher",
                Some("org.freedesktop.DBus.Properties"),
                "Get",
                &("org.kde.StatusNotifierWatcher", "IsStatusNotifierHostRegistered"),
            )
            .await?;
        let body = reply.body();
        let shown: Value<'_> = body.deserialize()?;
        zbus::Result::Ok(matches!(shown, Value::Bool(true)))
    };
    asked.await.unwrap_or_else(|error| {
        tracing::info!("no tray: {error}");
        false
    })
}

/// Shows a message. Its text is text: desktops that know markup are given none.
pub(crate) async fn notify(title: &str, body: &str) -> Result<()> {
    let sent = async {
        let bus = Connection::session().await?;
        let hints: HashMap<&str, Value<'_>> = HashMap::from([("desktop-entry", Value::from("coracle"))]);
        let actions: &[&str] = &[];
        bus.call_method(
            Some("org.freedesktop.Notifications"),
            "/org/freedesktop/Notifications",
            Some("org.freedesktop.Notifications"),
            "Notify",
            &("Coracle", 0_u32, "coracle", title, without_markup(body), actions, hints, STAYS_MS),
        )
        .await?;
        zbus::Result::Ok(())
    };
    sent.await.map_err(|error| Error::host(format!("the desktop shows no message: {error}")))
}

/// Desktop Notifications Specification, section "Markup": a body may have some, so its signs are escaped.
fn without_markup(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Opens a page in the user's browser. `url` MUST have been checked.
pub(crate) async fn open_url(url: &str) -> Result<()> {
    let failed = |why: String| Error::host(format!("cannot open {url} in a browser: {why}"));
    let status = Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .map_err(|error| failed(format!("xdg-open: {error}; install xdg-utils")))?;
    if status.success() { Ok(()) } else { Err(failed(format!("xdg-open ended with {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_markup_is_shown_as_it_is() {
        assert_eq!(without_markup("<b>&x</b>"), "&lt;b&gt;&amp;x&lt;/b&gt;");
    }
}
