//! The process that serves the shares: this program again, which then locks itself up ([`fileserver`]).

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context, Result};
use rustix::fs::FileType;
use tracing_subscriber::EnvFilter;
use wire::settings::{SHARES_TAG, Share};

use super::shares::Shares;

/// The hidden command that makes this program the file server.
pub(crate) const COMMAND: &str = "file-server";

/// Starts the process for a machine. It ends with the emulator, which has the other end of its socket.
pub(crate) fn start(shares: &[Share]) -> Result<(vmm::FsConfig, Child)> {
    let (ours, emulators) = UnixStream::pair().context("cannot make a socket to the file server")?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let child = Command::new(&program)
        .arg(COMMAND)
        .args(shares.iter().map(|share| format!("--share={share}")))
        .stdin(OwnedFd::from(ours))
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok((vmm::FsConfig { tag: SHARES_TAG, socket: emulators }, child))
}

/// Serves until the emulator has ended. What goes wrong goes to standard error, the machine's log.
pub(crate) fn run(shares: &Shares) -> Result<ExitCode> {
    let stdin = rustix::stdio::stdin();
    if FileType::from_raw_mode(rustix::fs::fstat(stdin)?.st_mode) != FileType::Socket {
        anyhow::bail!("this command is run by a machine's process only");
    }
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Twice would be an error of ours; the log is there either way.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(io::stderr).try_init();
    let socket = UnixStream::from(stdin.try_clone_to_owned()?);
    let shares: Vec<fileserver::Share> = shares
        .as_slice()
        .iter()
        .map(|share| fileserver::Share { path: (&share.path).into(), read_only: share.read_only })
        .collect();
    fileserver::serve(&shares, socket)?;
    Ok(ExitCode::SUCCESS)
}
