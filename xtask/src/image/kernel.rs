//! The guest's kernel: Debian's source, our patches and configuration, a cached result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::terminal::{Stage, say, size};
use crate::{command, digest, paths, setup};

/// To be raised when the way of building changes, so that cached kernels are built anew.
const RECIPE: &str = "1";

/// Lines that the build prints, for the share that is shown as progress.
const BUILD_LINES: usize = 2370;

/// What the build would otherwise take from the machine and the moment: the same inputs give the same kernel.
const REPRODUCIBLE: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
    ("KBUILD_BUILD_USER", "coracle"),
    ("KBUILD_BUILD_HOST", "coracle"),
    ("KBUILD_BUILD_VERSION", "1"),
];

/// A finished kernel in the cache.
#[derive(Debug)]
pub(super) struct Kernel {
    /// Stands for the source's version, the patches, the configuration and the recipe.
    pub(super) key: String,
    /// The uncompressed kernel without its symbols.
    pub(super) vmlinux: PathBuf,
    /// What `uname -r` prints in the guest.
    pub(super) release: String,
}

impl Kernel {
    fn cached(folder: &Path, key: &str) -> Option<Self> {
        let vmlinux = folder.join("vmlinux");
        let release = fs::read_to_string(folder.join("release")).ok()?;
        vmlinux.is_file().then(|| Self { key: key.to_owned(), vmlinux, release: release.trim().to_owned() })
    }
}

/// Returns the kernel from the cache, building it first when it is not there.
pub(super) fn ensure() -> Result<Kernel> {
    let config_file = paths::root().join("vm-image/kernel.config");
    let config =
        fs::read_to_string(&config_file).with_context(|| format!("reading {}", config_file.display()))?;
    let version =
        command::output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", setup::KERNEL_SOURCE]))
            .with_context(|| format!("asking for the version of the package {}", setup::KERNEL_SOURCE))?;
    let source = Source { version, patches: read_patches(&paths::root().join("vm-image/patches"))? };
    let mut key = digest::Key::new();
    key.add(source.name()).add(&config).add(RECIPE);
    let key = key.short();

    let cache = paths::cache()?.join("kernel");
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let finished = cache.join(&key);
    if let Some(kernel) = Kernel::cached(&finished, &key) {
        return Ok(kernel);
    }

    // Two builds at once would fight for the processor and for the source folder.
    let lock_file = cache.join("lock");
    let lock = File::create(&lock_file).with_context(|| format!("creating {}", lock_file.display()))?;
    if lock.try_lock().is_err() {
        say("  another process is building the guest's kernel: waiting for it");
        lock.lock().with_context(|| format!("locking {}", lock_file.display()))?;
        if let Some(kernel) = Kernel::cached(&finished, &key) {
            return Ok(kernel);
        }
    }
    build(&cache, &finished, &source, &config_file, &config)?;
    Kernel::cached(&finished, &key)
        .with_context(|| format!("the kernel was built, but {} is incomplete", finished.display()))
}

fn build(cache: &Path, finished: &Path, source: &Source, config_file: &Path, config: &str) -> Result<()> {
    let options = wanted_options(config)?;
    let log = cache.join("build.log");
    let _ = fs::remove_file(&log);
    let folder = source.unpack(cache, &log)?;
    let draft = cache.join("build");
    paths::remove_folder(&draft)?;
    let objects = draft.join("objects");
    let result = draft.join("result");
    for folder in [&objects, &result] {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }

    let make = |targets: &[&str]| {
        let mut make = Command::new("nice");
        make.args(["-n", "5", "make", "-C"]).arg(&folder).arg(format!("O={}", objects.display()));
        make.arg("ARCH=x86_64").args(targets).envs(REPRODUCIBLE);
        make.env("KCONFIG_ALLCONFIG", config_file);
        // Set by `cargo`'s own parents at times; they would reach the kernel's makefiles.
        make.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("CARGO_MAKEFLAGS");
        make
    };

    let stage = Stage::begin("guest kernel: configuring");
    command::logged(&mut make(&["allnoconfig"]), &log, |_| {})?;
    command::logged(&mut make(&["olddefconfig"]), &log, |_| {})?;
    let result_file = objects.join(".config");
    let text =
        fs::read_to_string(&result_file).with_context(|| format!("reading {}", result_file.display()))?;
    check_options(&options, &text)?;
    stage.done(format_args!("{} options on", text.lines().filter(|line| line.ends_with("=y")).count()));

    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let version = &source.version;
    let mut stage =
        Stage::begin(format!("guest kernel: compiling Linux {version} ({jobs} jobs, some minutes)"));
    let mut lines = 0usize;
    command::logged(&mut make(&[&format!("-j{jobs}"), "vmlinux"]), &log, |_| {
        lines += 1;
        stage.update(format_args!("{} %", (lines * 100 / BUILD_LINES).min(99)));
    })?;
    let vmlinux = result.join("vmlinux");
    command::run(Command::new("strip").arg("-o").args([&vmlinux, &objects.join("vmlinux")]))?;
    let release =
        fs::read_to_string(objects.join("include/config/kernel.release")).context("reading the release")?;
    paths::publish(&result.join("release"), release.as_bytes())?;
    fs::copy(&result_file, result.join("config")).context("keeping the configuration")?;
    let length = fs::metadata(&vmlinux).with_context(|| format!("reading {}", vmlinux.display()))?.len();

    paths::remove_folder(finished)?;
    fs::rename(&result, finished).with_context(|| format!("moving {} into place", finished.display()))?;
    paths::remove_folder(&draft)?;
    stage.done(format_args!("{}, {}", release.trim(), size(length)));
    Ok(())
}

