//! Where things are: the project, what is built in it, and the cache outside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folder of the project's root `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Where `cargo xtask build` leaves the product: `bin/` and `image/`.
pub(crate) fn product() -> PathBuf {
    target().join("coracle")
}

/// What takes long to make and outlives `cargo clean`: `$CORACLE_CACHE`, else `$XDG_CACHE_HOME/coracle`, else
/// `~/.cache/coracle`. The folder exists when this returns.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = choose_cache(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
        .context("no place for the cache: none of CORACLE_CACHE, XDG_CACHE_HOME and HOME is set")?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("creating the cache folder {}", folder.display()))?;
    Ok(folder)
}

fn choose_cache(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(folder) = variable("CORACLE_CACHE") {
        return Some(folder.into());
    }
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
    Some(base.join("coracle"))
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all: a reader sees the old content or the new one.
pub(crate) fn publish(file: &Path, content: &[u8]) -> Result<()> {
    let name = file.file_name().context("a file to publish needs a name")?.to_string_lossy();
    let draft = file.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::write(&draft, content).with_context(|| format!("writing {}", draft.display()))?;
    std::fs::rename(&draft, file).with_context(|| format!("moving {} into place", file.display()))
}

/// Copies a file whole or not at all, with its permissions. The old file keeps its content for whoever has it open.
pub(crate) fn publish_copy(from: &Path, to: &Path) -> Result<()> {
    let name = to.file_name().context("a file to publish needs a name")?.to_string_lossy();
    let draft = to.with_file_name(format!(".{name}.{}", std::process::id()));
    std::fs::copy(from, &draft)
        .with_context(|| format!("copying {} to {}", from.display(), draft.display()))?;
    std::fs::rename(&draft, to).with_context(|| format!("moving {} into place", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)]) -> Option<PathBuf> {
        choose_cache(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_cache_is_where_the_user_says() {
        assert_eq!(chosen(&[("CORACLE_CACHE", "/c"), ("HOME", "/h")]), Some("/c".into()));
        assert_eq!(chosen(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]), Some("/x/coracle".into()));
        assert_eq!(chosen(&[("HOME", "/h")]), Some("/h/.cache/coracle".into()));
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn publishing_replaces_the_name_and_not_the_open_file() {
        use std::io::Read;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "old").unwrap();
        let mut open = std::fs::File::open(&file).unwrap();
        publish(&file, b"new").unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
