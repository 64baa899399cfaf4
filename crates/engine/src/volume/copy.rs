//! Files in and out of a volume without a container: routes of our own.

use std::{
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, OFlags, Stat, fstat, readlinkat, statat},
    io::Errno,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::oneshot;
use wire::docker::{
    container::PathStat,
    volume::{File, FileKind},
};

use super::Volumes;
use crate::{
    container::copy::{Failure, HEARD_OUT, absolute, base, open_source, stat, tell_unpacking},
    error::{Context, Error, Result, errno_of},
    runtime::in_root::Root,
    snapshot::{ArchiveStream, ArchiveWriter, CopyInto, Outgoing, copy_into, decompress},
    userns::Owners,
};

/// How many files of one directory are listed: some 20 MB of an answer.
const MAX_FILES: usize = 100_000;

/// A volume that is mounted as long as its files are looked at. To be made and dropped on threads that may block.
struct Held {
    volumes: Volumes,
    user: String,
    root: Root,
}

impl Held {
    fn new(volumes: &Volumes, name: &str) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        // No container's ID looks so.
        let user = format!("files-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = volumes.mount(name, &user)?;
        let root = Root::open(&path).context(|| format!("open {}", path.display()));
        if root.is_err() {
            volumes.unmount(&user);
        }
        Ok(Self { volumes: volumes.clone(), user, root: root? })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.volumes.unmount(&self.user);
    }
}

impl Volumes {
    /// What is at `path` in a volume; a link is not followed.
    ///
    /// # Errors
    /// No such volume or path.
    pub(crate) fn stat_path(&self, name: &str, path: &str) -> Result<PathStat> {
        let held = Held::new(self, name)?;
        stat(&held.root, &absolute(path)).map(|(stat, _)| stat).map_err(|failure| tell(failure, path, name))
    }

    /// The files in the directory `path` of a volume by name, or the one that is there. Links at the end of
    /// the path are followed, those among the files are not.
    ///
    /// # Errors
    /// No such volume or path; more files than fit in an answer.
    pub(crate) fn files(&self, name: &str, path: &str) -> Result<Vec<File>> {
        let held = Held::new(self, name)?;
        let asked = absolute(path);
        let failed = |errno| tell(Failure::Kernel("open", asked.clone().into(), errno), path, name);
        let place = held.root.open_at(Path::new(&asked), OFlags::PATH).map_err(failed)?;
        let found = fstat(&place).map_err(failed)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Ok(vec![describe(base(&asked).as_bytes(), &found, String::new())]);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = held.root.open_at(Path::new(&asked), flags).map_err(failed)?;
        let mut files = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            if matches!(file_name.to_bytes(), b"." | b"..") {
                continue;
            }
            if files.len() == MAX_FILES {
                return Err(Error::invalid(format!(
                    "{asked} in the volume {name} has more than {MAX_FILES} files, which are not listed at once"
                )));
            }
            let stat = match statat(&directory, file_name, AtFlags::SYMLINK_NOFOLLOW) {
                // Gone meanwhile.
                Err(Errno::NOENT) => continue,
                stat => stat.map_err(failed)?,
            };
            let link = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => readlinkat(&directory, file_name, Vec::new())
                    .map(|target| target.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                _ => String::new(),
            };
            files.push(describe(file_name.to_bytes(), &stat, link));
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(files)
    }

    /// What is at `path` in a volume, and an archive of it, as of a path in a container.
    ///
    /// # Errors
    /// No such volume or path.
    pub(crate) async fn archive_path(&self, name: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let (volumes, volume, asked) = (self.clone(), name.to_owned(), path.to_owned());
        let (outgoing, stream) = Outgoing::new();
        let (tell_stat, told) = oneshot::channel();
        // All of it on a thread that may block: whoever holds a volume last may have to wait.
        tokio::task::spawn_blocking(move || {
            let opened = Held::new(&volumes, &volume).and_then(|held| {
                let opened = open_source(&held.root, &absolute(&asked));
                opened.map(|opened| (opened, held)).map_err(|failure| tell(failure, &asked, &volume))
            });
            let (source, _held) = match opened {
                Ok(((stat, source), held)) => match tell_stat.send(Ok(stat)) {
                    Ok(()) => (source, held),
                    Err(_) => return,
                },
                Err(error) => return drop(tell_stat.send(Err(error))),
            };
            let mut archive = ArchiveWriter::new(outgoing);
            match source.write(&mut archive) {
                // A client that has left misses nothing.
                Ok(()) => drop(archive.finish()),
                Err(error) => archive.into_sink().fail(error),
            }
        });
        let stat = told.await.context(|| format!("look into the volume {name}"))??;
        Ok((stat, stream))
    }