/// Debian's source and what we change in it.
struct Source {
    /// The version of Debian's package.
    version: String,
    /// In the order in which they are applied.
    patches: Vec<(PathBuf, Vec<u8>)>,
}

impl Source {
    /// Tells this source from any other; a folder's name.
    fn name(&self) -> String {
        let mut key = digest::Key::new();
        for (_, content) in &self.patches {
            key.add(content);
        }
        format!("{}-{}", self.version, key.short())
    }

    /// Unpacks and patches the source unless that is done; kept, because a changed configuration needs it again.
    fn unpack(&self, cache: &Path, log: &Path) -> Result<PathBuf> {
        let folder = cache.join("source");
        let unpacked = folder.join(self.name());
        if unpacked.is_dir() {
            return Ok(unpacked);
        }
        let archive = Path::new("/usr/src").join(format!("{}.tar.xz", setup::KERNEL_SOURCE));
        ensure!(archive.is_file(), "{} is missing: `cargo xtask setup` installs it", archive.display());
        let stage = Stage::begin(format!("guest kernel: unpacking {}", archive.display()));
        let draft = folder.join(".draft");
        paths::remove_folder(&folder)?;
        fs::create_dir_all(&draft).with_context(|| format!("creating {}", draft.display()))?;
        let mut tar = Command::new("tar");
        command::output(tar.arg("-xJf").arg(&archive).args(["--strip-components=1", "-C"]).arg(&draft))?;
        for (patch, _) in &self.patches {
            let mut apply = Command::new("patch");
            apply
                .args(["--strip=1", "--forward", "--fuzz=0", "--batch", "-i"])
                .arg(patch)
                .arg("-d")
                .arg(&draft);
            command::logged(&mut apply, log, |_| {})?;
        }
        fs::rename(&draft, &unpacked).with_context(|| format!("moving {} into place", unpacked.display()))?;
        stage.done(format_args!("{}, {} patched in", self.version, self.patches.len()));
        Ok(unpacked)
    }
}

/// The patches of a folder in the order of their names.
fn read_patches(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "patch"))
        .collect();
    files.sort();
    let read = |file: PathBuf| {
        let content = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok((file, content))
    };
    files.into_iter().map(read).collect()
}

/// The options that our list asks for: name and value.
fn wanted_options(config: &str) -> Result<Vec<(&str, &str)>> {
    let mut options: Vec<(&str, &str)> = Vec::new();
    for line in config.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some((name, value)) = line.split_once('=').filter(|(name, _)| name.starts_with("CONFIG_")) else {
            bail!("kernel.config: `{line}` is neither a comment nor CONFIG_NAME=value");
        };
        if options.iter().any(|(other, _)| *other == name) {
            bail!("kernel.config names {name} twice");
        }
        options.push((name, value));
    }
    Ok(options)
}

/// Compares the final configuration with our list. Kconfig drops an option whose dependencies are not met without a
/// word, and turns on what another option selects.
fn check_options(wanted: &[(&str, &str)], result: &str) -> Result<()> {
    let actual = |name: &str| {
        result.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("n")
    };
    let wrong: Vec<String> = wanted
        .iter()
        .filter(|(name, value)| actual(name) != *value)
        .map(|(name, value)| format!("{name}={value} became {name}={}", actual(name)))
        .collect();
    if !wrong.is_empty() {
        bail!(
            "the kernel's configuration is not what vm-image/kernel.config asks for (a dependency is missing, or \
             another option selects it): {}",
            wrong.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_option_is_named() {
        let wanted = wanted_options("# text\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_S=\"x y\"\n").unwrap();
        check_options(&wanted, "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_S=\"x y\"\nCONFIG_AB=y\n").unwrap();
        let error =
            check_options(&wanted, "CONFIG_AB=y\nCONFIG_B=y\nCONFIG_S=\"x y\"\n").unwrap_err().to_string();
        assert!(error.ends_with("CONFIG_A=y became CONFIG_A=n, CONFIG_B=n became CONFIG_B=y"), "{error}");
    }

    #[test]
    fn a_malformed_list_is_refused() {
        assert!(wanted_options("CONFIG_A\n").is_err());
        assert!(wanted_options("CONFIG_A=y\nCONFIG_A=n\n").unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn a_changed_patch_is_another_source() {
        let source =
            |patch: &str| Source { version: "6.12".into(), patches: vec![("p".into(), patch.into())] };
        assert_eq!(source("a").name(), source("a").name());
        assert_ne!(source("a").name(), source("b").name());
        assert!(source("a").name().starts_with("6.12-"));
    }

    #[test]
    fn our_own_list_is_well_formed() {
        let text = fs::read_to_string(paths::root().join("vm-image/kernel.config")).unwrap();
        assert!(wanted_options(&text).unwrap().len() > 100);
    }
}
