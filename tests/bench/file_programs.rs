//! Other people's programs that work on files, in a guest: git, and npm with a small real project.
//!
//! They and their libraries come along with the worker, under the folder `base`; what npm installs comes from a cache beside it,
//! so that no network is measured.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::archive::Tar;
use tests::process::find;
use tests::programs::libraries;

/// Names the folder with `project/` (`package.json`, `package-lock.json`) and `cache/`.
const NPM_PROJECT: &str = "CORACLE_NPM_PROJECT";

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// npm's own program, from where the command `npm` leads.
const NPM: &str = "npm/bin/npm-cli.js";

/// Files of the repository, in folders of so many.
const FILES: usize = 5000;
const IN_FOLDER: usize = 50;

/// Adds git, node, npm and the project.
pub(crate) fn add(mut tar: Tar) -> Result<Tar> {
    for name in ["git", "node"] {
        let program = find(name)?;
        tar = tar.file(name, 0o755, &read(&program)?)?;
        for library in libraries(&program)? {
            let library = Path::new(&library);
            let file =
                library.file_name().and_then(|file| file.to_str()).context("a library without a name")?;
            tar = tar.file(&format!("{LIBRARIES}/{file}"), 0o755, &read(library)?)?;
        }
    }
    let npm = find("npm")?.canonicalize()?;
    let npm = npm.ancestors().nth(2).context("npm is not where it usually is")?;
    tar = add_folder(tar, npm, "npm")?;
    let project = std::env::var_os(NPM_PROJECT).context("CORACLE_NPM_PROJECT is not set")?;
    for part in ["project", "cache"] {
        tar = add_folder(tar, &Path::new(&project).join(part), &format!("npm-{part}"))?;
    }
    Ok(tar)
}

fn add_folder(mut tar: Tar, folder: &Path, name: &str) -> Result<Tar> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let inner = format!("{name}/{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            tar = add_folder(tar, &entry.path(), &inner)?;
        } else if kind.is_file() {
            tar = tar.file(&inner, 0o644, &read(&entry.path())?)?;
        }
    }
    Ok(tar)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// A program of those added, or of this machine without a base.
fn program(base: Option<&Path>, name: &str) -> Command {
    let Some(base) = base else { return Command::new(name) };
    let mut command = Command::new(base.join(LOADER));
    command.arg("--library-path").arg(base.join(LIBRARIES)).arg(base.join(name));
    command
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {text}", output.status);
    Ok(())
}

fn git(base: Option<&Path>, repository: &Path, arguments: &[&str]) -> Result<()> {
    let settings = ["safe.directory=*", "gc.auto=0", "user.name=bench", "user.email=bench@test"];
    let mut command = program(base, "git");
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nowhere").current_dir(repository);
    command.args(settings.iter().flat_map(|setting| ["-c", setting])).args(arguments);
    succeed(&mut command)
}

/// Makes a repository in `folder`.
pub(crate) fn repository(base: Option<&Path>, folder: &Path) -> Result<()> {
    for number in 0..FILES {
        let inner = folder.join((number / IN_FOLDER).to_string());
        if number % IN_FOLDER == 0 {
            fs::create_dir_all(&inner)?;
        }
        fs::write(inner.join(format!("{number}.txt")), format!("line of file {number}\n").repeat(20))?;
    }
    for arguments in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "-m", "all"]] {
        git(base, folder, arguments)?;
    }
    Ok(())
}

/// `git status`, which writes down what it has seen for the next time.
pub(crate) fn status(base: &Path, repository: &Path) -> Result<()> {
    git(Some(base), repository, &["status", "--porcelain"])
}

/// Puts the project where `npm ci` is to run.
pub(crate) fn project(base: &Path, folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(base.join("npm-project").join(file), folder.join(file))?;
    }
    Ok(())
}

/// `npm ci`, which removes what it installed before.
pub(crate) fn install(base: &Path, project: &Path) -> Result<()> {
    let mut npm = program(Some(base), "node");
    npm.arg(base.join(NPM)).args([
        "ci",
        "--offline",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--cache",
    ]);
    npm.arg(base.join("npm-cache")).current_dir(project).env("HOME", base);
    succeed(&mut npm)
}
