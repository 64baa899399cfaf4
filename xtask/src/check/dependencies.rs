//! Which crate of ours may depend on which. The table is the architecture: nothing on the host links the engine, and
//! nothing in the guest links the host.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::build::cargo;
use crate::command;

/// A crate, and the crates of ours that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("vmm", &[]),
    ("fuzzing", &[]),
    ("usernet", &["fuzzing"]),
    ("fileserver", &["fuzzing", "vmm"]),
    ("engine", &["wire"]),
    ("coracle-agent", &["engine", "wire"]),
    ("coracle", &["fileserver", "usernet", "vmm", "wire"]),
    // Links neither the virtual machine nor the engine: it starts `coracle` and talks to sockets.
    ("coracle-app", &["wire"]),
    // These two drive finished programs over their sockets and command lines.
    ("tests", &[]),
    ("xtask", &[]),
];

pub(super) fn check() -> Result<()> {
    let text = command::output(cargo("metadata").args(["--no-deps", "--format-version", "1", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&text).context("reading the output of `cargo metadata`")?;
    super::report(&findings(&crates(&metadata)?))
}

/// Each crate of the workspace with all its dependencies of every kind.
fn crates(metadata: &Value) -> Result<Vec<(String, Vec<String>)>> {
    let packages = metadata["packages"].as_array().context("`cargo metadata` lists no packages")?;
    let name = |value: &Value| value["name"].as_str().map(str::to_owned);
    packages
        .iter()
        .map(|package| {
            let dependencies =
                package["dependencies"].as_array().context("a package has no list of dependencies")?;
            let names = dependencies.iter().filter_map(name).collect();
            Ok((name(package).context("a package has no name")?, names))
        })
        .collect()
}

fn findings(crates: &[(String, Vec<String>)]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, dependencies) in crates {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            found.push(format!("crate {name} is not in the table of xtask/src/check/dependencies.rs"));
            continue;
        };
        for dependency in dependencies {
            let ours = crates.iter().any(|(other, _)| other == dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                found.push(format!("crate {name} must not depend on {dependency}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crates_of(table: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        table.iter().map(|(name, dependencies)| ((*name).to_owned(), owned(dependencies))).collect()
    }

    #[test]
    fn the_table_allows_what_it_lists_and_crates_of_others() {
        assert!(findings(&crates_of(&[("wire", &["serde"]), ("engine", &["wire", "tokio"])])).is_empty());
    }

    #[test]
    fn a_forbidden_dependency_and_an_unknown_crate_are_found() {
        let found = findings(&crates_of(&[("engine", &[]), ("coracle", &["engine"]), ("extra", &[])]));
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("coracle must not depend on engine"));
        assert!(found[1].contains("extra"));
    }

    #[test]
    fn development_dependencies_count() {
        let metadata = serde_json::json!({"packages": [
            {"name": "wire", "dependencies": []},
            {"name": "vmm", "dependencies": [{"name": "wire", "kind": "dev"}]},
        ]});
        assert_eq!(findings(&crates(&metadata).unwrap()), ["crate vmm must not depend on wire"]);
    }
}
