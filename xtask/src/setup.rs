//! `cargo xtask setup`: what has to be on the machine before anything can be built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::debian::{self, Suite};
use crate::terminal::{Stage, say};
use crate::{app, command, paths};

/// What may be said after `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Say what would be installed, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// A Debian package and the reason for which it is wanted.
struct Package {
    name: &'static str,
    why: &'static str,
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why }
}

/// The package that holds the sources of the guest's kernel.
pub(crate) const KERNEL_SOURCE: &str = "linux-source-6.12";

const PACKAGES: &[Package] = &[
    // The guest's kernel.
    package(KERNEL_SOURCE, "the source of the guest's kernel"),
    package("gcc", "compiles the guest's kernel and links Rust programs"),
    package("make", "builds the guest's kernel"),
    package("libc6-dev", "headers for the kernel's own build tools"),
    package("flex", "builds the kernel's configuration tools"),
    package("bison", "builds the kernel's configuration tools"),
    package("bc", "computes constants in the kernel's build"),
    package("libssl-dev", "header files for the kernel's certificate tool"),
    package("libelf-dev", "the kernel's objtool; linked into the guest's agent"),
    package("xz-utils", "unpacks the kernel's source"),
    package("patch", "applies our changes to the kernel's source"),
    // The guest's agent.
    package("libcap-ng-dev", "linked into the file server of a machine"),
    package("libseccomp-dev", "linked into the guest's agent: system call filters of containers"),
    package("zlib1g-dev", "linked into the guest's agent"),
    package("pkg-config", "finds the libraries that are linked"),
    // The guest's root file system.
    package("busybox-static", "the guest's shell and small tools"),
    package("e2fsprogs", "makes, checks and grows the guest's data disk"),
    package("erofs-utils", "makes the guest's root file system"),
    package("ca-certificates", "lets the guest trust public registries"),
    // Running a machine.
    package("qemu-system-x86", "runs the guest where hardware virtualisation is missing"),
    // The desktop app.
    package("libwebkit2gtk-4.1-dev", "the app's window"),
    package("libayatana-appindicator3-dev", "the app's icon in the tray"),
    // Tests of the app.
    package("xvfb", "a display for the app in tests"),
    package("webkit2gtk-driver", "drives the app's window in tests"),
    package("dbus", "a session bus for the app in tests"),
    package("chromium", "runs the interface's tests in a browser"),
    // Tests.
    package("iproute2", "private networks in tests"),
    package("iptables", "dockerd, which the tests compare with, needs it"),
    package("python3-venv", "runs docker-py's own tests against the engine"),
    package("patchelf", "lets runc of a newer Debian run here, for dockerd"),
    package("openssh-client", "an ssh-agent for the tests, and a program that asks it"),
    package("inotify-tools", "watches files in a container of the tests and of the demo"),
    package("util-linux", "private namespaces in tests"),
];

/// For the interface's build, where no Node.js was installed by other means: Debian's may be too old, which the build
/// says then.
const NODE: &[Package] = &[
    package("nodejs", "builds the app's interface"),
    package("npm", "fetches what the app's interface is made of"),
];

/// The oldest major version of the docker client that the tests are written for.
const DOCKER_MAJOR: u32 = 28;

/// Runs `cargo xtask setup`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let missing = missing_packages()?;
    if args.dry_run {
        for package in &missing {
            say(format_args!("would install {:<18} {}", package.name, package.why));
        }
        match existing_docker_client()? {
            Some(client) => say(format_args!("docker client: {}", client.display())),
            None => say(format_args!("would fetch a docker client, version {DOCKER_MAJOR}, from Debian sid")),
        }
        if missing.is_empty() {
            say("every Debian package that is needed is installed");
        }
        return Ok(());
    }
    ensure()?;
    say("setup: this machine has everything that is needed");
    Ok(())
}

/// Installs what is missing; fast and silent when nothing is.
pub(crate) fn ensure() -> Result<()> {
    let missing = missing_packages()?;
    if !missing.is_empty() {
        install(&missing)?;
    }
    docker_client()?;
    Ok(())
}

/// The real `docker` client, version 28 or later: the one on the `PATH`, else one fetched from Debian sid into the
/// cache.
pub(crate) fn docker_client() -> Result<PathBuf> {
    if let Some(client) = existing_docker_client()? {
        return Ok(client);
    }
    say(format_args!("  no docker client of version {DOCKER_MAJOR} or later on the PATH: fetching one"));
    let folder = fetched_docker_folder()?;
    debian::download_unpacked(Suite::Sid, &[("docker-cli", "28.*")], &folder)?;
    let client = folder.join("usr/bin/docker");
    let major = docker_major(&client);
    if major.is_none_or(|major| major < DOCKER_MAJOR) {
        bail!(
            "the docker client in {} does not run or is older than version {DOCKER_MAJOR}",
            client.display()
        );
    }
    Ok(client)
}

fn existing_docker_client() -> Result<Option<PathBuf>> {
    let fetched = fetched_docker_folder()?.join("usr/bin/docker");
    let candidates = [command::find("docker"), Some(fetched).filter(|client| client.is_file())];
    let recent = |client: &PathBuf| docker_major(client).is_some_and(|major| major >= DOCKER_MAJOR);
    Ok(candidates.into_iter().flatten().find(recent))
}

