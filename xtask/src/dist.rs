//! `cargo xtask dist`: a Debian package with the app, the `coracle` command and the guest image, and a test of it.
//!
//! Everything lies in `/usr/lib/coracle`, as it does in `target/coracle`: the command finds the image, and the app the
//! command, beside itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::build::{self, Product};
use crate::terminal::say;
use crate::{app, command, paths, setup};

/// What may be said after `cargo xtask dist`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the app looks for updates, and whose signatures it trusts: a JSON file with `endpoint` and `key`
    #[arg(long, value_name = "FILE")]
    updates: Option<PathBuf>,
}

const NAME: &str = "coracle";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Where the product is in the package.
const PLACE: &str = "usr/lib/coracle";

/// What the package needs of Debian 12, each with what needs it. The test below compares it with the libraries that the
/// programs name.
const NEEDS: &[(&str, &[&str])] = &[
    ("libc6 (>= 2.36)", &["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"]),
    ("libgcc-s1", &["libgcc_s.so.1"]),
    ("libcap-ng0", &["libcap-ng.so.0"]),
    ("libwebkit2gtk-4.1-0", &["libwebkit2gtk-4.1.so.0"]),
    ("libjavascriptcoregtk-4.1-0", &["libjavascriptcoregtk-4.1.so.0"]),
    ("libsoup-3.0-0", &["libsoup-3.0.so.0"]),
    ("libgtk-3-0", &["libgtk-3.so.0", "libgdk-3.so.0"]),
    ("libgdk-pixbuf-2.0-0", &["libgdk_pixbuf-2.0.so.0"]),
    ("libcairo2", &["libcairo.so.2"]),
    ("libcairo-gobject2", &["libcairo-gobject.so.2"]),
    ("libpango-1.0-0", &["libpango-1.0.so.0"]),
    ("libatk1.0-0", &["libatk-1.0.so.0"]),
    ("libglib2.0-0", &["libglib-2.0.so.0", "libgobject-2.0.so.0", "libgio-2.0.so.0"]),
    ("libdbus-1-3", &["libdbus-1.so.3"]),
    // Loaded while the app runs.
    ("libayatana-appindicator3-1", &[]),
    // Programs that are run.
    ("qemu-system-x86", &[]),
    ("xdg-utils", &[]),
];

/// Runs `cargo xtask dist`.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure()?;
    package(args.updates.as_deref())
}

/// Makes the package and tries it out. Expects [`setup::ensure`] to have run.
pub(crate) fn package(updates: Option<&Path>) -> Result<()> {
    let product = build::product()?;
    let app = app::app()?;
    let folder = paths::target().join("dist");
    let root = folder.join("root");
    paths::remove_folder(&root)?;
    lay_out(&root, &product, &app, updates)?;
    let package = folder.join(format!("{NAME}_{VERSION}_amd64.deb"));
    let mut pack = Command::new("dpkg-deb");
    // What is in it is compressed already, but for the programs.
    pack.args(["--root-owner-group", "-Zxz", "-z3", "--build"]).arg(&root).arg(&package);
    command::output(&mut pack)?;
    try_out(&package, &folder.join("try"))?;
    say(format_args!("package: {} ({} MB)", package.display(), fs::metadata(&package)?.len() / 1_000_000));
    Ok(())
}

/// The package's files, as they will be on a user's machine.
fn lay_out(root: &Path, product: &Product, app: &Path, updates: Option<&Path>) -> Result<()> {
    let bin = root.join(PLACE).join("bin");
    for program in [product.coracle.as_path(), app] {
        let name = program.file_name().context("a program without a name")?;
        copy(program, &bin.join(name), 0o755)?;
        folder(&root.join("usr/bin"))?;
        symlink(Path::new("../lib/coracle/bin").join(name), root.join("usr/bin").join(name))?;
    }
    for entry in fs::read_dir(&product.image.folder)? {
        let path = entry?.path();
        copy(&path, &root.join(PLACE).join("image").join(path.file_name().context("no name")?), 0o644)?;
    }
    if let Some(updates) = updates {
        copy(updates, &root.join(PLACE).join("updates.json"), 0o644)?;
    }
    let sources = paths::root().join("src-tauri");
    copy(
        &sources.join("package/coracle.desktop"),
        &root.join("usr/share/applications/coracle.desktop"),
        0o644,
    )?;
    let icons = root.join("usr/share/icons/hicolor");
    copy(&sources.join("icons/icon.svg"), &icons.join("scalable/apps/coracle.svg"), 0o644)?;
    for size in [32, 128, 512] {
        let target = icons.join(format!("{size}x{size}/apps/coracle.png"));
        copy(&sources.join(format!("gen/icons/{size}.png")), &target, 0o644)?;
    }
    let documents = root.join("usr/share/doc").join(NAME);
    copy(&paths::root().join("LICENSE"), &documents.join("copyright"), 0o644)?;
    copy(&paths::root().join("CHANGELOG.md"), &documents.join("CHANGELOG.md"), 0o644)?;
    write(&root.join("DEBIAN/control"), &control(size_kib(&root.join("usr"))?))
}

