//! Programs from another Debian suite, unpacked beside the machine's own packages and never installed.
//!
//! The mirror and its key are the ones that the machine's own apt configuration names for its own suite; only the
//! suite differs. apt runs with a source list, package lists and a cache of our own, so nothing that the machine has
//! installed can be touched or upgraded.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::terminal::{Stage, say};
use crate::{command, paths};

/// Times that a download is tried before it counts as failed.
const ATTEMPTS: u32 = 3;

/// A Debian release to take packages from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// Unstable: the newest of everything. Versions there come and go.
    Sid,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Sid => "sid",
        }
    }
}

/// Downloads packages and unpacks them into `dest`, so that `/usr/bin/x` of a package becomes `dest/usr/bin/x`.
///
/// Each package is a name and a version pattern with `*` as wildcard (`28.*`); the newest match is taken. When a suite
/// no longer has a match, its newest version is taken and the difference is said. Does nothing when `dest` already
/// holds what the same call unpacked before; unpacks elsewhere first, so `dest` is complete when it exists.
pub(crate) fn download_unpacked(suite: Suite, packages: &[(&str, &str)], dest: &Path) -> Result<()> {
    let wanted: String = packages.iter().map(|(name, version)| format!("{name} {version}\n")).collect();
    let stamp = dest.join(".coracle-packages");
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }

    let apt = Apt::prepare(suite)?;
    let _lock = apt.lock()?;
    // Another process may have done it while we waited.
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    let mut stage = Stage::begin(format!("packages of Debian {}", suite.name()));
    stage.update("package lists");
    apt.update()?;
    let chosen =
        packages.iter().map(|(name, pattern)| apt.choose(name, pattern)).collect::<Result<Vec<_>>>()?;

    let name = dest.file_name().context("a folder to unpack into needs a name")?.to_string_lossy();
    let draft = dest.with_file_name(format!(".{name}.{}", std::process::id()));
    paths::remove_folder(&draft)?;
    fs::create_dir_all(&draft).with_context(|| format!("creating {}", draft.display()))?;
    for (name, version) in &chosen {
        stage.update(name);
        let deb = apt.download(name, version)?;
        command::output(Command::new("dpkg").arg("-x").args([&deb, &draft]))
            .with_context(|| format!("unpacking {name} {version}"))?;
        fs::remove_file(&deb).with_context(|| format!("removing {}", deb.display()))?;
    }
    paths::publish(&draft.join(".coracle-packages"), wanted.as_bytes())?;
    paths::remove_folder(dest)?;
    fs::rename(&draft, dest).with_context(|| format!("moving {} into place", dest.display()))?;
    let list: Vec<String> = chosen.iter().map(|(name, version)| format!("{name} {version}")).collect();
    stage.done(list.join(", "));
    Ok(())
}

/// apt with a source list, package lists and a cache of our own.
struct Apt {
    suite: Suite,
    home: PathBuf,
}

impl Apt {
    fn prepare(suite: Suite) -> Result<Self> {
        let home = paths::cache()?.join("apt").join(suite.name());
        for folder in ["lists/partial", "cache/archives/partial", "download"] {
            let folder = home.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        }
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let codename = codename(&release).context(
            "this is not Debian: /etc/os-release names no VERSION_CODENAME, so there is no Debian mirror to read from",
        )?;
        let archive = find_archive(&read_machine_sources()?, codename).with_context(|| {
            format!(
                "no source in /etc/apt/sources.list or /etc/apt/sources.list.d serves the main component of {codename}"
            )
        })?;
        paths::publish(&home.join("machine.sources"), archive.for_suite(suite).as_bytes())?;
        Ok(Self { suite, home })
    }

