//! What the host's user has chosen, asked before the engine starts.

use std::io::{self, BufReader};
use std::time::Duration;

use wire::line;
use wire::settings::Settings;
use wire::vsock::{HOST_CID, SETTINGS_PORT};

use super::stream::Stream;

/// The host answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host that does not answer has chosen nothing: an engine without them is of more use than none.
pub(super) fn ask() -> Settings {
    read().unwrap_or_else(|error| {
        tracing::warn!("the host does not tell its settings, so there are none: {error}");
        Settings::default()
    })
}

fn read() -> io::Result<Settings> {
    let host = Stream::connect(HOST_CID, SETTINGS_PORT)?;
    host.set_read_timeout(Some(PATIENCE))?;
    line::read(&mut BufReader::new(&host))?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
