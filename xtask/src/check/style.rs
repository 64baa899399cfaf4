//! Rules for source files that no lint knows. Each rule looks at one file's path and text.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::paths;

/// Lines of a file before its tests.
const LONGEST_FILE: usize = 900;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "manager"];

/// The only folders that may ask which operating system they are built for.
const PLATFORM_FOLDERS: &[&str] = &["sys", "hypervisor", "passthrough", "platform"];

/// The one file of the tests that waits for a condition, and has to pause between two looks.
const WAITING_FILE: &str = "tests/harness/wait.rs";

/// A source file: its path below the project's root, and its text.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

type Rule = fn(&Source<'_>) -> Vec<String>;

const RULES: &[Rule] = &[
    telling_name,
    no_crate_wide_allow,
    no_unfinished_code,
    no_skipped_test,
    no_sleeping_test,
    one_idea,
    platform_in_its_place,
];

pub(super) fn check() -> Result<()> {
    let mut findings = Vec::new();
    for file in source_files()? {
        let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let path = file.strip_prefix(paths::root()).unwrap_or(&file);
        findings.extend(findings_in(&Source { path, text: &text }));
    }
    super::report(&findings)
}

fn findings_in(source: &Source<'_>) -> Vec<String> {
    RULES
        .iter()
        .flat_map(|rule| rule(source))
        .map(|finding| format!("{}{finding}", source.path.display()))
        .collect()
}

/// Every Rust file of the project, in the order of their paths.
fn source_files() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![paths::root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry.with_context(|| format!("reading {}", folder.display()))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type().with_context(|| format!("reading {}", entry.path().display()))?.is_dir() {
                if !name.starts_with('.') && !matches!(&*name, "target" | "node_modules") {
                    folders.push(entry.path());
                }
            } else if name.ends_with(".rs") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// `: line N: …` for every line that a rule objects to.
fn lines_with<'a>(
    text: impl Iterator<Item = (usize, &'a str)>,
    objection: &str,
    objects: impl Fn(&str) -> bool,
) -> Vec<String> {
    text.filter(|(_, line)| objects(line))
        .map(|(number, _)| format!(": line {number}: {objection}"))
        .collect()
}

/// The lines of a file, counted from 1, with comments and the insides of string literals taken out.
fn code<'a>(source: &'a Source<'_>) -> impl Iterator<Item = (usize, String)> + use<'a> {
    source.text.lines().enumerate().map(|(at, line)| (at + 1, without_text(line)))
}

/// Takes comments and string literals out of one line. A literal that spans lines is not followed; the rules look for
/// code that never stands alone in prose.
fn without_text(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' if quoted => {
                rest.next();
            }
            '"' => {
                quoted = !quoted;
                kept.push('"');
            }
            '/' if !quoted && rest.peek() == Some(&'/') => break,
            _ if quoted => {}
            _ => kept.push(c),
        }
    }
    kept
}

fn find_code(source: &Source<'_>, objection: &str, objects: impl Fn(&str) -> bool) -> Vec<String> {
    let lines: Vec<(usize, String)> = code(source).collect();
    lines_with(lines.iter().map(|(number, line)| (*number, line.as_str())), objection, objects)
}

/// The number of the line where the file's own tests begin; one past its end when it has none.
fn tests_begin(source: &Source<'_>) -> usize {
    let total = source.text.lines().count();
    source.text.lines().position(|line| line == "#[cfg(test)]").map_or(total + 1, |at| at + 1)
}

