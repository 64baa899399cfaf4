//! Starting with the desktop: a file in `~/.config/autostart`, as freedesktop.org's Autostart specification has it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    home::write_atomically,
};

const FILE: &str = "coracle.desktop";

/// The file, whether it is there or not.
#[derive(Debug, Clone)]
pub(crate) struct Autostart(PathBuf);

impl Autostart {
    pub(crate) fn of_user() -> Result<Autostart> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
        let config = config.ok_or_else(|| Error::host("neither XDG_CONFIG_HOME nor HOME is set"))?;
        Ok(Autostart(config.join("autostart").join(FILE)))
    }

    /// Has `program` started with the desktop, without a window; or not.
    pub(crate) fn set(&self, on: bool, program: &Path) -> Result<()> {
        let done = if on {
            self.0
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| write_atomically(&self.0, entry(program).as_bytes()))
        } else {
            match fs::remove_file(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done,
            }
        };
        done.map_err(|error| Error::host(format!("cannot change {}: {error}", self.0.display())))
    }

    #[cfg(test)]
    fn is_on(&self) -> bool {
        self.0.exists()
    }
}

fn entry(program: &Path) -> String {
    format!(
        "[Desktop Entry]\nType=Application\nName=Coracle\nComment=Containers, started with the desktop\n\
         Exec={} --background\nIcon=coracle\nTerminal=false\nX-GNOME-Autostart-enabled=true\n",
        quoted(&program.to_string_lossy())
    )
}

/// An argument of `Exec`: in quotes, with what means something within them escaped; and once more, as every
/// value of such a file is.
fn quoted(argument: &str) -> String {
    let mut text = String::from("\"");
    for c in argument.chars() {
        match c {
            '"' | '`' | '$' => text.extend(["\\\\", c.encode_utf8(&mut [0; 4])]),
            '\\' => text.push_str("\\\\\\\\"),
            '%' => text.push_str("%%"),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_comes_and_goes() {
        let config = tempfile::tempdir().unwrap();
        let autostart = Autostart(config.path().join("autostart/coracle.desktop"));
        let program = Path::new("/opt/my apps/coracle-app");
        autostart.set(false, program).unwrap();
        assert!(!autostart.is_on());
        autostart.set(true, program).unwrap();
        autostart.set(true, program).unwrap();
        assert!(autostart.is_on());
        let text = fs::read_to_string(&autostart.0).unwrap();
        assert!(text.contains("\nExec=\"/opt/my apps/coracle-app\" --background\n"), "{text}");
        autostart.set(false, program).unwrap();
        assert!(!autostart.is_on());
    }

    #[test]
    fn a_path_with_signs_stays_one_argument() {
        assert_eq!(quoted("/a $b\"c%d\\e"), "\"/a \\\\$b\\\\\"c%%d\\\\\\\\e\"");
    }
}
