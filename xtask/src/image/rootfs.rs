//! The guest's root file system: what `vm-image/rootfs.list` names, packed into a read-only erofs image.
//!
//! The image is reproducible: the same files give the same bytes, whoever builds it and when.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::terminal::{Stage, size};
use crate::{command, digest, paths};

/// The image's identity; fixed, because every image of Coracle is mounted by its place and never by this.
const UUID: &str = "c04ac1e0-0000-4000-8000-000000000001";

/// To be raised when the way of packing changes.
const RECIPE: &str = "1";

/// Everything that the root file system will hold.
#[derive(Debug)]
pub(super) struct Plan {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

/// One line of the list, its words checked and not yet acted upon.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// An empty folder.
    Folder {
        path: &'a str,
        mode: u32,
    },
    /// A file from `vm-image/rootfs/`.
    Ours {
        path: &'a str,
    },
    /// A file of the machine that builds.
    Host {
        path: &'a str,
        source: &'a str,
    },
    /// A program of the machine that builds, with the shared libraries it needs.
    Program {
        path: &'a str,
        source: &'a str,
    },
    /// All files of one folder with one extension, one after the other in the order of their names.
    Joined {
        path: &'a str,
        folder: &'a str,
        extension: &'a str,
    },
    Link {
        path: &'a str,
        target: &'a str,
    },
    /// One link for each applet of the busybox at `path`, unless the list has something else there.
    Applets {
        path: &'a str,
    },
    /// The guest's own program.
    Agent {
        path: &'a str,
    },
}

impl Plan {
    /// Reads the list and every file it names.
    pub(super) fn read(agent: &Path) -> Result<Self> {
        let inputs = paths::root().join("vm-image");
        let list = inputs.join("rootfs.list");
        let text = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
        let mut plan = Self { entries: BTreeMap::new() };
        let mut applets = None;
        for (number, line) in text.lines().enumerate() {
            let at = || format!("rootfs.list, line {}: `{line}`", number + 1);
            match parse_line(line).with_context(at)? {
                Some(Line::Applets { path }) => applets = Some(path),
                Some(line) => plan.add(&line, &inputs, agent).with_context(at)?,
                None => {}
            }
        }
        // Last, so that a real program wins over busybox's version of it.
        if let Some(busybox) = applets {
            plan.add_applets(busybox)?;
        }
        plan.add_parents();
        Ok(plan)
    }

    /// Stands for everything in the plan.
    pub(super) fn key(&self) -> String {
        let mut key = digest::Key::new();
        key.add(RECIPE);
        for (path, entry) in &self.entries {
            key.add(path.as_os_str().as_encoded_bytes());
            match entry {
                Entry::Folder { mode } => key.add("folder").add(mode.to_le_bytes()),
                Entry::File { mode, content } => key.add("file").add(mode.to_le_bytes()).add(content),
                Entry::Link { target } => key.add("link").add(target),
            };
        }
        key.short()
    }

