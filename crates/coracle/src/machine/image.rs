//! The guest image: the kernel and the read-only root that every machine boots from.

use std::{
    env, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// The environment variable that names another image directory.
pub(crate) const IMAGE_VARIABLE: &str = "CORACLE_IMAGE";

const KERNEL: &str = "vmlinux";
const ROOT: &str = "rootfs.erofs";
/// What the image was made of, written by its build.
const MANIFEST: &str = "image.json";

/// A directory with a complete guest image.
#[derive(Debug, Clone)]
pub(crate) struct GuestImage {
    directory: PathBuf,
}

impl GuestImage {
    /// Finds the image: `$CORACLE_IMAGE`, or `../image` beside the directory of this program.
    pub(crate) fn find() -> Result<GuestImage> {
        let directory = directory()?;
        for file in [KERNEL, ROOT] {
            let path = directory.join(file);
            match fs::metadata(&path) {
                Ok(found) if found.is_file() && found.len() > 0 => {}
                Ok(_) => bail!(
                    "the guest image is damaged: {} is empty or no file; install Coracle again, or build it with `cargo xtask build`",
                    path.display()
                ),
                Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                    "the guest image is missing: there is no {}; install Coracle again, build it with `cargo xtask build`, or set {IMAGE_VARIABLE} to a directory with {KERNEL} and {ROOT}",
                    path.display()
                ),
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("cannot read the guest image {}", path.display()));
                }
            }
        }
        Ok(GuestImage { directory })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.directory.join(KERNEL)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join(ROOT)
    }

    /// Compares the files with the hashes of `image.json`. `None` when there is no such file.
    ///
    /// # Errors
    /// A file that cannot be read, or one with another content than the manifest says.
    pub(crate) fn verify(&self) -> Result<Option<Manifest>> {
        let path = self.directory.join(MANIFEST);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let manifest: Manifest = serde_json::from_str(&text)
            .with_context(|| format!("{} is no image manifest", path.display()))?;
        for (file, part) in [(self.kernel(), &manifest.kernel), (self.root(), &manifest.rootfs)] {
            let found = sha256_file(&file)?;
            if found != part.sha256 {
                bail!(
                    "{} was changed: its SHA-256 is {found}, and {MANIFEST} says {}",
                    file.display(),
                    part.sha256
                );
            }
        }
        Ok(Some(manifest))
    }
}

/// `image.json`, as far as it is read here.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) kernel: Part,
    pub(crate) rootfs: Part,
}

/// One file of the image.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Part {
    /// The kernel's release, or Coracle's version.
    pub(crate) version: String,
    /// Lower-case hexadecimal.
    sha256: String,
}

/// Where the image is expected, whether it is there or not. Absolute.
pub(crate) fn directory() -> Result<PathBuf> {
    if let Some(set) = env::var_os(IMAGE_VARIABLE).filter(|value| !value.is_empty()) {
        return std::path::absolute(&set)
            .with_context(|| format!("{IMAGE_VARIABLE} is no path: {}", set.display()));
    }
    let program = env::current_exe().context("cannot tell where this program is")?;
    // The program may be called through a link; the image is beside the real one.
    let program = program.canonicalize().unwrap_or(program);
    let beside = program.parent().and_then(Path::parent).context("this program has no directory")?;
    Ok(beside.join("image"))
}

fn sha256_file(path: &Path) -> Result<String> {
    let context = || format!("cannot read {}", path.display());
    let mut file = fs::File::open(path).with_context(context)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(context)? {
            0 => return Ok(hex(&hasher.finalize())),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image_with(manifest: Option<&str>) -> (tempfile::TempDir, GuestImage) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(KERNEL), "abc").unwrap();
        fs::write(dir.path().join(ROOT), "").unwrap();
        if let Some(manifest) = manifest {
            fs::write(dir.path().join(MANIFEST), manifest).unwrap();
        }
        let image = GuestImage { directory: dir.path().to_owned() };
        (dir, image)
    }

    /// FIPS 180-4's example: SHA-256 of "abc".
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn files_are_held_against_the_manifest() {
        /// SHA-256 of nothing.
        const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let manifest = |kernel: &str| {
            format!(
                r#"{{"kernel": {{"version": "6.12", "sha256": "{kernel}"}}, "rootfs": {{"version": "1", "sha256": "{NOTHING}"}}}}"#
            )
        };
        assert_eq!(image_with(None).1.verify().unwrap(), None);
        let verified = image_with(Some(&manifest(ABC))).1.verify().unwrap().unwrap();
        assert_eq!(verified.kernel.version, "6.12");
        let error = image_with(Some(&manifest(NOTHING))).1.verify().unwrap_err().to_string();
        assert!(error.contains("vmlinux was changed"), "{error}");
        assert!(image_with(Some("{")).1.verify().is_err());
    }
}
