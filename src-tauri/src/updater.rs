//! Updates of the app: what is offered, and installing it.
//!
//! Where to look and whose signatures to trust comes with the package (`updates.json`), not from the interface and
//! not from the user's files. A package is installed only if its signature, by that key, covers its bytes and its
//! version.

use std::{env, fs, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use tauri::AppHandle;
use tauri_plugin_updater::{Update, UpdaterExt};
use url::{Host, Url};

use crate::{
    error::{Error, Kind, Result},
    platform,
    preferences::Channel,
};

/// Another file, for tests.
const VARIABLE: &str = "CORACLE_UPDATES";
/// Stands in the endpoint for the channel's name.
const CHANNEL: &str = "{{channel}}";
/// For the endpoint to say what there is.
const CHECK_LIMIT: Duration = Duration::from_secs(30);

/// `updates.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// Where a description of the newest version is.
    endpoint: String,
    /// The public key of those who sign, in minisign's form.
    key: String,
}

/// `Update` in `ui/src/backend/backend.ts`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Offer {
    version: String,
    date: Option<String>,
    notes: String,
}

/// What is newer than this version, if anything.
pub(crate) async fn check(app: &AppHandle, channel: Channel) -> Result<Option<Offer>> {
    Ok(newest(app, channel).await?.map(|update| Offer {
        version: update.version,
        date: update.date.map(|date| date.to_string()),
        notes: update.body.unwrap_or_default(),
    }))
}

/// Fetches, verifies and installs. The version that runs goes on running.
///
/// # Errors
/// The version is not offered any more; it cannot be fetched; its signature does not fit; it cannot be installed.
/// Nothing is changed then.
pub(crate) async fn install(
    app: &AppHandle,
    channel: Channel,
    version: &str,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<()> {
    let update = newest(app, channel).await?.filter(|update| update.version == version);
    let update = update
        .ok_or_else(|| Error::host(format!("version {version} is not offered any more; look again")))?;
    if !is_safe(&update.download_url) {
        return Err(Error::host(format!(
            "the update is not fetched from {}: it is no https address",
            update.download_url
        )));
    }
    let mut done = 0;
    let package = update
        .download(
            |piece, total| {
                done += piece as u64;
                progress(done, total);
            },
            || {},
        )
        .await
        .map_err(|error| {
            Error::host(format!("the update to {version} was not fetched: {}", chain(&error)))
        })?;
    platform::install(&package).await
}

async fn newest(app: &AppHandle, channel: Channel) -> Result<Option<Update>> {
    let source = source()?;
    let endpoint = endpoint(&source.endpoint, channel)?;
    let failed = |error: tauri_plugin_updater::Error| {
        Error::host(format!("cannot look for updates at {endpoint}: {}", chain(&error)))
    };
    let updater = app
        .updater_builder()
        .endpoints(vec![endpoint.clone()])
        .map_err(failed)?
        .pubkey(source.key)
        .timeout(CHECK_LIMIT)
        .build()
        .map_err(failed)?;
    let mut update = updater.check().await.map_err(failed)?;
    if let Some(update) = &mut update {
        // A package takes as long as the line is slow.
        update.timeout = None;
    }
    Ok(update)
}

/// `$CORACLE_UPDATES`, or `updates.json` beside the `bin` that the app is in.
fn source() -> Result<Source> {
    let chosen = env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let packaged = || Some(env::current_exe().ok()?.parent()?.parent()?.join("updates.json"));
    let path = chosen.or_else(packaged).ok_or_else(|| Error::host("cannot tell where the app is"))?;
    let text = fs::read(&path).map_err(|error| {
        let place = path.display();
        Error::new(
            Kind::NoUpdates,
            format!(
                "this build of Coracle has no place to look for updates ({place}: {error}); update it as you installed it"
            ),
        )
    })?;
    serde_json::from_slice(&text).map_err(|error| Error::host(format!("{}: {error}", path.display())))
}

fn endpoint(template: &str, channel: Channel) -> Result<Url> {
    let text = template.replace(CHANNEL, channel.name());
    let url: Url =
        text.parse().map_err(|error| Error::host(format!("{text} is no address of updates: {error}")))?;
    if !is_safe(&url) {
        return Err(Error::host(format!("{url} is no https address; updates are not looked for there")));
    }
    Ok(url)
}

/// https, or this host: a local server needs no certificate.
fn is_safe(url: &Url) -> bool {
    let local = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(_)) | None => false,
    };
    url.scheme() == "https" || (url.scheme() == "http" && local)
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(&format!(": {more}"));
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_an_address_of_its_own() {
        let url = endpoint("https://x.test/{{channel}}/{{target}}.json", Channel::Beta).unwrap();
        assert_eq!(url.path(), "/beta/%7B%7Btarget%7D%7D.json");
    }

    #[test]
    fn updates_come_by_https_or_from_this_host() {
        for url in ["https://x.test/a", "http://127.0.0.1:1/a", "http://[::1]/a"] {
            endpoint(url, Channel::Stable).unwrap();
        }
        for url in
            ["http://x.test/a", "http://localhost.x.test/a", "http://127.0.0.1.x.test/", "file:///a", "x"]
        {
            assert!(endpoint(url, Channel::Stable).is_err(), "{url}");
        }
    }

    #[test]
    fn a_source_says_nothing_that_is_not_understood() {
        assert!(
            serde_json::from_str::<Source>(r#"{"endpoint": "https://x.test", "key": "k", "insecure": true}"#)
                .is_err()
        );
    }
}
