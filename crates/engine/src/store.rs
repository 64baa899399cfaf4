//! Small JSON files that survive `kill -9` and power cuts: written beside, synced, renamed over.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Context, Result};

/// Whether a write is on the disk when the call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It is: what was acknowledged to a client must be there after a power cut.
    Synced,
    /// It is there after `kill -9`, not surely after a power cut: state that a reboot ends anyway.
    Renamed,
}

/// Replaces `path` with `value` as JSON. A reader sees the old content or the new, never a part.
pub fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<()> {
    let bytes = serde_json::to_vec(value).context(|| format!("encode {}", path.display()))?;
    replace(path, &bytes, durability).context(|| format!("write {}", path.display()))
}

/// Replaces `path` with `bytes`, as [`write_json`] does. Only one may write a path at a time.
pub fn replace(path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    if durability == Durability::Synced {
        file.sync_data()?;
    }
    fs::rename(&beside, path)?;
    if durability == Durability::Synced
        && let Some(parent) = path.parent()
    {
        sync_directory(parent)?;
    }
    Ok(())
}

/// Makes renames and removals in `directory` durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Reads what [`write_json`] wrote; `None` when the file does not exist.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(|| format!("read {}", path.display())),
    };
    serde_json::from_slice(&bytes).map(Some).context(|| format!("decode {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_replaces_the_one_before_and_leaves_nothing_beside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &1, Durability::Synced).unwrap();
        write_json(&path, &2, Durability::Renamed).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(2));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value.json");
        fs::write(&path, "{").unwrap();
        let message = read_json::<u32>(&path).unwrap_err().to_string();
        assert!(message.contains("value.json"), "{message}");
    }
}