    /// apt refuses to work twice in one folder; waits for the other one instead. Held until the file is dropped.
    fn lock(&self) -> Result<fs::File> {
        let path = self.home.join("lock");
        let file = fs::File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        file.lock().with_context(|| format!("locking {}", path.display()))?;
        Ok(file)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.home.join(name).display().to_string();
        for option in [
            format!("Dir::Etc::sourcelist={}", at("machine.sources")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            // The cache lies in a home folder, where apt's own unprivileged user may not write.
            "APT::Sandbox::User=root".to_owned(),
            // Our lists are never installed from: pinning and the default release of the machine do not apply.
            "APT::Default-Release=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::Retries=2".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    fn update(&self) -> Result<()> {
        let log = self.home.join("update.log");
        retry(&format!("the package lists of {}", self.suite.name()), || {
            command::logged(self.command("apt-get").arg("-q").arg("update"), &log, |_| {})
        })
    }

    /// The newest version that fits the pattern, else the newest of all.
    fn choose(&self, name: &str, pattern: &str) -> Result<(String, String)> {
        let table = command::output(self.command("apt-cache").arg("madison").arg(name))?;
        let mut versions = madison_versions(&table, name);
        ensure!(!versions.is_empty(), "Debian {} has no package {name}", self.suite.name());
        versions.sort_by(|a, b| compare_versions(b, a));
        if let Some(version) = versions.iter().find(|version| fits(pattern, version)) {
            return Ok((name.to_owned(), version.clone()));
        }
        let newest = versions.swap_remove(0);
        say(format_args!(
            "  Debian {} no longer has {name} {pattern}: taking its newest version, {newest}, instead",
            self.suite.name()
        ));
        Ok((name.to_owned(), newest))
    }

    /// Fetches one package; apt checks it against the signed lists.
    fn download(&self, name: &str, version: &str) -> Result<PathBuf> {
        let folder = self.home.join("download").join(format!("{name}.{}", std::process::id()));
        paths::remove_folder(&folder)?;
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let log = self.home.join("download.log");
        retry(&format!("{name} {version}"), || {
            let mut command = self.command("apt-get");
            command.args(["-q", "download", &format!("{name}={version}")]).current_dir(&folder);
            command::logged(&mut command, &log, |_| {})
        })?;
        let found = fs::read_dir(&folder)
            .with_context(|| format!("reading {}", folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|file| file.extension().is_some_and(|extension| extension == "deb"));
        let Some(file) = found else {
            bail!("apt said that it downloaded {name} {version}, but {} holds no package", folder.display());
        };
        let kept = self.home.join("download").join(format!("{name}.{}.deb", std::process::id()));
        fs::rename(&file, &kept).with_context(|| format!("moving {}", file.display()))?;
        paths::remove_folder(&folder)?;
        Ok(kept)
    }
}

/// Tries a download again when it fails, and says which one.
pub(crate) fn retry(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    for number in 1..ATTEMPTS {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => {
                let first = error.to_string().lines().next().unwrap_or_default().to_owned();
                say(format_args!("  downloading {what} failed (attempt {number} of {ATTEMPTS}): {first}"));
            }
        }
    }
    attempt().with_context(|| format!("downloading {what} failed {ATTEMPTS} times; is the network up?"))
}

/// One archive that the machine's apt reads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archive {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// As written: a key file, fingerprints, or a whole key on continuation lines.
    signed_by: Option<String>,
}

impl Archive {
    /// A deb822 source that differs from this one in its suite alone.
    fn for_suite(&self, suite: Suite) -> String {
        let mut text =
            format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n", self.uri, suite.name());
        if let Some(key) = &self.signed_by {
            text.push_str(&format!("Signed-By: {key}\n"));
        }
        text
    }
}

fn find_archive(archives: &[Archive], codename: &str) -> Option<Archive> {
    let serves = |archive: &&Archive| {
        archive.suites.iter().any(|suite| suite == codename)
            && archive.components.iter().any(|name| name == "main")
    };
    archives.iter().find(serves).cloned()
}

fn read_machine_sources() -> Result<Vec<Archive>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut parts: Vec<PathBuf> = folder.filter_map(|entry| Some(entry.ok()?.path())).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut archives = Vec::new();
    for file in files {
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => archives.extend(parse_deb822(&text)),
            Some("list") => archives.extend(parse_one_line(&text)),
            _ => {}
        }
    }
    Ok(archives)
}

/// The deb822 form of sources.list(5): stanzas of fields, continuation lines begin with a space.
fn parse_deb822(text: &str) -> Vec<Archive> {
    let mut archives = Vec::new();
    for stanza in text.split("\n\n") {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza.lines().filter(|line| !line.starts_with('#')) {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line.trim_end());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let words = |name: &str| -> Vec<String> {
            field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
        };
        if field("enabled") == Some("no") || !words("types").iter().any(|kind| kind == "deb") {
            continue;
        }
        for uri in words("uris") {
            archives.push(Archive {
                uri,
                suites: words("suites"),
                components: words("components"),
                signed_by: field("signed-by").map(str::to_owned),
            });
        }
    }
    archives
}

/// The one-line form of sources.list(5): `deb [options] uri suite component…`.
fn parse_one_line(text: &str) -> Vec<Archive> {
    let mut archives = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb ").or_else(|| line.strip_prefix("deb\t")) else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        archives.push(Archive {
            uri,
            suites: vec![suite],
            components: words.collect(),
            signed_by: signed_by.map(str::to_owned),
        });
    }
    archives
}

fn codename(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"')).filter(|value| !value.is_empty())
}