    fn add(&mut self, line: &Line<'_>, inputs: &Path, agent: &Path) -> Result<()> {
        match *line {
            Line::Folder { path, mode } => self.insert(path, Entry::Folder { mode }),
            Line::Link { path, target } => self.insert(path, Entry::Link { target: target.to_owned() }),
            Line::Ours { path } => {
                let source = inputs.join("rootfs").join(path.trim_start_matches('/'));
                self.insert(path, file(&source, 0o644)?)
            }
            Line::Host { path, source } => {
                let mode =
                    fs::metadata(source).with_context(|| format!("reading {source}"))?.permissions().mode();
                self.insert(path, file(Path::new(source), mode & 0o755)?)
            }
            Line::Program { path, source } => {
                self.insert(path, file(Path::new(source), 0o755)?)?;
                for library in shared_libraries(Path::new(source))? {
                    let name = library.to_str().context("a shared library's path is no UTF-8")?;
                    if !self.entries.contains_key(&inside(name)?) {
                        self.insert(name, file(&library, 0o755)?)?;
                    }
                }
                Ok(())
            }
            Line::Joined { path, folder, extension } => {
                let mut files: Vec<PathBuf> = fs::read_dir(folder)
                    .with_context(|| format!("reading {folder}"))?
                    .filter_map(|entry| Some(entry.ok()?.path()))
                    .filter(|file| file.extension().is_some_and(|found| found == extension))
                    .collect();
                ensure!(!files.is_empty(), "{folder} has no file that ends in .{extension}");
                files.sort();
                let mut content = Vec::new();
                for file in files {
                    content.extend(fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
                }
                self.insert(path, Entry::File { mode: 0o644, content })
            }
            Line::Agent { path } => self.insert(path, file(agent, 0o755)?),
            Line::Applets { .. } => Ok(()),
        }
    }

    fn add_applets(&mut self, busybox: &str) -> Result<()> {
        let Some(Entry::File { .. }) = self.entries.get(&inside(busybox)?) else {
            bail!("rootfs.list asks for the applets of {busybox}, but does not put a program there");
        };
        // The build machine has the same binary: it was read from there.
        for applet in command::output(Command::new("busybox").arg("--list"))?.lines() {
            // A path of the list itself may be a link, so applets go to the one folder that never is.
            let path = inside(&format!("/bin/{applet}"))?;
            let elsewhere = inside(&format!("/sbin/{applet}"))?;
            if !self.entries.contains_key(&path) && !self.entries.contains_key(&elsewhere) {
                self.entries.insert(path, Entry::Link { target: busybox.to_owned() });
            }
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, entry: Entry) -> Result<()> {
        match self.entries.entry(inside(path)?) {
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(entry);
                Ok(())
            }
            std::collections::btree_map::Entry::Occupied(_) => bail!("{path} is there already"),
        }
    }

    fn add_parents(&mut self) {
        let mut parents: Vec<PathBuf> = Vec::new();
        for path in self.entries.keys() {
            parents.extend(path.ancestors().skip(1).map(Path::to_path_buf));
        }
        for parent in parents {
            if !parent.as_os_str().is_empty() {
                self.entries.entry(parent).or_insert(Entry::Folder { mode: 0o755 });
            }
        }
    }

    fn write(&self, root: &Path) -> Result<()> {
        // In the order of their paths, so a folder comes before what is in it.
        for (path, entry) in &self.entries {
            let place = root.join(path);
            let written = match entry {
                Entry::Folder { .. } => fs::create_dir(&place),
                Entry::File { content, .. } => fs::write(&place, content),
                Entry::Link { target } => symlink(target, &place),
            };
            written.with_context(|| format!("writing {}", place.display()))?;
            if let Entry::Folder { mode } | Entry::File { mode, .. } = entry {
                fs::set_permissions(&place, fs::Permissions::from_mode(*mode))
                    .with_context(|| format!("setting the permissions of {}", place.display()))?;
            }
        }
        Ok(())
    }
}

/// Packs the plan into an image.
pub(super) fn build(plan: &Plan, image: &Path) -> Result<()> {
    let stage = Stage::begin("guest root file system");
    let folder = image.with_file_name(format!(".rootfs.{}", std::process::id()));
    let draft = image.with_file_name(format!(".rootfs.{}.erofs", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let packed = plan.write(&folder).and_then(|()| {
        // Not compressed: the pages are read once, from the host's cache, and decompressing them is work for the guest.
        let mut mkfs = Command::new("mkfs.erofs");
        mkfs.args(["-T0", "--all-root", "-U", UUID]).arg(&draft).arg(&folder);
        command::output(&mut mkfs)
    });
    let _ = fs::remove_dir_all(&folder);
    packed?;
    let length = fs::metadata(&draft).with_context(|| format!("reading {}", draft.display()))?.len();
    fs::rename(&draft, image).with_context(|| format!("moving {} into place", image.display()))?;
    stage.done(format_args!("{} entries, {}", plan.entries.len(), size(length)));
    Ok(())
}

fn file(source: &Path, mode: u32) -> Result<Entry> {
    let content = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
    Ok(Entry::File { mode, content })
}

/// An absolute path of the guest as a path below the image's root; refuses anything that could leave it.
fn inside(path: &str) -> Result<PathBuf> {
    let relative = path.strip_prefix('/').with_context(|| format!("`{path}` does not begin with /"))?;
    let relative = Path::new(relative);
    let plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(plain && !relative.as_os_str().is_empty(), "`{path}` is not a plain absolute path");
    Ok(relative.to_path_buf())
}

/// `Ok(None)` for an empty line or a comment.
fn parse_line(line: &str) -> Result<Option<Line<'_>>> {
    let line = line.split('#').next().unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    Ok(Some(match words[..] {
        [] => return Ok(None),
        ["folder", path] => Line::Folder { path, mode: 0o755 },
        ["folder", path, mode] => {
            let mode =
                u32::from_str_radix(mode, 8).with_context(|| format!("`{mode}` is not an octal mode"))?;
            Line::Folder { path, mode }
        }
        ["ours", path] => Line::Ours { path },
        ["host", path, source] => Line::Host { path, source },
        ["program", path, source] => Line::Program { path, source },
        ["joined", path, folder, extension] => Line::Joined { path, folder, extension },
        ["link", path, target] => Line::Link { path, target },
        ["applets", path] => Line::Applets { path },
        ["agent", path] => Line::Agent { path },
        [verb, ..] => bail!("`{verb}` is unknown or has the wrong number of words after it"),
    }))
}

/// The libraries that a program loads, and its loader, as `ldd` resolves them. None for a static program.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("starting ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        if text.contains("statically linked") || complaint.contains("not a dynamic executable") {
            return Ok(Vec::new());
        }
        bail!("ldd {} failed: {}", program.display(), complaint.trim());
    }
    parse_ldd(&text)
}