/// Whether a line of code calls a function of this name, and not one whose name merely ends with it.
fn calls(line: &str, function: &str) -> bool {
    line.match_indices(function).any(|(at, found)| {
        let before = line[..at].chars().next_back();
        line[at + found.len()..].starts_with('(') && !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn is_test_file(path: &Path) -> bool {
    path.starts_with("tests")
}

fn telling_name(source: &Source<'_>) -> Vec<String> {
    let stems = source.path.components().filter_map(|part| Path::new(part.as_os_str()).file_stem()?.to_str());
    stems
        .filter(|stem| EMPTY_NAMES.contains(stem))
        .map(|stem| format!(": the name `{stem}` says nothing"))
        .collect()
}

fn no_crate_wide_allow(source: &Source<'_>) -> Vec<String> {
    find_code(source, "expect a lint where it is needed and give the reason, do not allow it", |line| {
        line.contains("#![allow") || line.contains("#[allow(")
    })
}

fn no_unfinished_code(source: &Source<'_>) -> Vec<String> {
    find_code(source, "unfinished code", |line| line.contains("todo!(") || line.contains("unimplemented!("))
}

fn no_skipped_test(source: &Source<'_>) -> Vec<String> {
    find_code(source, "a test that never runs: print SKIP with the reason instead", |line| {
        line.contains("#[ignore")
    })
}

fn no_sleeping_test(source: &Source<'_>) -> Vec<String> {
    if source.path == Path::new(WAITING_FILE) {
        return Vec::new();
    }
    let first = if is_test_file(source.path) { 1 } else { tests_begin(source) };
    let lines: Vec<(usize, String)> = code(source).filter(|(number, _)| *number >= first).collect();
    lines_with(
        lines.iter().map(|(number, line)| (*number, line.as_str())),
        "a test waits for a condition",
        |line| calls(line, "sleep"),
    )
}

fn one_idea(source: &Source<'_>) -> Vec<String> {
    let lines = tests_begin(source) - 1;
    if lines <= LONGEST_FILE {
        return Vec::new();
    }
    vec![format!(": {lines} lines before its tests; {LONGEST_FILE} hold one idea")]
}

fn platform_in_its_place(source: &Source<'_>) -> Vec<String> {
    let parts = source.path.components().filter_map(|part| Path::new(part.as_os_str()).file_stem()?.to_str());
    if parts.into_iter().any(|part| PLATFORM_FOLDERS.contains(&part)) {
        return Vec::new();
    }
    find_code(source, "only sys, hypervisor, passthrough and platform ask for the operating system", |line| {
        line.contains("cfg") && line.contains("target_os")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        findings_in(&Source { path: Path::new(path), text })
    }

    /// The rule objects to the text in `bad`, and to nothing in `good`.
    fn assert_rule(bad: (&str, &str), says: &str, good: &[(&str, &str)]) {
        let findings = found(bad.0, bad.1);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].contains(says), "{findings:?}");
        for (path, text) in good {
            assert_eq!(found(path, text), Vec::<String>::new());
        }
    }

    #[test]
    fn names_tell() {
        assert_rule(("crates/x/src/utils.rs", ""), "`utils`", &[("crates/x/src/utilisation.rs", "")]);
        assert_eq!(found("crates/x/src/common/mod.rs", "").len(), 1);
    }

    #[test]
    fn lints_are_expected_and_not_allowed() {
        let bad = ("crates/x/src/lib.rs", "//! x\n#![allow(dead_code)]\n");
        assert_rule(
            bad,
            "line 2",
            &[("crates/x/src/lib.rs", "#[expect(dead_code, reason = \"why\")]\nfn f() {}\n")],
        );
    }

    #[test]
    fn code_is_finished() {
        let good = [("a.rs", "// todo!() is forbidden\n"), ("a.rs", "let text = \"todo!(\";\n")];
        assert_rule(("a.rs", "fn f() { todo!() }\n"), "unfinished", &good);
        assert_eq!(found("a.rs", "fn f() { unimplemented!(\"later\") }\n").len(), 1);
    }

    #[test]
    fn tests_run() {
        assert_rule(
            ("a.rs", "#[test]\n#[ignore]\nfn t() {}\n"),
            "never runs",
            &[("a.rs", "/// #[ignore] is refused\n")],
        );
    }

    #[test]
    fn tests_do_not_sleep() {
        let bad = ("a.rs", "fn f() { sleep(1) }\n#[cfg(test)]\nmod tests { fn t() { sleep(2) } }\n");
        let good = [
            ("a.rs", "fn f() { sleep(1) }\n"),
            (WAITING_FILE, "sleep(PAUSE);\n"),
            ("tests/docker/a.rs", "fn it_does_not_sleep() {}\n"),
            ("tests/docker/a.rs", "\"sleep(1)\"\n"),
        ];
        assert_rule(bad, "line 3", &good);
        assert_eq!(found("tests/docker/run.rs", "thread::sleep(Duration::from_secs(1));\n").len(), 1);
    }

    #[test]
    fn files_stay_short() {
        let long = "x();\n".repeat(LONGEST_FILE + 1);
        let tested = format!("{}#[cfg(test)]\n{long}", "x();\n".repeat(LONGEST_FILE));
        assert_rule(("a.rs", &long), "901 lines", &[("a.rs", &tested)]);
    }

    #[test]
    fn platforms_have_their_place() {
        let text = "#[cfg(target_os = \"linux\")]\nmod x;\n";
        assert_rule(
            ("crates/vmm/src/bus.rs", text),
            "operating system",
            &[("crates/vmm/src/sys/mod.rs", text)],
        );
    }
}
