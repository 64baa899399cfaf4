//! `cargo xtask image`: the guest's kernel and root file system, built from the inputs in `vm-image/`.
//!
//! The kernel is cached outside `target/` by the hash of its inputs, so it is built once per machine. The root file
//! system is quick to make and carries the key of its inputs in `image.json`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::terminal::{say, size};
use crate::{build, digest, paths};

mod kernel;
mod rootfs;

/// Where the guest image is.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Holds `vmlinux`, `rootfs.erofs` and `image.json`.
    pub(crate) folder: PathBuf,
    /// The uncompressed kernel, an ELF file with a PVH note.
    pub(crate) kernel: PathBuf,
    /// The read-only root file system.
    pub(crate) rootfs: PathBuf,
}

/// `image.json`: what the image is made of.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Manifest {
    kernel: Part,
    rootfs: Part,
    agent: Part,
}

/// One part of the image.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Part {
    /// The kernel's release, or Coracle's version.
    version: String,
    /// Stands for everything that the part was built from.
    key: String,
    bytes: u64,
    sha256: String,
}

impl Part {
    fn describe(file: &Path, version: &str, key: &str) -> Result<Self> {
        let bytes = fs::metadata(file).with_context(|| format!("reading {}", file.display()))?.len();
        Ok(Self { version: version.to_owned(), key: key.to_owned(), bytes, sha256: digest::of_file(file)? })
    }
}

/// Runs `cargo xtask image`.
pub(crate) fn run() -> Result<()> {
    crate::setup::ensure()?;
    let image = ensure()?;
    let length = |file: &Path| fs::metadata(file).map_or(0, |data| data.len());
    say(format_args!(
        "image: {} (kernel {}, root file system {})",
        image.folder.display(),
        size(length(&image.kernel)),
        size(length(&image.rootfs)),
    ));
    Ok(())
}

/// Builds whatever of the image is not there yet, the agent inside it included. Expects [`crate::setup::ensure`] to
/// have run.
pub(crate) fn ensure() -> Result<Image> {
    // The kernel first: a wrong input shows before minutes of compiling Rust.
    let kernel = kernel::ensure()?;
    let agent = build::agent()?;
    assemble(&kernel, &agent)
}

fn assemble(kernel: &kernel::Kernel, agent: &Path) -> Result<Image> {
    let folder = paths::product().join("image");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let image =
        Image { kernel: folder.join("vmlinux"), rootfs: folder.join("rootfs.erofs"), folder: folder.clone() };
    let version = env!("CARGO_PKG_VERSION");

    let plan = rootfs::Plan::read(agent)?;
    let key = plan.key();
    let manifest_file = folder.join("image.json");
    let before: Option<Manifest> =
        fs::read(&manifest_file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let unchanged = |file: &Path, part: &Part, key: &str| {
        part.key == key && fs::metadata(file).is_ok_and(|data| data.len() == part.bytes)
    };
    if let Some(before) = &before
        && unchanged(&image.kernel, &before.kernel, &kernel.key)
        && unchanged(&image.rootfs, &before.rootfs, &key)
    {
        return Ok(image);
    }

    paths::publish_copy(&kernel.vmlinux, &image.kernel)?;
    rootfs::build(&plan, &image.rootfs)?;
    let manifest = Manifest {
        kernel: Part::describe(&image.kernel, &kernel.release, &kernel.key)?,
        rootfs: Part::describe(&image.rootfs, version, &key)?,
        agent: Part::describe(agent, version, &digest::of_file(agent)?)?,
    };
    // Last, because it says that the rest is there.
    let mut text = serde_json::to_vec_pretty(&manifest).context("encoding image.json")?;
    text.push(b'\n');
    paths::publish(&manifest_file, &text)?;
    Ok(image)
}
