//! The options of the driver `local`: something that `mount(8)` knows, mounted on the volume's directory.

use std::{
    ffi::CString,
    fs,
    net::{IpAddr, ToSocketAddrs},
    path::Path,
};

use rustix::{
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount as mount_at, mount_change, mount_remount,
        unmount,
    },
};

use super::Words;
use crate::error::{Context, Error, Kind, Result, errno_text};

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
    Parsed::of(option(options, "o")).map(drop)
}

/// Mounts what checked `options` name on `target`. The name of a network's file server is looked up here: the
/// kernel takes addresses alone. It may wait for the server as long as the kernel does.
///
/// # Errors
/// The kernel refuses, or nobody knows the server; in Docker's words.
pub(super) fn mount(options: &Words, target: &Path) -> Result<()> {
    let (device, kind) = (option(options, "device"), option(options, "type"));
    let Parsed { flags, propagation, data } = Parsed::of(option(options, "o"))?;
    let (device, data) = match kind {
        "nfs" | "cifs" => with_addresses(kind, device, data)?,
        _ => (device.to_owned(), data),
    };
    let shown = || {
        let mut text = format!("{device}:{}", target.display());
        if !flags.is_empty() {
            text.push_str(&format!(", flags: 0x{:x}", flags.bits()));
        }
        if !data.is_empty() {
            text.push_str(&format!(", data: {}", without_passwords(&data)));
        }
        text
    };
    let words = CString::new(data.as_str())
        .map_err(|error| Error::invalid("an option of the volume holds a zero byte").because(error))?;
    let change = || -> Result<(), Errno> {
        for (propagation, recursive) in &propagation {
            let recursive =
                if *recursive { MountPropagationFlags::REC } else { MountPropagationFlags::empty() };
            mount_change(target, *propagation | recursive)?;
        }
        // The kernel takes no other flag together with a bind.
        let rest = flags.difference(MountFlags::BIND | MountFlags::REC);
        match flags.contains(MountFlags::BIND) && !rest.is_empty() {
            true => mount_remount(target, MountFlags::BIND | rest, c""),
            false => Ok(()),
        }
    };
    let mounted = mount_at(device.as_str(), target, kind, flags, Some(words.as_c_str())).and_then(|()| {
        let changed = change();
        if changed.is_err() {
            let _ = unmount(target, UnmountFlags::DETACH);
        }
        changed
    });
    mounted.map_err(|errno| {
        let mut reason = errno_text(errno);
        if errno == Errno::NODEV && !is_known_to_the_kernel(kind) {
            reason.push_str(&format!(" (this kernel has no file system {kind:?})"));
        }
        Error::system(format!("failed to mount local volume: mount {}: {reason}", shown()))
    })
}

/// `device` and `data` with the address of the server in the place of its name: the one in `addr=`, or that of a
/// cifs device.
fn with_addresses(kind: &str, device: &str, data: String) -> Result<(String, String)> {
    let resolve = |name: &str| -> Result<Option<String>> {
        if name.is_empty() || name.parse::<IpAddr>().is_ok() {
            return Ok(None);
        }
        let what = || format!("error resolving passed in network volume address: lookup {name}");
        let found = (name, 0).to_socket_addrs().context(what)?.next();
        found
            .map(|found| Some(found.ip().to_string()))
            .ok_or_else(|| Error::system(format!("{}: no such host", what())))
    };
    let named = data.split(',').find_map(|word| word.strip_prefix("addr=")).unwrap_or_default().to_owned();
    if !named.is_empty() {
        let data = match resolve(&named)? {
            Some(address) => {
                let word = |word: &str| match word.starts_with("addr=") {
                    true => format!("addr={address}"),
                    false => word.to_owned(),
                };
                data.split(',').map(word).collect::<Vec<_>>().join(",")
            }
            None => data,
        };
        return Ok((device.to_owned(), data));
    }
    let server = match device.strip_prefix("//") {
        Some(rest) if kind == "cifs" => rest.split(['/', ':']).next().unwrap_or_default(),
        _ => "",
    };
    match resolve(server)? {
        Some(address) => Ok((device.replacen(server, &address, 1), data)),
        None => Ok((device.to_owned(), data)),
    }
}

/// What a file system is told, as others may read it.
fn without_passwords(data: &str) -> String {
    let word = |word: &str| match word.split_once('=') {
        Some((name @ ("password" | "pass"), _)) => format!("{name}=********"),
        _ => word.to_owned(),
    };
    data.split(',').map(word).collect::<Vec<_>>().join(",")
}

