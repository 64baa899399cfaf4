//! What a report of a problem should hold: versions, settings, state and logs, without secrets.
//!
//! Everything goes through `Redactor` before anybody sees it, the preview as well as the file.

/// Taking secrets out of text.
mod redact;

use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use crate::{
    machine::{
        config::Config,
        home::{Home, MachineDir, write_atomically},
        log,
        proxy::ProxyUrl,
    },
    verbs::status,
};
use redact::Redactor;

/// Of a log, only so many bytes at its end: what happened last is what matters.
const MAX_LOG: u64 = 512 << 10;
/// The folder that a bundle unpacks to.
const FOLDER: &str = "coracle-diagnostics";

/// A file of a bundle.
#[derive(Debug, Serialize)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Everything there is to tell of a machine, whether it runs or not, and `more`, which is told by who asks.
/// What cannot be had says why in its place.
pub(crate) fn collect(home: &Home, dir: &MachineDir, more: Vec<Item>) -> Vec<Item> {
    let or_error = |text: Result<String>| text.unwrap_or_else(|error| format!("{error:#}\n"));
    let mut items = more;
    let mut add = |name: &str, text: String| items.push(Item { name: name.to_owned(), text });
    add("versions.txt", versions());
    let status = if dir.exists() {
        status::of(dir).and_then(|status| Ok(serde_json::to_string_pretty(&status)?))
    } else {
        Ok(format!("there is no machine '{}'\n", dir.name()))
    };
    add("status.json", or_error(status));
    let files = [
        dir.config_file(),
        dir.started_config_file(),
        log::previous(&dir.machine_log()),
        dir.machine_log(),
        log::previous(&dir.console_log()),
        dir.console_log(),
        // The app's own; see src-tauri.
        home.path().join("app.json"),
        home.path().join("app.log"),
    ];
    for path in files.iter().filter(|path| path.exists()) {
        add(&name_in_bundle(home, path), or_error(tail(path)));
    }
    let redactor = Redactor::new(&proxies(dir));
    for item in &mut items {
        item.text = printable(&redactor.redact(&item.text));
    }
    items
}

/// Writes a bundle whole or not at all, for its owner alone.
pub(crate) fn write(path: &Path, items: &[Item]) -> Result<()> {
    let failed = || format!("cannot write the bundle {}", path.display());
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for item in items {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(item.text.len().try_into().with_context(failed)?);
        archive
            .append_data(&mut header, Path::new(FOLDER).join(&item.name), item.text.as_bytes())
            .with_context(failed)?;
    }
    let mut packed = archive.into_inner().with_context(failed)?;
    packed.flush().with_context(failed)?;
    let bytes = packed.finish().with_context(failed)?;
    let absolute = std::path::absolute(path).with_context(failed)?;
    write_atomically(&absolute, &bytes, 0o600).with_context(failed)
}

fn versions() -> String {
    let kernel = rustix::system::uname();
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system =
        system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown system");
    format!(
        "coracle {}\n{} on {} ({} {})\n",
        env!("CARGO_PKG_VERSION"),
        system.trim_matches('"'),
        kernel.machine().to_string_lossy(),
        kernel.sysname().to_string_lossy(),
        kernel.release().to_string_lossy(),
    )
}

/// `default/run/config.toml` for what is in the home, else the file's name.
fn name_in_bundle(home: &Home, path: &Path) -> String {
    let name = path
        .strip_prefix(home.path())
        .map_or_else(|_| path.file_name().map(PathBuf::from), |name| Some(name.to_owned()));
    name.unwrap_or_default().display().to_string()
}

