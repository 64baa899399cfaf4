//! Whether `docs/api.md` and the engine's route tables name the same routes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::paths;

const TABLE: &str = "docs/api.md";
const ROUTES: &str = "crates/engine/src/api";

/// The last part of a route that takes every path below it: an image's name may have slashes.
const REST: &str = "{*}";

/// What `axum` calls the methods that routes are given for.
const METHODS: &[&str] = &["get", "post", "put", "delete", "head"];

pub(super) fn check() -> Result<()> {
    let root = paths::root();
    let table = fs::read_to_string(root.join(TABLE)).with_context(|| format!("reading {TABLE}"))?;
    let mut served = BTreeSet::new();
    read_routes(&root.join(ROUTES), &mut served)?;
    super::report(&findings(&documented(&table), &served))
}

fn read_routes(folder: &Path, served: &mut BTreeSet<String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            read_routes(&path, served)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            served.extend(routes(&text));
        }
    }
    Ok(())
}

fn findings(documented: &BTreeSet<String>, served: &BTreeSet<String>) -> Vec<String> {
    let missing = served
        .iter()
        .filter(|route| !documented.iter().any(|row| serves(route, row)))
        .map(|route| format!("{route}: has no row in {TABLE}"));
    let gone = documented
        .iter()
        .filter(|row| !served.iter().any(|route| serves(route, row)))
        .map(|row| format!("{row}: has a row in {TABLE}, but no route"));
    missing.chain(gone).collect()
}

/// Whether a route of the engine answers what a row documents. A route that ends in [`REST`] answers every path below;
/// a HEAD request is answered by the GET route unless there is one of its own.
fn serves(route: &str, row: &str) -> bool {
    let answers = |row: &str| match route.strip_suffix(REST) {
        Some(above) => row.starts_with(above),
        None => route == row,
    };
    answers(row) || row.strip_prefix("HEAD ").is_some_and(|path| answers(&format!("GET {path}")))
}

/// The routes of a table whose rows begin with `` | `METHOD /path` | ``. Rows for whole families of paths name no
/// method, and are left out.
fn documented(table: &str) -> BTreeSet<String> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .filter_map(|(route, _)| route.split_once(' '))
        .map(|(method, path)| format!("{method} {}", without_names(path)))
        .collect()
}

/// The routes that source text gives to `axum` as `.route("/path", get(…).post(…))`.
fn routes(source: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for call in source.split(".route(").skip(1) {
        let Some((path, handlers)) =
            call.trim_start().strip_prefix('"').and_then(|rest| rest.split_once('"'))
        else {
            continue;
        };
        let handlers = until_closed(handlers);
        for method in METHODS {
            if names_method(handlers, method) {
                found.insert(format!("{} {}", method.to_uppercase(), without_names(path)));
            }
        }
    }
    found
}

/// `text` up to the parenthesis that closes one opened before it.
fn until_closed(text: &str) -> &str {
    let mut open = 1;
    let end = text.char_indices().find(|(_, character)| {
        match character {
            '(' => open += 1,
            ')' => open -= 1,
            _ => {}
        }
        open == 0
    });
    end.map_or(text, |(end, _)| &text[..end])
}

fn names_method(handlers: &str, method: &str) -> bool {
    handlers.match_indices(&format!("{method}(")).any(|(at, _)| {
        let before = handlers[..at].chars().next_back();
        before.is_none_or(|character| !character.is_alphanumeric() && character != '_')
    })
}

/// A path with its parameters' names taken out: `/images/{}/json`.
fn without_names(path: &str) -> String {
    let unnamed = |part| match part {
        part if str::starts_with(part, "{*") => REST,
        part if part.starts_with('{') && part.ends_with('}') => "{}",
        part => part,
    };
    path.split('/').map(unnamed).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(routes: &[&str]) -> BTreeSet<String> {
        routes.iter().map(|route| (*route).to_owned()).collect()
    }

    #[test]
    fn routes_are_read_from_source() {
        let source = r#"
            .route("/networks/{name}", get(inspect).delete(|| not_yet("rm")))
            .route(
                "/images/{*rest}",
                post(target(x)),
            )
            .route(&format!("/{resource}"), any(no_swarm))"#;
        assert_eq!(routes(source), set(&["GET /networks/{}", "DELETE /networks/{}", "POST /images/{*}"]));
    }

    #[test]
    fn a_route_for_all_paths_below_serves_their_rows() {
        let served = set(&["GET /images/{*}"]);
        assert_eq!(
            findings(&set(&["GET /images/{}/json", "HEAD /images/{}"]), &served),
            Vec::<String>::new()
        );
        assert_eq!(findings(&set(&["POST /images/{}/tag"]), &served).len(), 2);
    }

    #[test]
    fn a_route_without_a_row_and_a_row_without_a_route_are_found() {
        let table =
            "| route | state |\n| `GET /info` | yes |\n| `GET /gone/{id}` | yes |\n| `/swarm` | no |\n";
        let found = findings(&documented(table), &set(&["GET /info", "GET /new"]));
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("GET /new: has no row"), "{found:?}");
        assert!(found[1].starts_with("GET /gone/{}: has a row"), "{found:?}");
    }
}
