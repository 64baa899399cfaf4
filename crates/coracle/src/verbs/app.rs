//! `coracle app`.

use std::{
    env,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{cli, platform};

/// The app's program.
const PROGRAM: &str = "coracle-app";
/// What the app's links begin with.
const SCHEME: &str = "coracle://";

pub(crate) fn run(args: &cli::App) -> Result<ExitCode> {
    if let Some(link) = &args.link
        && !link.starts_with(SCHEME)
    {
        bail!("{link:?} is no link of the app's: they begin with {SCHEME}, as in {SCHEME}containers");
    }
    let program = find()?;
    if env::var_os("DISPLAY").is_none() && env::var_os("WAYLAND_DISPLAY").is_none() {
        bail!("there is no desktop to open the app on: neither DISPLAY nor WAYLAND_DISPLAY is set");
    }
    // The app tells of itself in its window, and an app that runs already shows its own; neither is waited for.
    Command::new(&program)
        .args(&args.link)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // So that a Ctrl-C here, later, is not for the app.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Beside this program, or in `PATH`.
fn find() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell where this program is")?;
    let beside = own.with_file_name(PROGRAM);
    if platform::is_executable(&beside) {
        return Ok(beside);
    }
    platform::in_path(PROGRAM).with_context(|| {
        format!(
            "the app is not installed: there is no {PROGRAM} beside {} or in PATH; install Coracle's package, or build it with `cargo xtask build --app`",
            own.display()
        )
    })
}