/// Lines are `libc.so.6 => /lib/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)` or `linux-vdso.so.1 (0x…)`.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.ends_with("not found") {
            bail!("a shared library is missing: {line}");
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        if let Some(path) = path.split_whitespace().next().filter(|path| path.starts_with('/')) {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(parse_line("  # only a comment").unwrap(), None);
        assert_eq!(
            parse_line("folder /tmp 1777").unwrap(),
            Some(Line::Folder { path: "/tmp", mode: 0o1777 })
        );
        assert_eq!(
            parse_line("program /sbin/mke2fs /usr/sbin/mke2fs # text").unwrap(),
            Some(Line::Program { path: "/sbin/mke2fs", source: "/usr/sbin/mke2fs" })
        );
        assert!(parse_line("folder /tmp 9").is_err());
        assert!(parse_line("link /a").is_err());
        assert!(parse_line("copy /a /b").unwrap_err().to_string().contains("`copy`"));
    }

    #[test]
    fn nothing_leaves_the_image() {
        assert_eq!(inside("/etc/passwd").unwrap(), Path::new("etc/passwd"));
        for path in ["etc", "/", "/../etc", "/a/../../b"] {
            assert!(inside(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_path_cannot_be_named_twice_and_parents_are_made() {
        let mut plan = Plan { entries: BTreeMap::new() };
        plan.insert("/a/b/c", Entry::File { mode: 0o644, content: b"x".to_vec() }).unwrap();
        assert!(plan.insert("/a/b/c", Entry::Folder { mode: 0o755 }).is_err());
        plan.add_parents();
        assert_eq!(plan.entries.len(), 3);
        let folder = tempfile::tempdir().unwrap();
        plan.write(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("a/b/c")).unwrap(), "x");
    }

    #[test]
    fn the_key_follows_content_mode_and_place() {
        let key = |path: &str, mode, content: &str| {
            let mut plan = Plan { entries: BTreeMap::new() };
            plan.insert(path, Entry::File { mode, content: content.into() }).unwrap();
            plan.key()
        };
        let base = key("/a", 0o644, "x");
        assert_eq!(base, key("/a", 0o644, "x"));
        for other in [key("/b", 0o644, "x"), key("/a", 0o755, "x"), key("/a", 0o644, "y")] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn ldd_output_is_read_and_a_missing_library_is_an_error() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(text).unwrap(),
            [Path::new("/lib/x86_64-linux-gnu/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]
        );
        assert!(parse_ldd("\tlibz.so.9 => not found\n").is_err());
    }

    #[test]
    fn our_own_list_parses() {
        let text = fs::read_to_string(paths::root().join("vm-image/rootfs.list")).unwrap();
        let lines: Vec<Line<'_>> = text.lines().filter_map(|line| parse_line(line).unwrap()).collect();
        assert!(lines.iter().any(|line| matches!(line, Line::Agent { path: "/sbin/coracle-agent" })));
        for line in lines {
            if let Line::Ours { path } = line {
                assert!(paths::root().join("vm-image/rootfs").join(&path[1..]).is_file(), "{path}");
            }
        }
    }
}
