//! The app's own log: `$CORACLE_HOME/app.log`.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt,
};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::home::Home;

/// A log larger than this is put aside at the next start.
const MAX_LENGTH: u64 = 1 << 20;

/// Sends what the app has to say to its log.
pub(crate) fn open(home: &Home) -> Result<()> {
    let path = home.log();
    let failed = || format!("cannot write to {}", path.display());
    home.create().with_context(failed)?;
    if fs::metadata(&path).is_ok_and(|found| found.len() > MAX_LENGTH) {
        fs::rename(&path, path.with_extension("log.1")).with_context(failed)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).with_context(failed)?;
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new("info,zbus=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(file)
        .try_init()
        .map_err(|error| anyhow::anyhow!("{}: {error}", failed()))
}
