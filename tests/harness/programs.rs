//! Programs of this machine in containers: they and their libraries are copied to a folder, which containers mount.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::find;
use crate::roles::own_binary;

/// Where a container has the folder.
pub const FOLDER: &str = "/programs";

/// The name in the folder of the harness's own binary.
pub const OWN: &str = "harness";

/// Copies a program of this machine, and the libraries that it needs, to `folder` unless it is there; [`OWN`] is the one that runs.
pub fn copy(name: &str, folder: &Path) -> Result<()> {
    if folder.join(name).exists() {
        // It may run by now.
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let program = if name == OWN { own_binary() } else { find(name)? };
    for library in libraries(&program)? {
        let library = Path::new(&library);
        copy_to(library, &folder.join(library.file_name().context("a library without a name")?))?;
    }
    copy_to(&program, &folder.join(name))
}

fn copy_to(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copying {}", from.display()))
}

/// The paths of the libraries that a program needs, its loader among them.
pub fn libraries(program: &Path) -> Result<Vec<String>> {
    let program = program.canonicalize()?;
    let listed = Command::new("ldd").arg(&program).output().context("running ldd")?;
    ensure!(listed.status.success(), "ldd {} failed", program.display());
    let listed = String::from_utf8(listed.stdout)?;
    Ok(listed.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

/// How a container's shell calls the program.
#[must_use]
pub fn call(name: &str) -> String {
    format!("{FOLDER}/ld-linux-x86-64.so.2 --library-path {FOLDER} {FOLDER}/{name}")
}
