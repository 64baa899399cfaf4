//! The options of the driver `local`: something that `mount(8)` knows, mounted on the volume's directory.

use std::{ffi::CString, path::Path};

use rustix::mount::{MountFlags, mount as mount_at, mount_remount};

use super::Words;
use crate::error::{Error, Kind, Result, errno_text};

/// File systems that need more than one system call: a server's address to be found, or a program's help.
const NETWORKED: [&str; 5] = ["nfs", "nfs4", "cifs", "smb3", "fuse"];

/// Refuses what the driver refuses, in Docker's words.
pub(super) fn check(options: Option<&Words>) -> Result<()> {
    let Some(options) = options else { return Ok(()) };
    if let Some(unknown) =
        options.keys().find(|name| !matches!(name.as_str(), "type" | "o" | "device" | "size"))
    {
        return Err(Error::invalid(format!("invalid option: {unknown:?}")));
    }
    if options.contains_key("size") {
        return Err(Error::invalid("quota size requested but no quota support"));
    }
    for (given, needed) in [("o", "device"), ("o", "type"), ("type", "device"), ("device", "type")] {
        if options.contains_key(given) && !options.contains_key(needed) {
            return Err(Error::invalid(format!("missing required option: {needed:?}")));
        }
    }
    let kind = option(options, "type");
    if NETWORKED.contains(&kind) {
        return Err(Error::not_implemented(format!("volumes of type {kind} are not implemented")));
    }
    parse(option(options, "o")).map(drop)
}

/// Mounts what checked `options` name on `target`.
///
/// # Errors
/// The kernel refuses, in Docker's words.
pub(super) fn mount(options: &Words, target: &Path) -> Result<()> {
    let (device, kind) = (option(options, "device"), option(options, "type"));
    let (flags, data) = parse(option(options, "o"))?;
    let shown = || {
        let mut text = format!("{device}:{}", target.display());
        if !flags.is_empty() {
            text.push_str(&format!(", flags: 0x{:x}", flags.bits()));
        }
        if !data.is_empty() {
            text.push_str(&format!(", data: {data}"));
        }
        text
    };
    let words = CString::new(data.as_str())
        .map_err(|error| Error::invalid("an option of the volume holds a zero byte").because(error))?;
    let mounted = mount_at(device, target, kind, flags, Some(words.as_c_str())).and_then(|()| {
        // The kernel takes no other flag together with a bind.
        let rest = flags.difference(MountFlags::BIND | MountFlags::REC);
        if !flags.contains(MountFlags::BIND) || rest.is_empty() {
            return Ok(());
        }
        let changed = mount_remount(target, MountFlags::BIND | rest, c"");
        if changed.is_err() {
            let _ = rustix::mount::unmount(target, rustix::mount::UnmountFlags::DETACH);
        }
        changed
    });
    mounted.map_err(|errno| {
        Error::system(format!("failed to mount local volume: mount {}: {}", shown(), errno_text(errno)))
    })
}

fn option<'a>(options: &'a Words, name: &str) -> &'a str {
    options.get(name).map_or("", String::as_str)
}

/// `o` as flags, and as what the file system itself is told.
fn parse(text: &str) -> Result<(MountFlags, String)> {
    let mut flags = MountFlags::empty();
    let mut data = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let (set, flag) = match word {
            "defaults" => continue,
            "bind" => (true, MountFlags::BIND),
            "rbind" => (true, MountFlags::BIND.union(MountFlags::REC)),
            "ro" => (true, MountFlags::RDONLY),
            "rw" => (false, MountFlags::RDONLY),
            "nosuid" => (true, MountFlags::NOSUID),
            "suid" => (false, MountFlags::NOSUID),
            "nodev" => (true, MountFlags::NODEV),
            "dev" => (false, MountFlags::NODEV),
            "noexec" => (true, MountFlags::NOEXEC),
            "exec" => (false, MountFlags::NOEXEC),
            "sync" => (true, MountFlags::SYNCHRONOUS),
            "async" => (false, MountFlags::SYNCHRONOUS),
            "dirsync" => (true, MountFlags::DIRSYNC),
            "noatime" => (true, MountFlags::NOATIME),
            "atime" => (false, MountFlags::NOATIME),
            "nodiratime" => (true, MountFlags::NODIRATIME),
            "diratime" => (false, MountFlags::NODIRATIME),
            "relatime" => (true, MountFlags::RELATIME),
            "norelatime" => (false, MountFlags::RELATIME),
            "strictatime" => (true, MountFlags::STRICTATIME),
            "nostrictatime" => (false, MountFlags::STRICTATIME),
            "private" | "rprivate" => continue,
            "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" | "remount" => {
                return Err(Error::new(
                    Kind::NotImplemented,
                    format!("the option {word:?} of a volume is not implemented"),
                ));
            }
            other => {
                data.push(other);
                continue;
            }
        };
        flags.set(flag, set);
    }
    Ok((flags, data.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Words {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        let error = |pairs: &[(&str, &str)]| check(Some(&options(pairs))).unwrap_err().to_string();
        assert_eq!(error(&[("colour", "red")]), "invalid option: \"colour\"");
        assert_eq!(error(&[("type", "tmpfs")]), "missing required option: \"device\"");
        assert_eq!(error(&[("device", "tmpfs")]), "missing required option: \"type\"");
        assert!(error(&[("size", "1g")]).starts_with("quota size requested"));
        assert!(error(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=1.2.3.4")]).contains("nfs"));
        check(None).unwrap();
        check(Some(&options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]))).unwrap();
    }

    #[test]
    fn words_are_flags_or_the_file_systems() {
        let (flags, data) = parse("size=1m,ro,nodev,uid=5,rw").unwrap();
        assert_eq!((flags, data.as_str()), (MountFlags::NODEV, "size=1m,uid=5"));
        assert!(parse("bind,rshared").is_err());
        let nowhere = options(&[("type", "none"), ("device", "/no/such/folder"), ("o", "bind")]);
        let error = mount(&nowhere, Path::new("/no/such/target")).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "failed to mount local volume: mount /no/such/folder:/no/such/target, flags: 0x1000: "
            ),
            "{error}"
        );
    }
}
