//! `coracle delete`.

use std::{
    fs,
    io::{self, ErrorKind, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use super::stop::stop;
use crate::{
    cli,
    control::client::{ControlError, name_flag, status},
    docker_context::DockerConfig,
    machine::{
        disk,
        home::{Home, MachineDir},
        lock::{LockError, LockedHome},
        log,
        size::human,
    },
    terminal::{Reader, say, tell},
};

/// How long containers have when a running machine is deleted: none, for they are deleted too.
const STOP_SECONDS: u32 = 0;

pub(crate) fn run(args: &cli::Delete) -> Result<ExitCode> {
    let dir = Home::from_environment()?.machine(&args.machine.name);
    let name = dir.name().clone();
    if !dir.exists() {
        bail!("there is no machine '{name}'");
    }
    let running = !matches!(status(&dir), Err(ControlError::NotRunning(_)));
    if running && !args.force {
        bail!(
            "machine '{name}' is running; stop it first with `coracle stop{}`, or delete it with --force",
            name_flag(name.as_str())
        );
    }
    if !args.force && !confirmed(&dir)? {
        say("Nothing was deleted.");
        return Ok(ExitCode::FAILURE);
    }
    if running {
        stop(&dir, STOP_SECONDS, Reader::Person)?;
    }
    let locked = LockedHome::take(dir.clone()).map_err(|error| match error {
        LockError::Held { .. } => {
            anyhow::Error::from(error).context(format!("machine '{name}' cannot be deleted now"))
        }
        LockError::Io { .. } => error.into(),
    })?;
    if let Some(docker) = DockerConfig::from_environment()
        && let Err(error) = docker.remove_context(&dir)
    {
        tell(format_args!("coracle: {error:#}"));
    }
    remove(&locked)?;
    say(format_args!("Machine '{name}' is deleted."));
    Ok(ExitCode::SUCCESS)
}

fn confirmed(dir: &MachineDir) -> Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("not deleting machine '{}' without being asked to on a terminal; use --force", dir.name());
    }
    let used = human(disk::used_bytes(&dir.disk_image()));
    let _ = write!(
        io::stderr(),
        "Delete machine '{}' with all its images, containers and volumes ({used})? [y/N] ",
        dir.name()
    );
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Removes what is ours, file by file: a `CORACLE_HOME` set by mistake must not cost anything else.
/// The lock goes last, so that a deletion that failed half-way can be repeated.
fn remove(locked: &LockedHome) -> Result<()> {
    let dir = locked.dir();
    let ours: Vec<PathBuf> = vec![
        dir.disk_image(),
        dir.config_file(),
        dir.docker_socket(),
        dir.control_socket(),
        dir.console_log(),
        log::previous(&dir.console_log()),
        dir.machine_log(),
        log::previous(&dir.machine_log()),
        dir.last_exit_file(),
        dir.runtime_dir(),
        dir.lock_file(),
    ];
    for path in ours {
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    match fs::remove_dir(dir.path()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
            tell(format_args!(
                "coracle: {} holds files that are not Coracle's; they stay",
                dir.path().display()
            ));
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot remove {}", dir.path().display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_goes_and_what_is_not_stays() {
        let home = tempfile::tempdir().unwrap();
        let dir = Home::at(home.path()).machine(&"default".parse().unwrap());
        dir.create().unwrap();
        fs::create_dir(dir.runtime_dir()).unwrap();
        for file in [
            dir.disk_image(),
            dir.config_file(),
            dir.runtime_dir().join("x.sock"),
            dir.path().join("thesis.txt"),
        ] {
            fs::write(file, "x").unwrap();
        }
        remove(&LockedHome::take(dir.clone()).unwrap()).unwrap();
        assert!(!dir.exists());
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["thesis.txt"]);
        fs::remove_file(dir.path().join("thesis.txt")).unwrap();
        remove(&LockedHome::take(dir.clone()).unwrap()).unwrap();
        assert!(!dir.path().exists());
    }
}
