//! The devices in a container, and which of the machine's it may use.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use wire::docker::host_config::{HostConfig, ThrottleDevice, WeightDevice};

use crate::error::{Context, Error, Result};

/// How deep directories of devices are searched.
const MAX_DEPTH: usize = 8;

/// Nodes to make (`linux.devices`), and rules (`linux.resources.devices`), as OCI JSON.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Devices {
    pub(super) nodes: Vec<Value>,
    pub(super) rules: Vec<Value>,
}

impl Devices {
    /// What `--device`, `--device-cgroup-rule` and `--privileged` ask for.
    ///
    /// # Errors
    /// Paths that are no devices and rules that are none, in Docker's words.
    pub(super) fn of(host: &HostConfig) -> Result<Self> {
        let mut devices = Self::default();
        if host.privileged {
            devices.rules.push(json!({ "allow": true, "access": "rwm" }));
            for (path, device) in found_below(Path::new("/dev"), MAX_DEPTH) {
                devices.nodes.push(device.node(&path));
            }
        } else {
            devices.rules.extend(default_rules());
        }
        for mapping in &host.resources.devices {
            if host.privileged && mapping.path_on_host == mapping.path_in_container {
                continue;
            }
            let access = Some(mapping.cgroup_permissions.as_str()).filter(|access| !access.is_empty());
            let access = access.unwrap_or("rwm");
            if !access.chars().all(|letter| "rwm".contains(letter)) {
                return Err(Error::invalid(format!("invalid device mode: {access}")));
            }
            for (path, device) in mapped(&mapping.path_on_host, &mapping.path_in_container)? {
                if !path.starts_with("/dev") {
                    return Err(Error::not_implemented(format!(
                        "--device to a path outside of /dev ({}) is not implemented",
                        path.display()
                    )));
                }
                // One named twice is made once.
                let name = json!(path);
                devices.nodes.retain(|node| node.get("path") != Some(&name));
                devices.nodes.push(device.node(&path));
                if !host.privileged {
                    devices.rules.push(device.rule(access));
                }
            }
        }
        if !host.privileged {
            for rule in host.resources.device_cgroup_rules.iter().flatten() {
                devices.rules.push(parse_rule(rule)?);
            }
        }
        Ok(devices)
    }
}

/// Nothing but zero, null, urandom, random, tty, console; not fuse.
fn default_rules() -> Vec<Value> {
    let rule = |allow: bool, major: i64, minor: i64| json!({ "allow": allow, "type": "c", "major": major, "minor": minor, "access": "rwm" });
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    rules.extend(
        [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)].map(|(major, minor)| rule(true, major, minor)),
    );
    rules.push(rule(false, 10, 229));
    rules
}

/// `TYPE MAJOR:MINOR ACCESS`.
fn parse_rule(text: &str) -> Result<Value> {
    let unusable = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split(' ');
    let (Some(kind), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(unusable());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(unusable)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse::<i64>().map(Some).map_err(|_| unusable())
        }
        _ => Err(unusable()),
    };
    let letters =
        !access.is_empty() && access.len() <= 3 && access.chars().all(|letter| "rwm".contains(letter));
    if !matches!(kind, "a" | "b" | "c") || !letters {
        return Err(unusable());
    }
    let mut rule = json!({ "allow": true, "type": kind, "access": access });
    for (name, value) in [("major", number(major)?), ("minor", number(minor)?)] {
        if let (Some(value), Some(fields)) = (value, rule.as_object_mut()) {
            fields.insert(name.to_owned(), json!(value));
        }
    }
    Ok(rule)
}

/// A device node of the machine.
#[derive(Debug)]
struct Device {
    kind: &'static str,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Device {
    fn at(path: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(path).ok()?;
        let kind = if found.file_type().is_char_device() {
            "c"
        } else if found.file_type().is_block_device() {
            "b"
        } else {
            return None;
        };
        Some(Self {
            kind,
            major: rustix::fs::major(found.rdev()),
            minor: rustix::fs::minor(found.rdev()),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
        })
    }

