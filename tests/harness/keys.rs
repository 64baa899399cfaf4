//! Which fields a JSON answer has. The reference implementation's fields are stored as snapshots; every engine is
//! compared with them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::engine::Kind;

/// Set to `dockerd` to write the snapshots anew from what it answers.
pub const REWRITE: &str = "CORACLE_REWRITE_SNAPSHOTS";

/// Objects whose keys are the user's own words: labels, networks, ports …
const OPEN: &[&str] = &[
    "Annotations",
    "Config.ExposedPorts",
    "Config.Labels",
    "Config.Volumes",
    "GraphDriver.Data",
    "HostConfig.Annotations",
    "HostConfig.PortBindings",
    "HostConfig.Sysctls",
    "HostConfig.Tmpfs",
    "Labels",
    "NetworkSettings.Networks",
    "NetworkSettings.Ports",
    "Options",
    "Containers",
    "Runtimes",
    "RegistryConfig.IndexConfigs",
];

/// The path of each field in `value`: `HostConfig.Memory`, `Mounts[].Type`, `Config.Labels.*`.
#[must_use]
pub fn of(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(value, "", &mut found);
    found
}

fn collect(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let name = if OPEN.contains(&path.trim_start_matches("[].")) { "*" } else { name };
                let inner_path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                found.insert(inner_path.clone());
                collect(inner, &inner_path, found);
            }
        }
        Value::Array(items) => {
            let path = format!("{path}[]");
            items.iter().for_each(|item| collect(item, &path, found));
        }
        _ => {}
    }
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots").join(format!("{name}.keys"))
}

/// Compares the fields of `value` with the snapshot `name`. Fields in `not_ours` are those that our engine is known to
/// lack: it must lack them, so that the list is shortened when it gains one.
pub fn compare(kind: Kind, name: &str, value: &Value, not_ours: &[&str]) -> Result<()> {
    let file = file(name);
    let found = of(value);
    if kind == Kind::Dockerd && std::env::var_os(REWRITE).is_some_and(|wanted| wanted == "dockerd") {
        let text: String = found.iter().map(|key| format!("{key}\n")).collect();
        return std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()));
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let mut expected: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    if kind != Kind::Dockerd {
        for key in not_ours {
            if !expected.remove(*key) {
                bail!("{key} is listed as missing, but dockerd does not have it in {name}");
            }
        }
    }
    let list = |keys: Vec<&String>| keys.into_iter().map(|key| format!("\n  {key}")).collect::<String>();
    let missing = list(expected.difference(&found).collect());
    let unknown = list(found.difference(&expected).collect());
    if missing.is_empty() && unknown.is_empty() {
        return Ok(());
    }
    bail!(
        "the fields of {name} differ from those in {}\nmissing:{missing}\nunknown:{unknown}",
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_name_fields_and_not_the_users_words() {
        let keys =
            of(&json!({"Config": {"Labels": {"mine": "1"}}, "Mounts": [{"Type": "bind"}, {"Type": "x"}]}));
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        assert_eq!(keys, ["Config", "Config.Labels", "Config.Labels.*", "Mounts", "Mounts[].Type"]);
    }
}
