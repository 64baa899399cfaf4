//! Docker's own engine, unpacked beside the machine's packages, for tests and measurements to compare with.
//!
//! The packages are those of Debian sid, where versions float: the newest 28.x is taken, and when sid has moved on,
//! what it has instead, which is said. Nothing is installed. All programs run on an older Debian as they are except
//! runc, which wants a newer C library: its copy here is pointed to the one unpacked beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::debian::{self, Suite};
use crate::{command, paths};

/// What is unpacked: the engine and what it starts, the clients, and a registry to pull from.
const PACKAGES: &[(&str, &str)] = &[
    ("docker.io", "28.*"),
    ("docker-cli", "28.*"),
    ("docker-buildx", "0.*"),
    ("docker-compose", "2.*"),
    ("containerd", "2.*"),
    ("runc", "1.*"),
    ("tini-static", "0.*"),
    ("docker-registry", "2.*"),
    ("libc6", "2.*"),
    ("libseccomp2", "2.*"),
];

/// Programs by the name they are called by, and where the packages keep them.
const PROGRAMS: &[(&str, &str)] = &[
    ("dockerd", "usr/sbin/dockerd"),
    ("docker-proxy", "usr/sbin/docker-proxy"),
    ("docker-init", "usr/bin/tini-static"),
    ("containerd", "usr/bin/containerd"),
    ("containerd-shim-runc-v2", "usr/bin/containerd-shim-runc-v2"),
    ("docker", "usr/bin/docker"),
    ("docker-registry", "usr/bin/docker-registry"),
];

/// Where the packages keep the libraries that runc gets, and the loader among them.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Where the packages keep the plugins of the docker client.
const PLUGINS: &str = "usr/libexec/docker/cli-plugins";

/// The unpacked peer.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Holds `bin/` (dockerd, runc, docker, docker-registry …) and `cli-plugins/` (buildx, compose).
    pub(crate) folder: PathBuf,
}

/// Downloads and prepares the peer unless it is there already.
pub(crate) fn ensure() -> Result<Peer> {
    let home = paths::cache()?.join("peer");
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    let packages = home.join("packages");
    debian::download_unpacked(Suite::Sid, PACKAGES, &packages)?;

    // The programs are links into `packages`, so a new set of packages needs only a new runc.
    let folder = home.join("tools");
    let stamp = folder.join(".made-from");
    let made_from = format!("{:?}", modified(&packages)?);
    if !fs::read_to_string(&stamp).is_ok_and(|found| found == made_from) {
        let draft = home.join(format!(".tools.{}", std::process::id()));
        paths::remove_folder(&draft)?;
        assemble(&packages, &draft).context("preparing dockerd and its companions")?;
        paths::publish(&draft.join(".made-from"), made_from.as_bytes())?;
        paths::remove_folder(&folder)?;
        fs::rename(&draft, &folder).with_context(|| format!("moving {} into place", folder.display()))?;
    }
    Ok(Peer { folder })
}

fn modified(folder: &Path) -> Result<std::time::SystemTime> {
    fs::metadata(folder)
        .and_then(|data| data.modified())
        .with_context(|| format!("reading {}", folder.display()))
}

fn assemble(packages: &Path, dest: &Path) -> Result<()> {
    let bin = dest.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("creating {}", bin.display()))?;
    for (name, place) in PROGRAMS {
        let program = packages.join(place);
        anyhow::ensure!(program.is_file(), "the package that should hold {place} does not");
        symlink(&program, bin.join(name)).with_context(|| format!("linking {name}"))?;
    }
    symlink(packages.join(PLUGINS), dest.join("cli-plugins"))
        .context("linking the plugins of the docker client")?;

    with_its_library(packages, "usr/sbin/runc", &bin.join("runc"))
}

/// Programs to measure ours beside, by their place in packages of Debian sid, and what they are to be called; the folder that
/// holds them. Downloads them unless they are there already.
pub(crate) fn tools(name: &str, packages: &[(&str, &str)], programs: &[(&str, &str)]) -> Result<PathBuf> {
    let home = paths::cache()?.join(name);
    let (unpacked, tools) = (home.join("packages"), home.join("tools"));
    fs::create_dir_all(&home).with_context(|| format!("creating {}", home.display()))?;
    debian::download_unpacked(Suite::Sid, packages, &unpacked)?;
    // Made anew each time: it takes a moment.
    let draft = home.join(format!(".tools.{}", std::process::id()));
    paths::remove_folder(&draft)?;
    fs::create_dir(&draft).with_context(|| format!("creating {}", draft.display()))?;
    for (place, called) in programs {
        with_its_library(&unpacked, place, &draft.join(called))?;
    }
    paths::remove_folder(&tools)?;
    fs::rename(&draft, &tools).with_context(|| format!("moving {} into place", tools.display()))?;
    Ok(tools)
}

/// Copies a program out of unpacked packages to `to`, and points it to the C library unpacked with it.
fn with_its_library(packages: &Path, place: &str, to: &Path) -> Result<()> {
    let libraries = packages.join(LIBRARIES);
    fs::copy(packages.join(place), to).with_context(|| format!("copying {place}"))?;
    command::output(
        Command::new("patchelf")
            .arg("--set-interpreter")
            .arg(libraries.join(LOADER))
            .arg("--set-rpath")
            .arg(&libraries)
            .arg(to),
    )
    .with_context(|| format!("pointing {place} to the C library unpacked with it"))?;
    command::output(Command::new(to).arg("--version"))
        .with_context(|| format!("the prepared {place} does not run"))?;
    Ok(())
}
