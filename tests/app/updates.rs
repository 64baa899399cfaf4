//! Updates of the app, from a server in the case's own namespace. What would install them is a script that notes what it
//! is given.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use minisign::KeyPair;
use serde_json::{Value, json};
use tests::app::{App, Desktop, Home};
use tests::case::Outcome;
use tests::engine::Kind;
use tests::target::Target;
use tests::{cases, ensure_eq, leftovers};

cases! {
    newer_version_is_offered_and_installed.on(&[Kind::Native]).alone().bare(),
    same_version_is_none.on(&[Kind::Native]).alone().bare(),
    each_channel_has_its_own.on(&[Kind::Native]).alone().bare(),
    what_is_not_signed_is_not_installed.on(&[Kind::Native]).alone().bare(),
    what_cannot_be_fetched_changes_nothing.on(&[Kind::Native]).alone().bare(),
    what_cannot_be_installed_is_told.on(&[Kind::Native]).alone().bare(),
}

/// Begins as a Debian package does.
const PACKAGE: &[u8] = b"!<arch>\ndebian-binary   and the rest of a package";
/// Newer than any that is built.
const NEWER: &str = "999.1.0";

/// What a server says to a path.
#[derive(Clone)]
enum Page {
    Whole(Vec<u8>),
    /// Of this many bytes only these come.
    CutOff(usize, Vec<u8>),
}

struct Updates {
    app: App,
    _desktop: Desktop,
    _home: Home,
    folder: tempfile::TempDir,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    address: String,
    keys: KeyPair,
}

impl Updates {
    fn open(t: &Target, installer: &str) -> Result<Self> {
        let folder = leftovers::folder()?;
        let keys = KeyPair::generate_unencrypted_keypair()?;
        let listener = t.namespace().in_network(|| TcpListener::bind("127.0.0.1:0").context("listening"))?;
        let address = format!("http://{}", listener.local_addr()?);
        let pages = Arc::new(Mutex::new(HashMap::new()));
        let served = Arc::clone(&pages);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up has what it wants.
                let _ = serve(&stream, &served);
            }
        });
        let source = json!({
            "endpoint": format!("{address}/{{{{channel}}}}.json"),
            "key": BASE64.encode(keys.pk.to_box()?.to_string()),
        });
        let updates = folder.path().join("updates.json");
        std::fs::write(&updates, source.to_string())?;
        let dpkg = folder.path().join("dpkg");
        std::fs::write(&dpkg, format!("#!/bin/sh\n{installer}\n"))?;
        std::fs::set_permissions(&dpkg, std::fs::Permissions::from_mode(0o755))?;
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());

        let desktop = Desktop::start(t.namespace(), false)?;
        let home = Home::of(t)?;
        let variables = [("CORACLE_UPDATES", updates.as_os_str()), ("PATH", path.as_ref())];
        let app = App::open_with(&desktop, home.path(), &[], &variables)?;
        Ok(Self { app, _desktop: desktop, _home: home, folder, pages, address, keys })
    }

    fn put(&self, path: &str, page: Page) {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), page);
    }

    /// A signature of a package, in the form in which a manifest has it.
    fn sign(&self, package: &[u8], version: &str) -> Result<String> {
        sign(&self.keys, package, version)
    }

    /// Offers a version on a channel; its package is at `/package`.
    fn offer(&self, channel: &str, version: &str, signature: &str) {
        let manifest = json!({
            "version": version, "notes": "Calmer water", "pub_date": "2026-11-29T10:00:00Z",
            "platforms": {"linux-x86_64": {"signature": signature, "url": format!("{}/package", self.address)}},
        });
        self.put(&format!("/{channel}.json"), Page::Whole(manifest.to_string().into_bytes()));
    }

    fn check(&self) -> Result<Value> {
        self.app.ask("update_check", &json!({}))
    }

    /// Why an update is not installed.
    fn refused(&self) -> Result<String> {
        let install = json!({"version": NEWER, "channel": "__CHANNEL__:1"});
        let refused = self.app.refused("update_install", &install)?;
        ensure!(!self.installed().exists(), "something was installed");
        Ok(refused["message"].as_str().context("no message")?.to_owned())
    }

    /// Where [`INSTALLS`] puts a package.
    fn installed(&self) -> PathBuf {
        self.folder.path().join("installed.deb")
    }
}

/// Notes what it is given.
const INSTALLS: &str = r#"[ "$1" = --install ] && cp "$2" "$(dirname "$0")/installed.deb""#;

fn sign(keys: &KeyPair, package: &[u8], version: &str) -> Result<String> {
    let comment = format!("timestamp:1\tfile:coracle.deb\tversion:{version}");
    let signature = minisign::sign(Some(&keys.pk), &keys.sk, package, Some(&comment), Some("signature"))?;
    Ok(BASE64.encode(signature.into_string()))
}

fn serve(stream: &TcpStream, pages: &Mutex<HashMap<String, Page>>) -> Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().context("no request")??;
    while !lines.next().context("no end")??.is_empty() {}
    let path = request.split(' ').nth(1).context("no path")?;
    let page = pages.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
    let (status, length, body) = match page {
        Some(Page::Whole(body)) => ("200 OK", body.len(), body),
        Some(Page::CutOff(length, body)) => ("200 OK", length, body),
        None => ("404 Not Found", 0, Vec::new()),
    };
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    stream.write_all(&body)?;
    Ok(())
}

