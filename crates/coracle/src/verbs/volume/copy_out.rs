use std::{
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tar::{Archive, EntryType};

use super::{Place, STREAM, is_directory, printable, stat_of};
use crate::{engine::Engine, terminal::tell};

/// Copies what is at `place` to a path of this host, or as an archive to standard output. What is copied belongs to
/// who copies it.
pub(super) fn run(engine: &Engine, place: &Place, to: &str) -> Result<()> {
    let answer = engine.ask("GET", &place.target("archive"))?.accepted()?;
    let stat = stat_of(&answer)?;
    if to == STREAM {
        io::copy(&mut answer.body(), &mut io::stdout().lock()).context("cannot pass the archive on")?;
        return Ok(());
    }
    let name = Name::of(&stat.name)?;
    let target = Target::choose(Path::new(to), name, is_directory(&stat))?;
    let mut body = answer.body();
    match target {
        Target::Into(directory) => unpack(&mut body, &directory),
        Target::As { directory, path } => {
            // The whole of it gets the name, or nothing does.
            let whole = tempfile::Builder::new()
                .prefix(".coracle-copy-")
                .tempdir_in(&directory)
                .with_context(|| format!("cannot write to {}", directory.display()))?;
            let copy = whole.path().join("copy");
            fs::create_dir(&copy).with_context(|| format!("cannot make {}", copy.display()))?;
            unpack(&mut body, &copy)?;
            let made = match name {
                Name::Content => copy,
                Name::Own(name) => copy.join(name),
            };
            rename(&made, &path).with_context(|| format!("cannot make {}", path.display()))
        }
    }
}

/// Also of a directory that may not be written to: that it moves elsewhere changes it.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(from)?;
    if !found.is_dir() {
        return fs::rename(from, to);
    }
    let mut writable = found.permissions();
    writable.set_mode(writable.mode() | 0o700);
    fs::set_permissions(from, writable)?;
    fs::rename(from, to)?;
    fs::set_permissions(to, found.permissions())
}

/// What the members of an archive are below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    /// Nothing: the content of a directory was asked for.
    Content,
    Own(&'a str),
}

impl Name<'_> {
    /// # Errors
    /// What is no name of a file: it comes from the machine, and must not lead elsewhere.
    fn of(name: &str) -> Result<Name<'_>> {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::CurDir | Component::RootDir), None) => Ok(Name::Content),
            (Some(Component::Normal(_)), None) => Ok(Name::Own(name)),
            _ => bail!("the engine calls what is copied {name:?}, which is no name of a file"),
        }
    }
}

/// Where a copy goes.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Under its own name.
    Into(PathBuf),
    /// Under another.
    As { directory: PathBuf, path: PathBuf },
}

impl Target {
    /// For a copy of something called `name`.
    fn choose(to: &Path, name: Name<'_>, is_directory: bool) -> Result<Target> {
        let shown = to.display();
        match fs::metadata(to) {
            Ok(found) if found.is_dir() => {
                if let Name::Own(name) = name {
                    let taken = to.join(name);
                    if taken.symlink_metadata().is_ok_and(|there| there.is_dir() != is_directory) {
                        bail!("{} is in the way of what is copied", taken.display());
                    }
                }
                return Ok(Target::Into(to.to_owned()));
            }
            Ok(_) if is_directory => bail!("{shown} is no directory, but what is copied is"),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !is_directory && to.as_os_str().as_encoded_bytes().ends_with(b"/") {
                    bail!("there is no directory {shown}");
                }
            }
            Err(error) => return Err(error).with_context(|| format!("cannot look at {shown}")),
        }
        let directory = match to.parent() {
            None => bail!("{shown} cannot be written"),
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
        };
        if !directory.is_dir() {
            bail!("there is no directory {}", directory.display());
        }
        Ok(Target::As { directory: directory.to_owned(), path: to.to_owned() })
    }
}