/// The end of a file, from the beginning of a line.
fn tail(path: &Path) -> Result<String> {
    let failed = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(failed)?;
    let length = file.metadata().with_context(failed)?.len();
    let skipped = length.saturating_sub(MAX_LOG);
    file.seek(SeekFrom::Start(skipped)).with_context(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG).read_to_end(&mut bytes).with_context(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    if skipped == 0 {
        return Ok(text.into_owned());
    }
    let from = text.find('\n').map_or(0, |end| end + 1);
    Ok(format!("[{} bytes before this are left out]\n{}", skipped + from as u64, &text[from..]))
}

/// A guest's console may hold anything; what is shown on a terminal must not command it.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The proxies that may be named in logs, with their passwords.
fn proxies(dir: &MachineDir) -> Vec<String> {
    let mut proxies = Vec::new();
    for file in [dir.config_file(), dir.started_config_file()] {
        // A file with errors is redacted by what its text looks like.
        if let Ok(config) = Config::load(&file) {
            let chosen = [config.http_proxy, config.https_proxy].into_iter().flatten();
            proxies.extend(chosen.filter_map(ProxyUrl::into_url));
        }
    }
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        proxies.extend(std::env::var(variable).ok());
    }
    proxies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> (tempfile::TempDir, Home, MachineDir) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let dir = home.machine(&"default".parse().unwrap());
        dir.create().unwrap();
        fs::write(dir.lock_file(), "").unwrap();
        (folder, home, dir)
    }

    fn text<'a>(items: &'a [Item], name: &str) -> &'a str {
        &items.iter().find(|item| item.name == name).unwrap_or_else(|| panic!("no {name}")).text
    }

    #[test]
    fn it_holds_settings_state_and_logs_and_no_password() {
        let (_folder, home, dir) = fixture();
        fs::write(dir.config_file(), "cpus = 1\nhttp-proxy = \"http://me:hunter22@p.test:1\"\n").unwrap();
        fs::write(dir.machine_log(), "INFO via me:hunter22 at p.test\nTOKEN=abc\n").unwrap();
        fs::write(dir.console_log(), "\x1b[31mred\r\n").unwrap();
        let doctor = Item { name: "doctor.txt".into(), text: "proxy http://me:hunter22@p.test:1".into() };
        let items = collect(&home, &dir, vec![doctor]);
        for item in &items {
            assert!(!item.text.contains("hunter22"), "{item:?}");
        }
        assert!(text(&items, "default/config.toml").starts_with("cpus = 1\n"));
        assert!(text(&items, "default/config.toml").contains("p.test:1"));
        assert!(text(&items, "default/machine.log").contains("INFO via"));
        assert!(!text(&items, "default/machine.log").contains("abc"));
        assert_eq!(text(&items, "default/console.log"), "[31mred\n");
        assert!(text(&items, "status.json").contains("\"stopped\""));
        assert!(text(&items, "versions.txt").starts_with("coracle "));
    }

    #[test]
    fn a_broken_configuration_gives_no_password_away_either() {
        let (_folder, home, dir) = fixture();
        fs::write(dir.config_file(), "cpus = = 1\nhttp-proxy = \"me:hunter22@p.test:1\"\n").unwrap();
        let items = collect(&home, &dir, Vec::new());
        assert!(!text(&items, "default/config.toml").contains("hunter22"));
        assert!(text(&items, "default/config.toml").contains("cpus = = 1"));
    }

    #[test]
    fn of_a_long_log_the_end_is_there_from_a_whole_line() {
        let (_folder, home, dir) = fixture();
        let line = "0123456789abcde\n";
        let mut log = line.repeat(usize::try_from(MAX_LOG).unwrap() / line.len() + 10);
        log.push_str("last\n");
        fs::write(dir.machine_log(), &log).unwrap();
        let items = collect(&home, &dir, Vec::new());
        let kept = text(&items, "default/machine.log");
        let (note, rest) = kept.split_once('\n').unwrap();
        assert!(note.contains("left out"), "{note}");
        assert!(rest.starts_with(line) && rest.ends_with("last\n"));
        let skipped: usize = note.split_whitespace().next().unwrap()[1..].parse().unwrap();
        assert_eq!(skipped + rest.len(), log.len());
    }

    #[test]
    fn a_bundle_unpacks_to_what_was_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar.gz");
        let items = [Item { name: "default/machine.log".into(), text: "hello\n".into() }];
        write(&path, &items).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&path).unwrap()));
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("coracle-diagnostics/default/machine.log"));
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        assert_eq!(content, "hello\n");
        assert!(write(Path::new("/proc/nowhere/b.tar.gz"), &items).is_err());
    }
}
