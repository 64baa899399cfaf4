//! A program in a container that looks at files when it is told to, or changes them, while this machine does the other half.
//! Both speak by its standard streams, not by the files.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};

/// A way to change a file. All but the first make it another file, or none.
pub const CHANGES: [Change; 7] = [
    Change::Overwrite,
    Change::Append,
    Change::Cut,
    Change::Replace,
    Change::Anew,
    Change::Remove,
    Change::Twice,
];

/// See [`CHANGES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Other bytes in place; as many.
    Overwrite,
    /// More bytes at the end.
    Append,
    /// Fewer bytes.
    Cut,
    /// Another file by a rename, as editors save.
    Replace,
    /// Removed, and made anew.
    Anew,
    /// Removed.
    Remove,
    /// Other bytes in place, two times in no time.
    Twice,
}

impl Change {
    /// Whether who has the file open sees it.
    #[must_use]
    pub fn is_in_place(self) -> bool {
        !matches!(self, Change::Replace | Change::Anew | Change::Remove)
    }

    /// Changes a file so that it has this text.
    pub fn apply(self, path: &Path, text: &str) -> io::Result<()> {
        let open = || OpenOptions::new().write(true).open(path);
        let old = usize::try_from(fs::metadata(path)?.len()).unwrap_or(usize::MAX);
        match self {
            Change::Overwrite => open()?.write_all_at(text.as_bytes(), 0),
            Change::Twice => {
                let file = open()?;
                file.write_all_at("x".repeat(text.len()).as_bytes(), 0)?;
                file.write_all_at(text.as_bytes(), 0)
            }
            Change::Append => {
                let mut file = OpenOptions::new().append(true).open(path)?;
                file.write_all(text.as_bytes().get(old..).unwrap_or_default())
            }
            Change::Cut => open()?.set_len(text.len() as u64),
            Change::Replace => {
                let draft = path.with_extension("draft");
                fs::write(&draft, text)?;
                fs::rename(draft, path)
            }
            Change::Anew => {
                fs::remove_file(path)?;
                fs::write(path, text)
            }
            Change::Remove => fs::remove_file(path),
        }
    }

    /// The text that a change makes of another one, in round `round`.
    #[must_use]
    pub fn text(self, old: &str, round: usize) -> String {
        let anew = |length: usize| {
            let token = format!("{round:05}.");
            token.repeat(length / token.len() + 1).split_at(length).0.to_owned()
        };
        match self {
            Change::Overwrite | Change::Twice => anew(old.len()),
            Change::Append => format!("{old}{}", anew(100)),
            Change::Cut => old.split_at(old.len() / 2).0.to_owned(),
            // More than a page, now and then.
            Change::Replace | Change::Anew => anew(50 + round % 3 * 3000),
            Change::Remove => String::new(),
        }
    }
}

/// What is seen of a file that is there, or not: its length by stat(2) and by the folder, and what is read.
#[must_use]
pub fn view(text: Option<&str>) -> String {
    text.map_or_else(|| "none".to_owned(), |text| format!("{}:{:016x}", text.len(), digest(text.as_bytes())))
}

/// FNV-1a.
fn digest(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// All that can be seen of a file by its name, in one line.
pub fn look(path: &Path) -> Result<String> {
    let length = match fs::metadata(path) {
        Ok(data) => data.len().to_string(),
        Err(error) if error.kind() == ErrorKind::NotFound => "none".to_owned(),
        Err(error) => return Err(error).context("stat"),
    };
    let text = read(path)?;
    let folder = path.parent().context("a file without a folder")?;
    let name = path.file_name().context("a file without a name")?;
    let mut is_listed = false;
    for entry in fs::read_dir(folder)? {
        is_listed |= entry?.file_name() == name;
    }
    Ok(seen(&length, &view(text.as_deref()), is_listed))
}

/// What [`look`] sees of a file with this text, or of none.
#[must_use]
pub fn expected(text: Option<&str>) -> String {
    let length = text.map_or_else(|| "none".to_owned(), |text| text.len().to_string());
    seen(&length, &view(text), text.is_some())
}

fn seen(length: &str, text: &str, is_listed: bool) -> String {
    format!("length {length}, text {text}, listed {is_listed}")
}

/// Serves orders from standard input, a line each, with a line each:
///
/// * `hold NAME`: opens a file and keeps it open; looks at all there is, so that it is cached.
/// * `held`: what is in the file that is kept open.
/// * `look NAME`: what is seen by the name.
/// * `change NUMBER NAME TEXT`: changes it, by a number of [`CHANGES`].
pub(crate) fn follow(args: &[OsString]) -> Result<ExitStatus> {
    let folder = Path::new(args.first().context("no folder")?);
    let mut held: Option<File> = None;
    let mut stdout = io::stdout();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["hold", name] => {
                let path = folder.join(name);
                held = Some(File::open(&path).context("opening")?);
                look(&path)?
            }
            ["held"] => read_held(held.as_ref().context("nothing is held")?)?,
            ["look", name] => look(&folder.join(name))?,
            ["change", number, name, text] => {
                let change = CHANGES.get(number.parse::<usize>()?).context("no such change")?;
                change.apply(&folder.join(name), text).with_context(|| format!("{change:?}"))?;
                "changed".to_owned()
            }
            _ => bail!("no such order: {line}"),
        };
        writeln!(stdout, "{answer}")?;
        stdout.flush()?;
    }
    Ok(ExitStatus::default())
}

fn read_held(file: &File) -> Result<String> {
    let mut text = vec![0; 1 << 16];
    let mut length = 0;
    loop {
        match file.read_at(&mut text[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(view(Some(std::str::from_utf8(&text[..length])?)))
}
