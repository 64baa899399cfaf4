//! `coracle logs`.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    process::ExitCode,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{cli, machine::home::Home};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) fn run(args: &cli::Logs) -> Result<ExitCode> {
    let dir = Home::from_environment()?.machine(&args.machine.name);
    if !dir.exists() {
        bail!("there is no machine '{}'", dir.name());
    }
    let path = if args.console { dir.console_log() } else { dir.machine_log() };
    let mut file = match File::open(&path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    loop {
        if let Some(file) = &mut file
            && !show(file)?
        {
            break;
        }
        if !args.follow {
            break;
        }
        thread::sleep(LOOK);
        // A start puts a long log aside and begins a new one.
        if file.as_ref().is_none_or(|file| replaced(file, &path))
            && let Ok(new) = File::open(&path)
        {
            if let Some(old) = &mut file {
                show(old)?;
            }
            file = Some(new);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies what there is more of the file. False when the reader of our output is gone.
fn show(file: &mut File) -> Result<bool> {
    let mut out = io::stdout().lock();
    match io::copy(file, &mut out).and_then(|_| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot show the log"),
    }
}

fn replaced(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
        _ => false,
    }
}