    /// Unpacks an archive, compressed or not, into the directory `path` of a volume. What it has is on the
    /// disk when this returns.
    ///
    /// # Errors
    /// No such volume or path, no directory; an archive that cannot be unpacked, of which the beginning stays.
    pub(crate) fn extract(&self, name: &str, path: &str, mut archive: impl Read + Send) -> Result<()> {
        let extracted = self.extract_now(name, path, &mut archive);
        if extracted.is_err() {
            // A client that is still sending would hear of a broken connection instead.
            let _ = io::copy(&mut archive.take(HEARD_OUT), &mut io::sink());
        }
        extracted
    }

    fn extract_now(&self, name: &str, path: &str, archive: impl Read + Send) -> Result<()> {
        let held = Held::new(self, name)?;
        let asked = absolute(path);
        let failed = |errno| tell(Failure::Kernel("open", asked.clone().into(), errno), path, name);
        let place = held.root.open_at(Path::new(&asked), OFlags::PATH).map_err(failed)?;
        if FileType::from_raw_mode(fstat(&place).map_err(failed)?.st_mode) != FileType::Directory {
            return Err(Error::invalid("extraction point is not a directory"));
        }
        let followed = held.root.follow(Path::new(&asked)).map_err(|error| failed(errno_of(&error)))?;
        let how = CopyInto {
            destination: followed.strip_prefix("/").unwrap_or(&followed).as_os_str().as_bytes().to_vec(),
            keep_kinds: true,
            owner: None,
            owners: Owners::default(),
        };
        let (_, plain) =
            decompress(archive).map_err(|error| Error::system("Error processing tar file").because(error))?;
        let top = held.root.open_at(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        copy_into(plain, &top, &how).map_err(tell_unpacking)?;
        rustix::fs::syncfs(&top).context(|| format!("sync the volume {name}"))
    }
}

fn tell(failure: Failure, path: &str, volume: &str) -> Error {
    failure.tell(path, &format!("volume {volume}"))
}

fn describe(name: &[u8], stat: &Stat, link_target: String) -> File {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    };
    let modified = OffsetDateTime::from_unix_timestamp(stat.st_mtime).ok();
    File {
        name: String::from_utf8_lossy(name).into_owned(),
        kind,
        size: stat.st_size,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: modified.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default(),
        link_target,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::{error::Kind, events::Events, volume::New};

    fn volume(root: &Path) -> Volumes {
        let volumes = Volumes::open(root, Events::default()).unwrap();
        volumes.create(New { name: "data".to_owned(), ..New::default() }).unwrap();
        volumes
    }

    #[test]
    fn files_are_those_of_the_volume_alone() {
        let root = tempfile::tempdir().unwrap();
        let volumes = volume(root.path());
        let data = volumes.path("data");
        fs::create_dir(data.join("inner")).unwrap();
        fs::write(data.join("inner/file"), "12345").unwrap();
        fs::write(root.path().join("secret"), "x").unwrap();
        symlink("/inner", data.join("near")).unwrap();
        symlink("../../../secret", data.join("out")).unwrap();
        let names = |path: &str| -> Result<Vec<(String, FileKind, String)>> {
            let files = volumes.files("data", path)?;
            Ok(files.into_iter().map(|file| (file.name, file.kind, file.link_target)).collect())
        };
        let entry = |name: &str, kind, link: &str| (name.to_owned(), kind, link.to_owned());
        let file = entry("file", FileKind::File, "");
        assert_eq!(
            names("").unwrap(),
            [
                entry("inner", FileKind::Directory, ""),
                entry("near", FileKind::Link, "/inner"),
                entry("out", FileKind::Link, "../../../secret"),
            ]
        );
        for path in ["inner", "/inner/", "near/", "near", "../inner/."] {
            assert_eq!(names(path).unwrap(), std::slice::from_ref(&file), "{path}");
        }
        assert_eq!(names("inner/file").unwrap(), [file]);
        for path in ["out", "missing", "../../secret"] {
            let error = names(path).unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound, "{path}");
            assert_eq!(error.to_string(), format!("Could not find the file {path} in volume data"));
        }
        assert_eq!(volumes.files("none", "").unwrap_err().to_string(), "get none: no such volume");
        assert!(volumes.state()["data"].mounted.is_empty(), "given back");
    }

    #[test]
    fn archives_do_not_lead_out() {
        let root = tempfile::tempdir().unwrap();
        let volumes = volume(root.path());
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |kind, name: &str, link: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            archive.append_data(&mut header, name, content).unwrap();
        };
        add(tar::EntryType::Symlink, "out", "../../..", b"");
        add(tar::EntryType::Regular, "out/planted", "", b"x");
        add(tar::EntryType::Regular, "file", "", b"content");
        let archive = archive.into_inner().unwrap();
        // Whether it is taken or refused, nothing is written elsewhere.
        let _ = volumes.extract("data", "/", &archive[..]);
        assert!(!root.path().join("planted").exists() && !root.path().join("volumes/planted").exists());
        let error = volumes.extract("data", "missing", &archive[..]).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
    }
}
