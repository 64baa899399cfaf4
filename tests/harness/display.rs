//! What a window manager does for its user: it asks windows to close.

use anyhow::{Context, Result};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{AtomEnum, ClientMessageEvent, ConnectionExt, EventMask, MapState, Window};
use x11rb::wrapper::ConnectionExt as _;

/// Asks the visible window of this name on a display to close; false if there is none. See the Inter-Client
/// Communication Conventions Manual, section 4.2.8.1.
pub fn ask_to_close(display: &str, name: &str) -> Result<bool> {
    let (x, screen) =
        x11rb::connect(Some(display)).with_context(|| format!("connecting to display {display}"))?;
    let root = x.setup().roots.get(screen).context("a display without a screen")?.root;
    let protocols = x.intern_atom(false, b"WM_PROTOCOLS")?.reply()?.atom;
    let delete = x.intern_atom(false, b"WM_DELETE_WINDOW")?.reply()?.atom;
    for window in x.query_tree(root)?.reply()?.children {
        // A window may go away while we look.
        if !is(&x, window, name).unwrap_or(false) {
            continue;
        }
        let message = ClientMessageEvent::new(32, window, protocols, [delete, x11rb::CURRENT_TIME, 0, 0, 0]);
        x.send_event(false, window, EventMask::NO_EVENT, message)?;
        x.sync()?;
        return Ok(true);
    }
    Ok(false)
}

/// Whether a window is visible and has this name.
fn is(x: &impl Connection, window: Window, name: &str) -> Result<bool> {
    let visible = x.get_window_attributes(window)?.reply()?.map_state == MapState::VIEWABLE;
    let found = x.get_property(false, window, AtomEnum::WM_NAME, AtomEnum::ANY, 0, 64)?.reply()?.value;
    Ok(visible && found == name.as_bytes())
}