fn is_known_to_the_kernel(kind: &str) -> bool {
    let all = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    all.lines().any(|line| line.split_whitespace().next_back() == Some(kind))
}

fn option<'a>(options: &'a Words, name: &str) -> &'a str {
    options.get(name).map_or("", String::as_str)
}

/// What `o` says.
struct Parsed {
    flags: MountFlags,
    /// How mounts spread, and whether that holds for the mounts below, too; in order.
    propagation: Vec<(MountPropagationFlags, bool)>,
    /// What the file system itself is told.
    data: String,
}

impl Parsed {
    fn of(text: &str) -> Result<Self> {
        let mut flags = MountFlags::empty();
        let mut propagation = Vec::new();
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
                "remount" => {
                    return Err(Error::new(
                        Kind::NotImplemented,
                        format!("the option {word:?} of a volume is not implemented"),
                    ));
                }
                other => {
                    match spreading(other) {
                        Some(kind) => propagation.push((kind, other.starts_with('r'))),
                        None => data.push(other),
                    }
                    continue;
                }
            };
            flags.set(flag, set);
        }
        Ok(Self { flags, propagation, data: data.join(",") })
    }
}

fn spreading(word: &str) -> Option<MountPropagationFlags> {
    Some(match word.strip_prefix('r').unwrap_or(word) {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    })
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
        check(Some(&options(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=1.2.3.4")]))).unwrap();
        check(None).unwrap();
        check(Some(&options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]))).unwrap();
    }

    #[test]
    fn words_are_flags_or_the_file_systems() {
        let Parsed { flags, propagation, data } = Parsed::of("size=1m,ro,nodev,uid=5,rw,rshared").unwrap();
        assert_eq!((flags, data.as_str()), (MountFlags::NODEV, "size=1m,uid=5"));
        assert_eq!(propagation, [(MountPropagationFlags::SHARED, true)]);
        assert!(Parsed::of("bind,remount").is_err());
        let nowhere = options(&[("type", "none"), ("device", "/no/such/folder"), ("o", "bind")]);
        let error = mount(&nowhere, Path::new("/no/such/target")).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "failed to mount local volume: mount /no/such/folder:/no/such/target, flags: 0x1000: "
            ),
            "{error}"
        );
    }

    #[test]
    fn servers_are_named_or_numbered() {
        let with = |kind: &str, device: &str, data: &str| {
            with_addresses(kind, device, data.to_owned()).map_err(|error| error.to_string())
        };
        let same = |device: &str, data: &str| Ok((device.to_owned(), data.to_owned()));
        assert_eq!(with("nfs", ":/x", "addr=1.2.3.4,ro"), same(":/x", "addr=1.2.3.4,ro"));
        assert_eq!(with("nfs", "fe80::1:/x", "addr=fe80::1"), same("fe80::1:/x", "addr=fe80::1"));
        assert_eq!(with("nfs", "/x", "soft"), same("/x", "soft"));
        assert_eq!(with("cifs", "//1.2.3.4/x", "vers=3"), same("//1.2.3.4/x", "vers=3"));
        let (_, data) = with("nfs", ":/x", "mountaddr=localhost,addr=localhost").unwrap();
        let both = ["127.0.0.1", "::1"].map(|address| format!("mountaddr=localhost,addr={address}"));
        assert!(both.contains(&data), "{data}");
        let (device, _) = with("cifs", "//localhost/localhost", "").unwrap();
        assert!(matches!(device.as_str(), "//127.0.0.1/localhost" | "//::1/localhost"), "{device}");
        let error = with("nfs", ":/x", "addr=no.such.host.invalid").unwrap_err();
        let words = "error resolving passed in network volume address: lookup no.such.host.invalid: ";
        assert!(error.starts_with(words), "{error}");
    }

    #[test]
    fn passwords_are_not_told() {
        assert_eq!(
            without_passwords("user=a,password=b=c,ro,pass=d"),
            "user=a,password=********,ro,pass=********"
        );
        let share = options(&[("type", "nosuchfs"), ("device", "//x/y"), ("o", "password=secret")]);
        let error = mount(&share, Path::new("/tmp")).unwrap_err().to_string();
        assert!(
            !error.contains("secret") && error.contains("(this kernel has no file system \"nosuchfs\")"),
            "{error}"
        );
    }
}