fn newer_version_is_offered_and_installed(t: &Target) -> Outcome {
    let updates = Updates::open(t, INSTALLS)?;
    updates.offer("stable", NEWER, &updates.sign(PACKAGE, NEWER)?);
    updates.put("/package", Page::Whole(PACKAGE.to_vec()));
    let offer = updates.check()?;
    ensure_eq!((&offer["version"], &offer["notes"]), (&json!(NEWER), &json!("Calmer water")));
    updates.app.ask("update_install", &json!({"version": NEWER, "channel": "__CHANNEL__:1"}))?;
    ensure!(std::fs::read(updates.installed())? == PACKAGE, "another package was installed");
    // What runs goes on running.
    ensure!(updates.app.ask("about", &json!({}))?["version"] != NEWER, "the running version is another");
    Ok(())
}

fn same_version_is_none(t: &Target) -> Outcome {
    let updates = Updates::open(t, INSTALLS)?;
    let own = updates.app.ask("about", &json!({}))?["version"].as_str().context("no version")?.to_owned();
    for version in [own.as_str(), "0.0.1"] {
        updates.offer("stable", version, &updates.sign(PACKAGE, version)?);
        ensure_eq!(updates.check()?, Value::Null, "{version}");
    }
    Ok(())
}

fn each_channel_has_its_own(t: &Target) -> Outcome {
    let updates = Updates::open(t, INSTALLS)?;
    updates.offer("beta", NEWER, &updates.sign(PACKAGE, NEWER)?);
    updates.offer("stable", "0.0.1", &updates.sign(PACKAGE, "0.0.1")?);
    ensure_eq!(updates.check()?, Value::Null);
    updates.app.ask("preferences_change", &json!({"changes": {"update_channel": "beta"}}))?;
    ensure_eq!(updates.check()?["version"], NEWER);
    Ok(())
}

fn what_is_not_signed_is_not_installed(t: &Target) -> Outcome {
    let updates = Updates::open(t, INSTALLS)?;
    updates.put("/package", Page::Whole(PACKAGE.to_vec()));
    let stranger = KeyPair::generate_unencrypted_keypair()?;
    for (what, signature) in [
        ("another's key", sign(&stranger, PACKAGE, NEWER)?),
        ("another package's signature", updates.sign(b"!<arch>\ndebian-binary other", NEWER)?),
        ("an older version's signature", updates.sign(PACKAGE, "0.0.1")?),
        ("no signature", String::new()),
    ] {
        updates.offer("stable", NEWER, &signature);
        let message = updates.refused().context(what)?;
        ensure!(message.contains("was not fetched"), "{what}: {message}");
    }
    // Tampered with on the way.
    updates.offer("stable", NEWER, &updates.sign(PACKAGE, NEWER)?);
    let tampered = [PACKAGE, b"!"].concat();
    updates.put("/package", Page::Whole(tampered));
    updates.refused()?;
    // A newer one than was shown is not installed in its place.
    updates.offer("stable", "1000.0.0", &updates.sign(PACKAGE, "1000.0.0")?);
    ensure!(updates.refused()?.contains("not offered any more"), "another version was taken");
    Ok(())
}

fn what_cannot_be_fetched_changes_nothing(t: &Target) -> Outcome {
    let updates = Updates::open(t, INSTALLS)?;
    let unreachable = updates.app.refused("update_check", &json!({}))?;
    ensure!(
        unreachable["message"].as_str().is_some_and(|words| words.contains("cannot look for updates")),
        "{unreachable}"
    );
    updates.offer("stable", NEWER, &updates.sign(PACKAGE, NEWER)?);
    ensure!(updates.refused()?.contains("404"), "a missing package was no error");
    updates.put("/package", Page::CutOff(PACKAGE.len() + 1000, PACKAGE.to_vec()));
    updates.refused()?;
    updates.put("/stable.json", Page::Whole(b"<html>".to_vec()));
    updates.app.refused("update_check", &json!({}))?;
    // Then it is there, and all is well.
    updates.offer("stable", NEWER, &updates.sign(PACKAGE, NEWER)?);
    updates.put("/package", Page::Whole(PACKAGE.to_vec()));
    updates.app.ask("update_install", &json!({"version": NEWER, "channel": "__CHANNEL__:1"}))?;
    ensure!(Path::new(&updates.installed()).exists(), "nothing was installed");
    Ok(())
}

fn what_cannot_be_installed_is_told(t: &Target) -> Outcome {
    let updates = Updates::open(t, "echo 'dpkg: error: no space left' >&2; exit 2")?;
    updates.offer("stable", NEWER, &updates.sign(PACKAGE, NEWER)?);
    updates.put("/package", Page::Whole(PACKAGE.to_vec()));
    ensure!(updates.refused()?.contains("no space left"), "the installer's words are lost");
    // Signed, and yet no package.
    let other = b"#!/bin/sh\n";
    updates.offer("stable", NEWER, &updates.sign(other, NEWER)?);
    updates.put("/package", Page::Whole(other.to_vec()));
    ensure!(updates.refused()?.contains("no Debian package"), "something else was installed");
    Ok(())
}
