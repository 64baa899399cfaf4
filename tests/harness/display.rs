//! What a window manager does for its user, and what that user sees: windows are asked to close, and looked at.

use anyhow::{Context, Result, ensure};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt, EventMask, ImageFormat, ImageOrder, MapState, Window,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

/// Asks the visible window of this name on a display to close; false if there is none. See the Inter-Client
/// Communication Conventions Manual, section 4.2.8.1.
pub fn ask_to_close(display: &str, name: &str) -> Result<bool> {
    let (x, root) = connect(display)?;
    let protocols = x.intern_atom(false, b"WM_PROTOCOLS")?.reply()?.atom;
    let delete = x.intern_atom(false, b"WM_DELETE_WINDOW")?.reply()?.atom;
    let Some(window) = visible(&x, root, name)? else { return Ok(false) };
    let message = ClientMessageEvent::new(32, window, protocols, [delete, x11rb::CURRENT_TIME, 0, 0, 0]);
    x.send_event(false, window, EventMask::NO_EVENT, message)?;
    x.sync()?;
    Ok(true)
}

/// What the visible window of this name shows, as a PNG.
pub fn picture(display: &str, name: &str) -> Result<Vec<u8>> {
    let (x, root) = connect(display)?;
    let window =
        visible(&x, root, name)?.with_context(|| format!("no window on {display} is called {name:?}"))?;
    let place = x.get_geometry(window)?.reply()?;
    let (width, height) = (place.width, place.height);
    let image = x.get_image(ImageFormat::Z_PIXMAP, window, 0, 0, width, height, !0)?.reply()?;
    let pixels = usize::from(width) * usize::from(height);
    ensure!(
        image.data.len() == pixels * 4 && x.setup().image_byte_order == ImageOrder::LSB_FIRST,
        "a display of another kind: {} bytes for {width} x {height} pixels",
        image.data.len()
    );
    let colours: Vec<u8> = image.data.chunks_exact(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width.into(), height.into());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    encoder.write_header()?.write_image_data(&colours)?;
    Ok(bytes)
}

/// A connection to a display, and the window that all others are in.
fn connect(display: &str) -> Result<(RustConnection, Window)> {
    let (x, screen) =
        x11rb::connect(Some(display)).with_context(|| format!("connecting to display {display}"))?;
    let root = x.setup().roots.get(screen).context("a display without a screen")?.root;
    Ok((x, root))
}

/// The visible window of this name.
fn visible(x: &RustConnection, root: Window, name: &str) -> Result<Option<Window>> {
    let windows = x.query_tree(root)?.reply()?.children;
    // A window may go away while we look.
    Ok(windows.into_iter().find(|window| is(x, *window, name).unwrap_or(false)))
}

/// Whether a window is visible and has this name.
fn is(x: &RustConnection, window: Window, name: &str) -> Result<bool> {
    let visible = x.get_window_attributes(window)?.reply()?.map_state == MapState::VIEWABLE;
    let found = x.get_property(false, window, AtomEnum::WM_NAME, AtomEnum::ANY, 0, 64)?.reply()?.value;
    Ok(visible && found == name.as_bytes())
}