/// See deb-control(5).
fn control(size_kib: u64) -> String {
    let needs: Vec<&str> = NEEDS.iter().map(|(package, _)| *package).collect();
    format!(
        "Package: {NAME}\nVersion: {VERSION}\nArchitecture: amd64\nSection: admin\nPriority: optional\n\
         Maintainer: The Coracle authors <coracle@localhost>\nInstalled-Size: {size_kib}\nDepends: {}\n\
         Recommends: docker-cli | docker-ce-cli | docker.io, pkexec, dbus-user-session\n\
         Description: containers in a small virtual machine, with a desktop app\n \
         Coracle boots a small Linux virtual machine, runs a container engine in it, and\n \
         lets the docker command line talk to it. The desktop app shows what runs.\n",
        needs.join(", ")
    )
}

/// Installs the package into an empty root, looks at it, starts a machine, and takes the package away again.
fn try_out(package: &Path, root: &Path) -> Result<()> {
    paths::remove_folder(root)?;
    folder(&root.join("var/lib/dpkg/info"))?;
    folder(&root.join("var/lib/dpkg/updates"))?;
    write(&root.join("var/lib/dpkg/status"), "")?;
    let dpkg = |action: &str, what: &Path| -> Result<()> {
        let mut dpkg = Command::new("dpkg");
        // Its dependencies are not in there, and it has no scripts that could miss them.
        dpkg.arg(format!("--root={}", root.display()))
            .args(["--force-depends", "--force-not-root", action])
            .arg(what);
        command::output(&mut dpkg).map(drop)
    };
    dpkg("--install", package)?;
    let coracle = root.join("usr/bin/coracle");
    let version = command::output(Command::new(&coracle).arg("--version"))?;
    ensure!(version == format!("coracle {VERSION}"), "the installed command says {version:?}");
    let app = command::output(Command::new(root.join("usr/bin/coracle-app")).arg("--version"))?;
    ensure!(app == format!("coracle-app {VERSION}"), "the installed app says {app:?}");
    // Exits with 1 where this machine lacks something, which is not the package's fault.
    let home = root.join("home");
    let installed = || {
        let mut command = Command::new(&coracle);
        // The package's user has no docker context yet, and this machine's user keeps his.
        command.env("CORACLE_HOME", &home).env("DOCKER_CONFIG", home.join("docker"));
        command
    };
    let doctor = installed().args(["doctor", "--json"]).output()?;
    let checks: serde_json::Value = serde_json::from_slice(&doctor.stdout).context("the installed doctor")?;
    let image =
        checks.as_array().and_then(|checks| checks.iter().find(|check| check["name"] == "guest image"));
    ensure!(image.is_some_and(|image| image["verdict"] == "ok"), "the installed image: {image:?}");
    libraries_are_needed(&root.join(PLACE).join("bin"))?;
    let started = command::output(installed().arg("start"));
    let stopped = command::output(installed().arg("stop"));
    started.context("starting a machine of the installed package")?;
    stopped.context("stopping a machine of the installed package")?;

    dpkg("--remove", Path::new(NAME))?;
    dpkg("--purge", Path::new(NAME))?;
    for left in ["usr/bin", "usr/lib", "usr/share"] {
        let left = root.join(left);
        ensure!(!left.exists(), "{} is left after the package was purged", left.display());
    }
    paths::remove_folder(root)
}

/// Fails when a program names a library that none of [`NEEDS`] has.
fn libraries_are_needed(bin: &Path) -> Result<()> {
    for entry in fs::read_dir(bin)? {
        let program = entry?.path();
        let printed = command::output(Command::new("objdump").arg("-p").arg(&program))?;
        for library in named_libraries(&printed) {
            if !NEEDS.iter().any(|(_, libraries)| libraries.contains(&library)) {
                bail!("{} needs {library}, which is in no package of xtask/src/dist.rs", program.display());
            }
        }
    }
    Ok(())
}

/// `  NEEDED               libc.so.6`
fn named_libraries(printed: &str) -> Vec<&str> {
    printed.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim).collect()
}

fn size_kib(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        bytes += if data.is_dir() { size_kib(&entry.path())? * 1024 } else { data.len() };
    }
    Ok(bytes.div_ceil(1024))
}

fn folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    folder(path.parent().unwrap_or(path))?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    folder(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("setting the mode of {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_off() {
        let printed =
            "Dynamic Section:\n  NEEDED               libc.so.6\n  NEEDED   libm.so.6\n  INIT  0x1\n";
        assert_eq!(named_libraries(printed), ["libc.so.6", "libm.so.6"]);
    }

    #[test]
    fn a_control_file_has_no_empty_lines() {
        let text = control(1);
        assert!(text.lines().all(|line| !line.trim().is_empty()) && text.ends_with('\n'), "{text}");
        assert!(text.contains("\nDepends: libc6 (>= 2.36), "), "{text}");
    }
}