/// Unpacks an archive below `directory`. It comes from a machine whose containers decide on what is in it: nothing of
/// it is written elsewhere, whatever its names and links say, and it makes neither devices nor set-user-ID programs.
fn unpack(body: &mut impl Read, directory: &Path) -> Result<()> {
    let mut archive = Archive::new(&mut *body);
    archive.set_preserve_permissions(false);
    archive.set_overwrite(true);
    let mut directories = Vec::new();
    for entry in archive.entries().context("cannot read the archive")? {
        let mut entry = entry.context("cannot read the archive")?;
        let shown = printable(&String::from_utf8_lossy(&entry.path_bytes()));
        match entry.header().entry_type() {
            // One that may not be written to is made when all that is in it is there.
            EntryType::Directory => directories.push(entry),
            EntryType::Regular | EntryType::Continuous | EntryType::Link | EntryType::Symlink => {
                let done = entry.unpack_in(directory).with_context(|| format!("cannot copy {shown}"))?;
                if !done {
                    bail!("the archive has the name {shown:?}, which leads out of {}", directory.display());
                }
            }
            _ => tell(format_args!("coracle: {shown} is left out: it is no file, directory or link")),
        }
    }
    // What is deeper comes first: to make it may need to write above it.
    directories.sort_by(|one, other| other.path_bytes().cmp(&one.path_bytes()));
    for mut entry in directories {
        let shown = printable(&String::from_utf8_lossy(&entry.path_bytes()));
        entry.unpack_in(directory).with_context(|| format!("cannot copy {shown}"))?;
    }
    // What failed on the engine's side shows at the very end.
    io::copy(body, &mut io::sink()).context("the archive broke off")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_as_by_cp() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::create_dir(at("dir/taken")).unwrap();
        fs::write(at("file"), "").unwrap();
        let renamed = |name: &str| Target::As { directory: directory.path().to_owned(), path: at(name) };
        let choose = |to: &str, name: &str, is_directory| {
            Target::choose(&at(to), Name::of(name).unwrap(), is_directory)
        };
        assert_eq!(choose("dir", "x", false).unwrap(), Target::Into(at("dir")));
        assert_eq!(choose("dir", "taken", true).unwrap(), Target::Into(at("dir")));
        assert_eq!(choose("dir", ".", true).unwrap(), Target::Into(at("dir")));
        assert_eq!(choose("file", "x", false).unwrap(), renamed("file"));
        assert_eq!(choose("new", "x", true).unwrap(), renamed("new"));
        assert!(choose("file", "x", true).is_err());
        assert!(choose("dir", "taken", false).is_err());
        assert!(choose("new/", "x", false).is_err());
        assert!(choose("none/new", "x", false).is_err());
    }

    #[test]
    fn names_lead_nowhere() {
        assert_eq!(Name::of("a b").unwrap(), Name::Own("a b"));
        for content in [".", "/", "./"] {
            assert_eq!(Name::of(content).unwrap(), Name::Content, "{content}");
        }
        for odd in ["", "..", "../x", "/etc/passwd", "a/b", "a/.."] {
            assert!(Name::of(odd).is_err(), "{odd}");
        }
    }

    fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, name, link) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            // Past what the crate takes for a good name.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_mode(0o4755);
            header.set_size(if *kind == EntryType::Regular { 1 } else { 0 });
            header.set_cksum();
            builder.append(&header, &b"x"[..usize::from(*kind == EntryType::Regular)]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn archives_do_not_lead_out() {
        use EntryType::{Char, Fifo, Link, Regular, Symlink};
        let outer = tempfile::tempdir().unwrap();
        fs::write(outer.path().join("secret"), "secret").unwrap();
        let absolute = outer.path().join("planted");
        let absolute = absolute.to_str().unwrap();
        for entries in [
            &[(Regular, "../planted", "")][..],
            &[(Symlink, "up", ".."), (Regular, "up/planted", "")],
            &[(Symlink, "up", absolute), (Regular, "up", "")],
            &[(Symlink, "up", "."), (Symlink, "up/up", ".."), (Regular, "up/up/planted", "")],
            &[(Link, "taken", "../secret"), (Regular, "taken", "")],
            &[(Regular, absolute, "")],
            &[(Char, "device", ""), (Fifo, "pipe", "")],
        ] {
            let inner = tempfile::tempdir_in(outer.path()).unwrap();
            // Whether it is refused or not.
            let _ = unpack(&mut &archive(entries)[..], inner.path());
            assert!(!outer.path().join("planted").exists(), "{entries:?}");
            assert_eq!(fs::read(outer.path().join("secret")).unwrap(), b"secret", "{entries:?}");
            assert!(!inner.path().join("device").exists() && !inner.path().join("pipe").exists());
        }
    }

    #[test]
    fn what_is_unpacked_is_no_set_user_id_program() {
        let directory = tempfile::tempdir().unwrap();
        let entries = [(EntryType::Directory, "dir/", ""), (EntryType::Regular, "dir/file", "")];
        unpack(&mut &archive(&entries)[..], directory.path()).unwrap();
        let mode = fs::metadata(directory.path().join("dir/file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0);
        let cut = archive(&entries);
        assert!(unpack(&mut &cut[..cut.len() / 4], directory.path()).is_err());
    }
}
