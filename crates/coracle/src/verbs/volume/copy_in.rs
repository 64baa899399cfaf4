use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, Result, bail};
use tar::{Builder, Header};

use super::{Place, STREAM, is_directory};
use crate::{engine::Engine, terminal::tell};

/// What a body of this kind is.
const TAR: &str = "application/x-tar";

/// Copies a path of this host, or an archive on standard input, to `place`. Files belong to root there, or with
/// `owners` to whom they belong here.
pub(super) fn run(engine: &Engine, from: &str, place: &Place, owners: bool) -> Result<()> {
    if from == STREAM {
        let pass_on = |to: &mut dyn Write| {
            io::copy(&mut io::stdin().lock(), to).context("cannot pass the archive on").map(drop)
        };
        return engine.send("PUT", &place.target("archive"), TAR, pass_on)?.accepted().map(drop);
    }
    let source = Path::new(from);
    // With /. the content itself is meant, and with / the target of a link.
    let content = from == "." || from.ends_with("/.");
    let follow = content || from.ends_with('/');
    let look = if follow { fs::metadata(source) } else { fs::symlink_metadata(source) };
    let found = look.with_context(|| format!("cannot read {from}"))?;
    if content && !found.is_dir() {
        bail!("{from} is no directory");
    }
    let (into, name) = target(engine, place, source, &found, content)?;
    let write = |to: &mut dyn Write| {
        let mut archive = Packer { archive: Builder::new(to), owners };
        archive.add(source, Path::new(&name), &found)?;
        Ok(archive.archive.finish()?)
    };
    engine.send("PUT", &into.target("archive"), TAR, write)?.accepted().map(drop)
}

/// The directory that the copy goes into, and its name there: empty for the content of a directory.
fn target(
    engine: &Engine,
    place: &Place,
    source: &Path,
    found: &Metadata,
    content: bool,
) -> Result<(Place, String)> {
    let mut at = place.at(&place.path_or_root());
    let mut there = at.stat(engine)?;
    // A link is followed, as by whoever writes to it.
    if let Some(link) = there.as_ref().filter(|stat| !stat.link_target.is_empty()) {
        at = place.at(&link.link_target);
        there = at.stat(engine)?;
    }
    let (path, volume) = (at.path.as_str(), &at.volume);
    match there {
        Some(stat) if is_directory(&stat) && content => return Ok((at, String::new())),
        Some(stat) if is_directory(&stat) => {
            let resolved = source.canonicalize().ok().filter(|_| source.file_name().is_none());
            let name = resolved.as_deref().unwrap_or(source).file_name().and_then(|name| name.to_str());
            let name =
                name.with_context(|| format!("{} has no name that it could keep", source.display()))?;
            return Ok((at, name.to_owned()));
        }
        Some(_) if found.is_dir() => bail!("{path} in the volume {volume} is no directory"),
        None if path.ends_with('/') && !found.is_dir() => {
            bail!("there is no directory {path} in the volume {volume}")
        }
        _ => {}
    }
    let path = path.trim_end_matches('/');
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((place.at(&format!("{above}/")), name.to_owned()))
}

/// Puts files into an archive.
struct Packer<'w> {
    archive: Builder<&'w mut dyn Write>,
    owners: bool,
}

impl Packer<'_> {
    /// Adds what is at `path` as `name`, or if that is empty what is in it.
    fn add(&mut self, path: &Path, name: &Path, found: &Metadata) -> Result<()> {
        let what = || format!("cannot copy {}", path.display());
        let mut header = Header::new_gnu();
        header.set_metadata(found);
        if !self.owners {
            header.set_uid(0);
            header.set_gid(0);
        }
        let kind = found.file_type();
        if kind.is_dir() {
            if !name.as_os_str().is_empty() {
                self.archive.append_data(&mut header, name, io::empty()).with_context(what)?;
            }
            for entry in fs::read_dir(path).with_context(what)? {
                let entry = entry.with_context(what)?;
                let found = entry.metadata().with_context(what)?;
                self.add(&entry.path(), &name.join(entry.file_name()), &found)?;
            }
        } else if kind.is_symlink() {
            let link = fs::read_link(path).with_context(what)?;
            self.archive.append_link(&mut header, name, link).with_context(what)?;
        } else if kind.is_file() {
            let file = File::open(path).with_context(what)?;
            // As many bytes as the header says, however the file changes meanwhile.
            let mut content = Counted { left: found.len(), file };
            self.archive.append_data(&mut header, name, &mut content).with_context(what)?;
            if content.left > 0 {
                bail!("{} became shorter while it was copied", path.display());
            }
        } else {
            tell(format_args!("coracle: {} is left out: it is no file, directory or link", path.display()));
        }
        Ok(())
    }
}

struct Counted {
    left: u64,
    file: File,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = Read::by_ref(&mut self.file).take(self.left).read(buffer)?;
        self.left -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_archive_has_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("inner")).unwrap();
        fs::write(directory.path().join("inner/file"), "content").unwrap();
        symlink("inner/file", directory.path().join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let names = |name: &str| {
            let mut bytes = Vec::new();
            let mut packer = Packer { archive: Builder::new(&mut bytes), owners: false };
            let found = fs::metadata(directory.path()).unwrap();
            packer.add(directory.path(), Path::new(name), &found).unwrap();
            packer.archive.finish().unwrap();
            drop(packer);
            let mut archive = tar::Archive::new(&bytes[..]);
            let mut names: Vec<String> = archive
                .entries()
                .unwrap()
                .map(|entry| {
                    let entry = entry.unwrap();
                    assert_eq!((entry.header().uid().unwrap(), entry.header().gid().unwrap()), (0, 0));
                    entry.path().unwrap().display().to_string()
                })
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("x"), ["x", "x/inner", "x/inner/file", "x/link"]);
        assert_eq!(names(""), ["inner", "inner/file", "link"]);
    }
}