/// The versions in a table of `apt-cache madison`: `name | version | source`.
fn madison_versions(table: &str, name: &str) -> Vec<String> {
    let row = |line: &str| -> Option<String> {
        let mut columns = line.split('|').map(str::trim);
        (columns.next()? == name).then_some(())?;
        let version = columns.next()?;
        (!columns.next()?.ends_with("Sources")).then(|| version.to_owned())
    };
    table.lines().filter_map(row).collect()
}

fn compare_versions(a: &str, b: &str) -> Ordering {
    let holds = |relation: &str| {
        Command::new("dpkg")
            .args(["--compare-versions", a, relation, b])
            .status()
            .is_ok_and(|status| status.success())
    };
    match (holds("lt"), holds("gt")) {
        (true, _) => Ordering::Less,
        (_, true) => Ordering::Greater,
        _ => Ordering::Equal,
    }
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => match text.strip_prefix(head) {
            None => false,
            Some(text) => {
                (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| fits(rest, &text[at..]))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deb822_sources_keep_their_key() {
        let text = "Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
                    Components: main\nSigned-By: /usr/share/keyrings/k.gpg\n\n\
                    Types: deb-src\nURIs: http://mirror.test/src\nSuites: bookworm\nComponents: main\n\n\
                    Types: deb\nEnabled: no\nURIs: http://off.test\nSuites: bookworm\nComponents: main\n";
        let archives = parse_deb822(text);
        assert_eq!(archives.len(), 1);
        let sid = find_archive(&archives, "bookworm").unwrap().for_suite(Suite::Sid);
        assert_eq!(
            sid,
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: sid\nComponents: main\n\
             Signed-By: /usr/share/keyrings/k.gpg\n"
        );
        assert_eq!(find_archive(&archives, "trixie"), None);
    }

    #[test]
    fn a_key_on_continuation_lines_survives() {
        let text = "Types: deb\nURIs: http://m.test\nSuites: sid\nComponents: main\nSigned-By:\n \
                    -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n";
        let archive = &parse_deb822(text)[0];
        assert!(
            archive
                .for_suite(Suite::Sid)
                .ends_with("Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n")
        );
    }

    #[test]
    fn one_line_sources_are_read() {
        let text = "# deb http://old.test bookworm main\n\
                    deb-src http://m.test/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k.asc] http://m.test/debian bookworm main contrib # mirror\n";
        assert_eq!(
            parse_one_line(text),
            [Archive {
                uri: "http://m.test/debian".into(),
                suites: vec!["bookworm".into()],
                components: vec!["main".into(), "contrib".into()],
                signed_by: Some("/k.asc".into()),
            }]
        );
    }

    #[test]
    fn only_the_machines_own_suite_names_the_mirror() {
        let text = "deb http://security.test bookworm-security main\ndeb http://vendor.test bookworm contrib\n\
                    deb http://m.test bookworm main\n";
        assert_eq!(find_archive(&parse_one_line(text), "bookworm").unwrap().uri, "http://m.test");
    }

    #[test]
    fn versions_come_from_binary_rows_and_are_ordered_as_debian_orders_them() {
        let table = " docker-cli | 28.5.2+dfsg4-5 | http://m.test sid/main amd64 Packages\n\
                     docker-cli | 28.10.0-1 | http://m.test sid/main amd64 Packages\n\
                     docker-cli | 29.0.0-1 | http://m.test sid/main Sources\n\
                     other | 1 | http://m.test sid/main amd64 Packages\n";
        let mut versions = madison_versions(table, "docker-cli");
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(versions, ["28.10.0-1", "28.5.2+dfsg4-5"]);
    }

    #[test]
    fn patterns() {
        assert!(fits("28.*", "28.5.2+dfsg4-5"));
        assert!(!fits("28.*", "29.0"));
        assert!(fits("*dfsg*", "28.5.2+dfsg4-5"));
        assert!(fits("*", ""));
        assert!(!fits("28.5", "28.5.1"));
    }

    #[test]
    fn a_failed_download_is_tried_again_and_named() {
        let mut calls = 0;
        retry("boat", || {
            calls += 1;
            if calls < ATTEMPTS { bail!("leak") } else { Ok(()) }
        })
        .unwrap();
        assert_eq!(calls, ATTEMPTS);
        let error = format!("{:#}", retry("boat 1.0", || bail!("leak")).unwrap_err());
        assert_eq!(error, "downloading boat 1.0 failed 3 times; is the network up?: leak");
    }

    #[test]
    fn the_codename_is_read_from_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), Some("bookworm"));
        assert_eq!(codename("ID=arch\n"), None);
    }
}
