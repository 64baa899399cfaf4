//! What a window manager does for its user, and what that user sees: windows are asked to close, and looked at.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{
    AtomEnum, ClientMessageEvent, ConnectionExt, EventMask, ImageFormat, ImageOrder, MapState, Window,
};
use x11rb::rust_connection::RustConnection;
use x11rb::wrapper::ConnectionExt as _;

use crate::namespace::Namespace;

/// A display that a program in a namespace has.
#[derive(Clone)]
pub struct Display {
    namespace: Arc<Namespace>,
    name: String,
}

impl Display {
    /// The display that is called `name` there, as in `DISPLAY`.
    #[must_use]
    pub fn of(namespace: &Arc<Namespace>, name: String) -> Self {
        Self { namespace: Arc::clone(namespace), name }
    }

    /// As in `DISPLAY`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the visible window of this title to close; false if there is none. See the Inter-Client Communication Conventions
    /// Manual, section 4.2.8.1.
    pub fn ask_to_close(&self, title: &str) -> Result<bool> {
        let (x, root) = self.connect()?;
        let protocols = x.intern_atom(false, b"WM_PROTOCOLS")?.reply()?.atom;
        let delete = x.intern_atom(false, b"WM_DELETE_WINDOW")?.reply()?.atom;
        let Some(window) = visible(&x, root, title)? else { return Ok(false) };
        let message = ClientMessageEvent::new(32, window, protocols, [delete, x11rb::CURRENT_TIME, 0, 0, 0]);
        x.send_event(false, window, EventMask::NO_EVENT, message)?;
        x.sync()?;
        Ok(true)
    }

    /// Whether a window of this title can be seen.
    pub fn shows(&self, title: &str) -> Result<bool> {
        let (x, root) = self.connect()?;
        Ok(visible(&x, root, title)?.is_some())
    }

    /// What the visible window of this title shows, as a PNG.
    pub fn picture(&self, title: &str) -> Result<Vec<u8>> {
        let (x, root) = self.connect()?;
        let window = visible(&x, root, title)?.with_context(|| format!("no window is called {title:?}"))?;
        let place = x.get_geometry(window)?.reply()?;
        let (width, height) = (place.width, place.height);
        let image = x.get_image(ImageFormat::Z_PIXMAP, window, 0, 0, width, height, !0)?.reply()?;
        let pixels = usize::from(width) * usize::from(height);
        ensure!(
            image.data.len() == pixels * 4 && x.setup().image_byte_order == ImageOrder::LSB_FIRST,
            "a display of another kind: {} bytes for {width} x {height} pixels",
            image.data.len()
        );
        let colours: Vec<u8> =
            image.data.chunks_exact(4).flat_map(|pixel| [pixel[2], pixel[1], pixel[0]]).collect();
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width.into(), height.into());
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_compression(png::Compression::High);
        encoder.write_header()?.write_image_data(&colours)?;
        Ok(bytes)
    }

    /// A connection, and the window that all others are in. Each namespace has displays of the same names.
    fn connect(&self) -> Result<(RustConnection, Window)> {
        self.namespace.in_network(|| {
            let (x, screen) = x11rb::connect(Some(&self.name))
                .with_context(|| format!("connecting to display {}", self.name))?;
            let root = x.setup().roots.get(screen).context("a display without a screen")?.root;
            Ok((x, root))
        })
    }
}

/// The visible window of this title.
fn visible(x: &RustConnection, root: Window, title: &str) -> Result<Option<Window>> {
    let windows = x.query_tree(root)?.reply()?.children;
    // A window may go away while we look.
    Ok(windows.into_iter().find(|window| is(x, *window, title).unwrap_or(false)))
}

/// Whether a window is visible and has this title.
fn is(x: &RustConnection, window: Window, title: &str) -> Result<bool> {
    let visible = x.get_window_attributes(window)?.reply()?.map_state == MapState::VIEWABLE;
    let found = x.get_property(false, window, AtomEnum::WM_NAME, AtomEnum::ANY, 0, 64)?.reply()?.value;
    Ok(visible && found == title.as_bytes())
}