    fn node(&self, path: &Path) -> Value {
        json!({
            "path": path, "type": self.kind, "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }

    fn rule(&self, access: &str) -> Value {
        json!({ "allow": true, "type": self.kind, "major": self.major, "minor": self.minor, "access": access })
    }
}

/// The device, or all in the directory, that `source` is, under their paths in the container.
fn mapped(source: &str, destination: &str) -> Result<Vec<(PathBuf, Device)>> {
    let failed = |reason: &str| {
        Error::system(format!(
            "error gathering device information while adding custom device {source:?}: {reason}"
        ))
    };
    let destination = if destination.is_empty() { source } else { destination };
    let resolved = fs::canonicalize(source).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed("no such file or directory"),
        _ => failed("not a device node").because(error),
    })?;
    if let Some(device) = Device::at(&resolved) {
        return Ok(vec![(destination.into(), device)]);
    }
    let found: Vec<(PathBuf, Device)> = found_below(&resolved, MAX_DEPTH)
        .into_iter()
        .filter_map(|(path, device)| {
            Some((Path::new(destination).join(path.strip_prefix(&resolved).ok()?), device))
        })
        .collect();
    if found.is_empty() { Err(failed("not a device node")) } else { Ok(found) }
}

/// Every device below a directory, but those that a container has of its own.
fn found_below(directory: &Path, depth: usize) -> Vec<(PathBuf, Device)> {
    const OWN: [&str; 8] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts", ".udev"];
    let mut found = Vec::new();
    let Some(depth) = depth.checked_sub(1) else { return found };
    let mut entries: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        if OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(found_below(&path, depth));
        } else if let Some(device) = Device::at(&path) {
            found.push((path, device));
        }
    }
    found
}

fn block_device(path: &str) -> Result<(u32, u32)> {
    let found = fs::metadata(path).context(|| format!("stat {path}"))?;
    Ok((rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())))
}

/// `--device-read-bps` and its like.
pub(super) fn throttle(devices: &[ThrottleDevice]) -> Result<Vec<Value>> {
    devices
        .iter()
        .map(|device| {
            let (major, minor) = block_device(&device.path)?;
            Ok(json!({ "major": major, "minor": minor, "rate": device.rate }))
        })
        .collect()
}

/// `--blkio-weight-device`.
pub(super) fn weights(devices: &[WeightDevice]) -> Result<Vec<Value>> {
    devices
        .iter()
        .map(|device| {
            let (major, minor) = block_device(&device.path)?;
            Ok(json!({ "major": major, "minor": minor, "weight": device.weight }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use wire::docker::host_config::{DeviceMapping, Resources};

    use super::*;

    fn with_devices(privileged: bool, devices: &[(&str, &str, &str)]) -> HostConfig {
        let devices = devices
            .iter()
            .map(|(host, container, access)| DeviceMapping {
                path_on_host: (*host).to_owned(),
                path_in_container: (*container).to_owned(),
                cgroup_permissions: (*access).to_owned(),
            })
            .collect();
        HostConfig {
            privileged,
            resources: Resources { devices, ..Resources::default() },
            ..HostConfig::default()
        }
    }

    #[test]
    fn a_device_is_made_and_allowed() {
        let devices = Devices::of(&with_devices(false, &[("/dev/null", "/dev/nothing", "rw")])).unwrap();
        assert_eq!(devices.nodes[0]["path"], "/dev/nothing");
        assert_eq!(devices.nodes[0]["minor"], 3);
        let last = devices.rules.last().unwrap();
        assert_eq!(*last, json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}));
        assert_eq!(devices.rules[0], json!({"allow": false, "access": "rwm"}));
    }

    #[test]
    fn unusable_devices_are_named() {
        let error = |path, to, access| {
            Devices::of(&with_devices(false, &[(path, to, access)])).unwrap_err().to_string()
        };
        assert_eq!(
            error("/dev/nosuch", "", "rwm"),
            "error gathering device information while adding custom device \"/dev/nosuch\": no such file or \
             directory"
        );
        assert!(error("/etc/passwd", "", "rwm").ends_with("not a device node"));
        assert!(error("/dev/null", "", "x").contains("invalid device mode: x"));
        assert!(error("/dev/null", "/null", "r").contains("outside of /dev"));
    }

    #[test]
    fn privileged_containers_have_the_machines_devices() {
        let devices = Devices::of(&with_devices(true, &[])).unwrap();
        assert_eq!(devices.rules, [json!({"allow": true, "access": "rwm"})]);
        let paths: Vec<&str> = devices.nodes.iter().filter_map(|node| node["path"].as_str()).collect();
        assert!(paths.contains(&"/dev/null"), "{paths:?}");
        assert!(!paths.iter().any(|path| path.starts_with("/dev/pts/")));
    }

    #[test]
    fn rules_are_read_as_in_docker() {
        let rule = parse_rule("c 10:* rw").unwrap();
        assert_eq!(rule, json!({"allow": true, "type": "c", "major": 10, "access": "rw"}));
        for text in ["", "c 1:2", "x 1:2 r", "c 1 r", "c 1:x r", "c 1:2 rwmr", "c 1:2 x", "c -1:2 r"] {
            let error = parse_rule(text).unwrap_err().to_string();
            assert_eq!(error, format!("invalid device cgroup rule format: '{text}'"));
        }
    }
}
