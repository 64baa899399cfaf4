//! `coracle volume`.

/// From this host into a volume.
mod copy_in;
/// Out of a volume.
mod copy_out;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use url::form_urlencoded;
use wire::docker::{
    container::PathStat,
    volume::{File, FileKind, Volume},
};

use crate::{
    cli,
    engine::{Answer, Engine, socket_of},
    machine::{home::Home, size::human},
    terminal::{Table, say},
};

/// The field of an answer that says what is at a path.
const PATH_STAT: &str = "X-Docker-Container-Path-Stat";
/// How Go's `io/fs` marks a directory in a mode.
const IS_DIRECTORY: u32 = 1 << 31;
/// An archive on standard input or output.
const STREAM: &str = "-";

pub(crate) fn run(verb: cli::Volume) -> Result<ExitCode> {
    match verb {
        cli::Volume::List { engine, json } => list(&choose(&engine)?, json)?,
        cli::Volume::Files { engine, json, place } => {
            let place = Place::parse(&place).unwrap_or(Place { volume: place, path: String::new() });
            files(&choose(&engine)?, &place, json)?;
        }
        cli::Volume::Cp { engine, archive, from, to } => {
            let engine = choose(&engine)?;
            match (Place::parse(&from), Place::parse(&to)) {
                (Some(place), None) => copy_out::run(&engine, &place, &to)?,
                (None, Some(place)) => copy_in::run(&engine, &from, &place, archive)?,
                (Some(_), Some(_)) => {
                    bail!("cannot copy between two volumes: copy to a path of this host first")
                }
                (None, None) => bail!("one of {from:?} and {to:?} must be in a volume: VOLUME:PATH"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn choose(choice: &cli::EngineChoice) -> Result<Engine> {
    if let Some(address) = &choice.host {
        return Ok(Engine::at(socket_of(address)?));
    }
    let dir = Home::from_environment()?.machine(&choice.machine.name);
    if !dir.exists() {
        bail!("there is no machine '{}'", dir.name());
    }
    Ok(Engine::at(dir.docker_socket()))
}

/// Something in a volume.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    volume: String,
    path: String,
}

impl Place {
    /// `VOLUME:PATH`; `None` for what can only be a path of this host.
    fn parse(text: &str) -> Option<Place> {
        let (volume, path) = text.split_once(':')?;
        let named = !volume.is_empty() && !volume.starts_with('.') && !volume.contains('/');
        named.then(|| Place { volume: volume.to_owned(), path: path.to_owned() })
    }

    /// Another path of the same volume.
    fn at(&self, path: &str) -> Place {
        Place { volume: self.volume.clone(), path: path.to_owned() }
    }

    /// The target of a request about it: `archive` or `files`.
    fn target(&self, what: &str) -> String {
        let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        // A volume's name needs no encoding; one that does is none, which the engine says.
        format!("/volumes/{}/{what}?path={}", encoded(&self.volume), encoded(&self.path_or_root()))
    }

    fn path_or_root(&self) -> String {
        if self.path.is_empty() { "/".to_owned() } else { self.path.clone() }
    }

    /// What is there; `None` when nothing is.
    ///
    /// # Errors
    /// No such volume, or nobody answers.
    fn stat(&self, engine: &Engine) -> Result<Option<PathStat>> {
        let answer = engine.ask("HEAD", &self.target("archive"))?;
        match answer.status {
            404 => {
                // A HEAD request's answer does not say what is missing.
                engine.ask("GET", &format!("/volumes/{}", self.volume))?.accepted()?;
                Ok(None)
            }
            400.. => engine.ask("GET", &self.target("files"))?.accepted().map(|_| None),
            _ => stat_of(&answer).map(Some),
        }
    }
}

fn stat_of(answer: &Answer) -> Result<PathStat> {
    let field = answer.field(PATH_STAT).context("the engine does not say what is at the path")?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(field);
    serde_json::from_slice(&bytes.context("an odd answer")?).context("an odd answer")
}

fn is_directory(stat: &PathStat) -> bool {
    stat.mode & IS_DIRECTORY != 0
}

fn list(engine: &Engine, json: bool) -> Result<()> {
    let answer = engine.ask("GET", "/system/df?type=volume")?.accepted()?;
    let usage: serde_json::Value = answer.json()?;
    let volumes = usage.get("Volumes").cloned().unwrap_or_default();
    if json {
        say(serde_json::to_string_pretty(&volumes)?);
        return Ok(());
    }
    let volumes: Option<Vec<Volume>> = serde_json::from_value(volumes).context("an odd answer")?;
    let mut table = Table::default();
    table.row(["NAME", "SIZE", "CONTAINERS", "CREATED"]);
    for volume in volumes.unwrap_or_default() {
        let usage = volume.usage_data.unwrap_or_default();
        // Below zero: not known.
        let size = match u64::try_from(usage.size) {
            Ok(bytes @ 0..1024) => format!("{bytes} B"),
            Ok(bytes) => human(bytes),
            Err(_) => "-".to_owned(),
        };
        let users = u64::try_from(usage.ref_count).map_or_else(|_| "-".to_owned(), |count| count.to_string());
        table.row([volume.name, size, users, volume.created_at]);
    }
    say(table);
    Ok(())
}

fn files(engine: &Engine, place: &Place, json: bool) -> Result<()> {
    let files: Vec<File> = engine.ask("GET", &place.target("files"))?.accepted()?.json()?;
    if json {
        say(serde_json::to_string_pretty(&files)?);
        return Ok(());
    }
    let mut table = Table::default();
    table.row(["MODE", "OWNER", "SIZE", "MODIFIED", "NAME"]);
    for file in files {
        let name = printable(&file.name);
        let name = match file.kind {
            FileKind::Link => format!("{name} -> {}", printable(&file.link_target)),
            FileKind::Directory => format!("{name}/"),
            FileKind::File | FileKind::Other => name,
        };
        table.row([
            mode(&file),
            format!("{}:{}", file.uid, file.gid),
            file.size.to_string(),
            file.modified.clone(),
            name,
        ]);
    }
    say(table);
    Ok(())
}

/// A name as a terminal may show it: whoever made the file has no say over the terminal.
fn printable(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// As `ls -l` shows a mode.
fn mode(file: &File) -> String {
    let kind = match file.kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Link => 'l',
        FileKind::Other => '?',
    };
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    let mut text = String::from(kind);
    for (shift, (bit, with, without)) in [6, 3, 0].into_iter().zip(special) {
        let may = |right: u32| file.mode >> shift & right != 0;
        text.push(if may(4) { 'r' } else { '-' });
        text.push(if may(2) { 'w' } else { '-' });
        text.push(match (file.mode & bit != 0, may(1)) {
            (true, true) => with,
            (true, false) => without,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_from_paths() {
        let place =
            |volume: &str, path: &str| Some(Place { volume: volume.to_owned(), path: path.to_owned() });
        assert_eq!(Place::parse("data:/a:b"), place("data", "/a:b"));
        assert_eq!(Place::parse("data:"), place("data", ""));
        for path in ["data", "/a:b", "./a:b", "a/b:c", ":x", "-"] {
            assert_eq!(Place::parse(path), None, "{path}");
        }
        let target = Place::parse("data:/a b&c").unwrap().target("files");
        assert_eq!(target, "/volumes/data/files?path=%2Fa+b%26c");
    }

    #[test]
    fn modes_and_names_are_shown() {
        let file = |kind, bits| File {
            name: String::new(),
            kind,
            size: 0,
            mode: bits,
            uid: 0,
            gid: 0,
            modified: String::new(),
            link_target: String::new(),
        };
        assert_eq!(mode(&file(FileKind::File, 0o4755)), "-rwsr-xr-x");
        assert_eq!(mode(&file(FileKind::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(mode(&file(FileKind::Other, 0o2640)), "?rw-r-S---");
        assert_eq!(printable("a\x1b[2Jä\n"), "a\\u{1b}[2Jä\\n");
    }
}