fn fetched_docker_folder() -> Result<PathBuf> {
    Ok(paths::cache()?.join("docker-cli"))
}

fn docker_major(client: &PathBuf) -> Option<u32> {
    let printed = command::output(Command::new(client).arg("--version")).ok()?;
    parse_docker_major(&printed)
}

/// `Docker version 28.5.2, build e6534b4` → 28.
fn parse_docker_major(printed: &str) -> Option<u32> {
    printed.strip_prefix("Docker version ")?.split('.').next()?.parse().ok()
}

fn missing_packages() -> Result<Vec<&'static Package>> {
    let node = if app::has_node() { &[] } else { NODE };
    if command::find("dpkg-query").is_none() {
        let names: Vec<&str> = PACKAGES.iter().map(|package| package.name).collect();
        bail!(
            "this machine has no dpkg-query, and only Debian is supported here; needed are: {}",
            names.join(" ")
        );
    }
    // Its exit status is 1 when it does not know one of the names, which is no error here.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f", "${Package} ${db:Status-Abbrev}\n"])
        .args(PACKAGES.iter().chain(node).map(|package| package.name))
        .output()
        .context("starting dpkg-query")?;
    let installed = installed_names(&String::from_utf8_lossy(&output.stdout));
    Ok(PACKAGES
        .iter()
        .chain(node)
        .filter(|package| !installed.iter().any(|name| name == package.name))
        .collect())
}

/// The names that dpkg reports as installed (`ii`), and not merely as known.
fn installed_names(table: &str) -> Vec<String> {
    let row = |line: &str| {
        let (name, state) = line.split_once(' ')?;
        (state.trim_end() == "ii").then(|| name.to_owned())
    };
    table.lines().filter_map(row).collect()
}

fn install(missing: &[&Package]) -> Result<()> {
    say("installing Debian packages:");
    for package in missing {
        say(format_args!("  {:<18} {}", package.name, package.why));
    }
    let log = paths::cache()?.join("setup.log");
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();

    let mut stage = Stage::begin("apt-get update");
    debian::retry("the machine's package lists", || {
        command::logged(apt_get()?.args(["-q", "update"]), &log, |line| stage.update(line))
    })?;
    stage.done("done");

    let mut stage = Stage::begin("apt-get install");
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut failed: Vec<String> = Vec::new();
        let mut install = apt_get()?;
        install
            .args(["-q", "-y", "--no-install-recommends", "-o", "Acquire::Retries=2", "install"])
            .args(&names);
        let result = command::logged(&mut install, &log, |line| {
            failed.extend(failed_download(line));
            stage.update(line);
        });
        match result {
            Ok(()) => break,
            Err(error) if failed.is_empty() || attempts == 3 => {
                return Err(error).context("installing packages");
            }
            Err(_) => {
                say(format_args!("  downloading {} failed (attempt {attempts} of 3)", failed.join(", ")))
            }
        }
    }
    stage.done(format_args!("{} packages", names.len()));
    Ok(())
}

/// apt-get that asks nothing and waits for another package manager to finish; through sudo when we are not root.
fn apt_get() -> Result<Command> {
    let root = command::output(Command::new("id").arg("-u"))? == "0";
    let mut command = Command::new("env");
    if !root {
        if command::find("sudo").is_none() {
            bail!("installing packages needs root: run `cargo xtask setup` as root, or install sudo");
        }
        command = Command::new("sudo");
        command.arg("env");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300"]);
    Ok(command)
}

/// The package in apt's line `E: Failed to fetch http://…/pool/…/name_version_arch.deb  …`.
fn failed_download(line: &str) -> Option<String> {
    let url = line.trim_start().strip_prefix("E: Failed to fetch ")?.split_whitespace().next()?;
    let file = url.rsplit('/').next()?;
    Some(file.split('_').next().unwrap_or(file).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_was_removed_counts_as_missing() {
        assert_eq!(installed_names("gcc ii \nflex rc \nbison un \nmake ii \n"), ["gcc", "make"]);
    }

    #[test]
    fn a_failed_download_is_named() {
        let line =
            "E: Failed to fetch http://m.test/debian/pool/main/b/bison/bison_3.8.2_amd64.deb  404  Not Found";
        assert_eq!(failed_download(line), Some("bison".to_owned()));
        assert_eq!(failed_download("Get:1 http://m.test bookworm InRelease"), None);
    }

    #[test]
    fn docker_versions() {
        assert_eq!(parse_docker_major("Docker version 28.5.2+dfsg4, build abc"), Some(28));
        assert_eq!(parse_docker_major("podman version 5.0"), None);
    }

    #[test]
    fn every_package_says_why() {
        for (at, package) in PACKAGES.iter().enumerate() {
            assert!(!package.why.is_empty(), "{}", package.name);
            assert!(PACKAGES[..at].iter().all(|other| other.name != package.name), "{} twice", package.name);
        }
    }
}
