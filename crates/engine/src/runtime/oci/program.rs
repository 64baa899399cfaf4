//! Which file a command is, by the rules and in the words of Go's `exec.LookPath`, which runc uses.

use std::{
    ffi::CString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD, FileType, accessat, stat},
    io::Errno,
};

use crate::error::errno_text;

/// The file that `command` names, looked for in `search` (the value of `PATH`) if it has no slash. The
/// calling process's effective user must be allowed to execute it.
///
/// # Errors
/// The text after `exec: "command": `.
pub(super) fn find(command: &str, search: &str) -> Result<CString, String> {
    let found = if command.contains('/') {
        executable(Path::new(command)).map(|()| PathBuf::from(command)).map_err(|errno| {
            let text = errno_text(errno);
            if errno == Errno::NOENT { format!("stat {command}: {text}") } else { text }
        })
    } else if command.is_empty() {
        Err(NOT_FOUND.to_owned())
    } else {
        search
            .split(':')
            // An empty element means the working directory, which is not searched.
            .filter(|directory| directory.starts_with('/'))
            .map(|directory| Path::new(directory).join(command))
            .find(|path| executable(path).is_ok())
            .ok_or_else(|| NOT_FOUND.to_owned())
    }?;
    CString::new(found.as_os_str().as_bytes()).map_err(|_| errno_text(Errno::INVAL))
}

const NOT_FOUND: &str = "executable file not found in $PATH";

fn executable(path: &Path) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(stat(path)?.st_mode);
    if kind == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn commands_are_found_or_missed_as_in_docker() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (bin, empty) = (path.join("bin"), path.join("empty"));
        fs::create_dir(&bin).unwrap();
        fs::create_dir(&empty).unwrap();
        fs::create_dir(empty.join("tool")).unwrap();
        fs::write(bin.join("tool"), "").unwrap();
        fs::set_permissions(bin.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(bin.join("text"), "").unwrap();
        fs::set_permissions(bin.join("text"), fs::Permissions::from_mode(0o644)).unwrap();
        let search = format!(":{}:{}", empty.display(), bin.display());
        assert_eq!(find("tool", &search).unwrap().to_str().unwrap(), bin.join("tool").to_str().unwrap());
        assert_eq!(find("nosuch", &search).unwrap_err(), "executable file not found in $PATH");
        assert_eq!(find("", &search).unwrap_err(), "executable file not found in $PATH");
        assert_eq!(find("/nosuch", &search).unwrap_err(), "stat /nosuch: no such file or directory");
        assert_eq!(find(empty.to_str().unwrap(), &search).unwrap_err(), "is a directory");
        assert_eq!(find(bin.join("text").to_str().unwrap(), &search).unwrap_err(), "permission denied");
    }
}
